"""The blocks of a stage in numpy: the residual stream from the embedding to the logits.

Arrays are as in `gptbayes.model.layers`, B is the sequence, T the position and C ``n_embed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gptbayes.model.layers import (
    Attended,
    attention_weights,
    embed,
    feed_forward,
    layer_norm,
    linear,
    projected_heads,
    self_attention,
)
from gptbayes.model.stages import Masks, Stage


class Layer(NamedTuple):
    """The parameters of one layer, without their layer axis, and its dropout masks.

    Attributes
    ----------
    parameters : dict of str to ndarray
    masks : Masks, or None
        None also where all entries are one.
    """

    parameters: dict[str, np.ndarray]
    masks: Masks | None


def embed_tokens(
    stage: Stage, parameters: Mapping[str, np.ndarray], tokens: np.ndarray
) -> np.ndarray:
    """The residual stream before the first block.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    tokens : ndarray of int, (B, T) or (..., B, T)

    Returns
    -------
    ndarray, (..., B, T, C)

    Raises
    ------
    ValueError
        If the tokens have the wrong dims or too many positions, or if a stage with dropout has no
        masks.
    """
    tokens = np.asarray(tokens)
    if "dropout" in stage.features and stage.masks is None:
        raise ValueError(f"stage {stage.number} needs masks, see gptbayes.model.design.draw_masks")
    batch = parameters["token_embedding"].shape[:-2]
    if tokens.ndim != 2 and tokens.shape[:-2] != batch:
        raise ValueError(
            f"tokens must have shape (sequence, position) or {(*batch, 'sequence', 'position')}, "
            f"got {tokens.shape}"
        )
    if "position" not in stage.features:
        return embed(parameters["token_embedding"], None, tokens)
    block_size = parameters["position_embedding"].shape[-2]
    if tokens.shape[-1] > block_size:
        raise ValueError(
            f"tokens must have at most {block_size} positions, the block_size of the model, "
            f"got {tokens.shape[-1]}"
        )
    return embed(parameters["token_embedding"], parameters["position_embedding"], tokens)


def layers_of(stage: Stage, parameters: Mapping[str, np.ndarray]) -> list[Layer]:
    """Take the layers of a stage apart.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray

    Returns
    -------
    list of Layer
        Views of the parameters; empty for a stage without attention.
    """
    n_layer = parameters["key"].shape[-4] if "attention" in stage.features else 0
    return [
        Layer(_parameters_of(stage, parameters, layer), _masks_of(stage, layer))
        for layer in range(n_layer)
    ]


def attend(
    layer: Layer,
    stream: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
    n_queries: int | None = None,
    keep_weights: bool = False,
) -> Attended:
    """The heads of a layer.

    Parameters
    ----------
    layer : Layer
    stream : ndarray, (..., B, T, C)
        Before the block.
    blocked, n_queries, keep_weights
        As for `gptbayes.model.layers.self_attention`.

    Returns
    -------
    Attended
    """
    return self_attention(
        _normed(layer, "ln1", stream),
        layer.parameters,
        layer.masks,
        blocked=blocked,
        n_queries=n_queries,
        keep_weights=keep_weights,
    )


def attention_of_layer(layer: Layer, stream: np.ndarray) -> np.ndarray:
    """The attention weights of a layer, without the sums of values that they are for.

    Parameters
    ----------
    layer : Layer
    stream : ndarray, (..., B, T, C)
        Before the block.

    Returns
    -------
    ndarray, (..., head, B, query_position, key_position)
        After the dropout mask.
    """
    x, p = _normed(layer, "ln1", stream), layer.parameters
    weights = attention_weights(*projected_heads(x, p, ("query", "key")))
    if layer.masks is not None:
        n = x.shape[-2]
        weights *= layer.masks.attention[:, None, :n, :n]
    return weights


def after_attention(
    stage: Stage, layer: Layer, stream: np.ndarray, heads: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """The rest of a block: projection of the heads, and the feed-forward layer.

    Parameters
    ----------
    stage : Stage
    layer : Layer
    stream : ndarray, (..., B, T, C)
        Before the block.
    heads : ndarray, (..., B, query_position, H, h)
        Of the last positions, as of `attend`.

    Returns
    -------
    tuple of ndarray
        The stream at the query positions, and the hidden units after the ReLU or None.
    """
    p, masks, residual = layer.parameters, layer.masks, "residual" in stage.features
    out = heads.reshape(*heads.shape[:-2], -1)  # (..., B, T, C)
    if "sa_proj_multiplier" in p:
        multiplier = p["sa_proj_multiplier"]  # (..., C, H, h)
        multiplier = multiplier.reshape(*multiplier.shape[:-2], -1)
        out = linear(out, multiplier, p["sa_proj_offset"])
    if masks is not None:
        out = out * masks.attention_output
    stream = out + stream[..., stream.shape[-2] - out.shape[-2] :, :] if residual else out
    if "feed_forward" not in stage.features:
        return stream, None
    out, hidden = feed_forward(_normed(layer, "ln2", stream), p, masks)
    return out + stream if residual else out, hidden


def logits_of(stage: Stage, parameters: Mapping[str, np.ndarray], stream: np.ndarray) -> np.ndarray:
    """Logits of the residual stream after the last block.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    stream : ndarray, (..., B, T, C)

    Returns
    -------
    ndarray, (..., B, T, token)
    """
    if "blocks" in stage.features:
        stream = layer_norm(stream, parameters["ln_f_weight"], parameters["ln_f_bias"])
    if "lm_head" not in stage.features:
        return stream
    return linear(stream, parameters["lm_head_multiplier"], parameters["lm_head_offset"])


def _normed(layer, name, stream):
    p = layer.parameters
    if f"{name}_weight" not in p:
        return stream
    return layer_norm(stream, p[f"{name}_weight"], p[f"{name}_bias"])


def _parameters_of(stage, parameters, layer):
    return {
        p.name: parameters[p.name][..., layer, *(slice(None) for _ in p.dims[1:])]  # a view
        for p in stage.parameters
        if p.dims[0] == "layer"
    }


def _masks_of(stage, layer):
    if stage.masks is None:
        return None
    masks = Masks(*(mask[layer] for mask in stage.masks))
    return masks if any((each != 1).any() for each in masks) else None
