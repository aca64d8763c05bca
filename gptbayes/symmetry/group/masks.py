"""Which symmetries the dropout masks of stages 11 and 12 leave intact.

Masks are data. Two heads or two coordinates of the residual stream can be exchanged only where
their masks are equal, and weights that only reach dropped coordinates are free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import heads_write_stream, stream_writers

Allowed = Callable[[Stage, Mapping[str, int]], np.ndarray]
"""``allowed(stage, sizes)`` is a bool array: the components of an element that are free."""


def stream_classes(stage: Stage, n_embed: int) -> np.ndarray:
    """Equivalence classes of the coordinates of the residual stream under the masks.

    Parameters
    ----------
    stage : Stage
    n_embed : int

    Returns
    -------
    ndarray of int, (embed,)
        Coordinates with equal labels have equal masks in every layer.
    """
    if stage.masks is None:
        return np.zeros(n_embed, dtype=int)
    both = np.concatenate([stage.masks.attention_output, stage.masks.feed_forward])
    return np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)


def head_classes(stage: Stage, n_layer: int, n_head: int) -> np.ndarray:
    """Equivalence classes of heads under the masks on attention weights.

    Parameters
    ----------
    stage : Stage
    n_layer, n_head : int

    Returns
    -------
    ndarray of int, (layer, head)
        Heads with equal labels have equal masks.
    """
    if stage.masks is None:
        return np.zeros((n_layer, n_head), dtype=int)
    mask = np.asarray(stage.masks.attention)
    causal = np.where(np.tri(mask.shape[-1], dtype=bool), mask, 0)
    rows = causal.reshape(n_layer * n_head, -1)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(n_layer, n_head)


def stream_blocks(stage: Stage, n_embed: int, n_head: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of coordinates of the residual stream that permutations keep together.

    Parameters
    ----------
    stage : Stage
    n_embed, n_head : int

    Returns
    -------
    blocks : ndarray of int, (block,)
        Blocks with equal labels may be exchanged.
    within : ndarray of int, (block, coordinate of the block)
        Coordinates with equal labels may be exchanged within a block and between such blocks.
    """
    labels = stream_classes(stage, n_embed)
    if not heads_write_stream(stage):
        return np.zeros(1, dtype=int), labels[None]
    within = labels.reshape(n_head, -1)
    n_layer = 1 if stage.masks is None else np.shape(stage.masks.attention)[0]
    heads = head_classes(stage, n_layer, n_head)
    signature = np.concatenate([np.sort(within, axis=1), heads.T], axis=1)
    return np.unique(signature, axis=0, return_inverse=True)[1].reshape(-1), within


def has_stream_permutations(stage: Stage) -> bool:
    """Whether the masks leave any coordinates of the residual stream to exchange.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    bool
    """
    if stage.masks is None:
        return True
    n_head = np.shape(stage.masks.attention)[1]
    n_embed = np.shape(stage.masks.feed_forward)[1]
    blocks, within = stream_blocks(stage, n_embed, n_head)
    distinct = all(len(np.unique(row)) == len(row) for row in within)
    return not distinct or len(np.unique(blocks)) < len(blocks)


def has_head_permutations(stage: Stage) -> bool:
    """Whether the masks leave any heads to exchange.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    bool
    """
    if stage.masks is None:
        return True
    n_layer, n_head = np.shape(stage.masks.attention)[:2]
    labels = head_classes(stage, n_layer, n_head)
    return any(len(np.unique(row)) < n_head for row in labels)


def attention_row_sums(stage: Stage) -> np.ndarray | None:
    """Sum of each row of attention weights after dropout, where it is the same for all rows.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    ndarray, (layer, head), or None without masks
        nan for heads whose mask is not constant.
    """
    if stage.masks is None:
        return None
    mask = np.asarray(stage.masks.attention)
    n = mask.shape[-1]
    first = mask[..., 0, 0]
    same = np.where(np.tri(n, dtype=bool), mask, first[..., None, None]) == first[..., None, None]
    return np.where(same.all(axis=(-1, -2)), first, np.nan)


def heads_with_constant_mask(stage: Stage, sizes: Mapping[str, int]) -> np.ndarray:
    """Heads whose attention weights have the same sum in every row.

    Parameters
    ----------
    stage : Stage
    sizes : mapping of str to int
        Length of every dim.

    Returns
    -------
    ndarray of bool, (layer, head, head_dim)
    """
    total = attention_row_sums(stage)
    full = (sizes["layer"], sizes["head"], sizes["head_dim"])
    constant = np.ones(full[:2], dtype=bool) if total is None else np.isfinite(total)
    return np.broadcast_to(constant[..., None], full)


def layers_with_equal_heads(stage: Stage, sizes: Mapping[str, int]) -> np.ndarray:
    """Layers whose heads all have one mask, and whose output mask is constant.

    Parameters
    ----------
    stage : Stage
    sizes : mapping of str to int
        Length of every dim.

    Returns
    -------
    ndarray of bool, (layer,)
    """
    labels = head_classes(stage, sizes["layer"], sizes["head"])
    same = (labels == labels[:, :1]).all(axis=1)
    return same & layers_with_constant_output_mask(stage, "value", sizes["layer"])


def layers_with_constant_output_mask(stage: Stage, name: str, n_layer: int) -> np.ndarray:
    """Layers in which the mask on the output of a parameter is the same for all coordinates.

    Parameters
    ----------
    stage : Stage
    name : str
        A parameter of attention or of the feed-forward layer.
    n_layer : int

    Returns
    -------
    ndarray of bool, (layer,)
    """
    if stage.masks is None:
        return np.ones(n_layer, dtype=bool)
    mask = np.asarray(output_mask(stage, name))
    return (mask == mask[:, :1]).all(axis=1)


def dropped_elements(stage: Stage, name: str, full: tuple[int, ...]) -> np.ndarray:
    """Elements of a parameter that write to dropped coordinates only.

    Parameters
    ----------
    stage : Stage
        With its masks.
    name : str
        A parameter that writes to the residual stream, or "value" where heads do.
    full : tuple of int
        Shape of the parameter.

    Returns
    -------
    ndarray of bool, of shape ``full``
    """
    dropped = np.asarray(output_mask(stage, name)) == 0  # (layer, embed)
    if name == "value":
        n_layer, n_head, _, head_dim = full
        return np.broadcast_to(dropped.reshape(n_layer, n_head, 1, head_dim), full)
    axis = dict(stream_writers(stage))[name]
    shape = [1] * len(full)
    shape[0], shape[axis] = dropped.shape
    return np.broadcast_to(dropped.reshape(shape), full)


def output_mask(stage: Stage, name: str) -> np.ndarray:
    """The mask on the output of attention or of the feed-forward layer.

    Parameters
    ----------
    stage : Stage
        With its masks.
    name : str
        A parameter of attention or of the feed-forward layer.

    Returns
    -------
    ndarray, (layer, embed)

    Raises
    ------
    ValueError
        If the stage has no masks.
    """
    if stage.masks is None:
        raise ValueError(f"output_mask needs a stage with masks, got stage {stage.number}")
    return stage.masks.feed_forward if name.startswith("feed") else stage.masks.attention_output


def any_allowed(stage: Stage, allowed: Allowed) -> bool:
    """Whether the masks leave any component of the elements of a generator free.

    Parameters
    ----------
    stage : Stage
    allowed : callable
        As `Allowed`.

    Returns
    -------
    bool
    """
    if stage.masks is None:
        return True
    layer, head, position, _ = np.shape(stage.masks.attention)
    embed = np.shape(stage.masks.feed_forward)[1]
    sizes = {"layer": layer, "head": head, "position": position, "embed": embed}
    return bool(allowed(stage, {**sizes, "head_dim": embed // head, "hidden": 4 * embed}).any())
