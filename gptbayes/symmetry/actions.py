"""The part of the symmetry group that likelihood and prior both keep, as functions of draws.

Complete for stages 01 to 05; from 06 on the ReLU ties the stream to its basis, and only query-key
rotations are here yet. Each action maps parameters to parameters with the same logits at every
context and, being orthogonal or a permutation within families of one prior scale, the same prior
density: the posterior itself is invariant. Conventions are those of `gptbayes.forward`: vectors
are rows, so that a rotation of the stream acts from the right on embeddings and from the left,
transposed, on what reads them. Batch dims ``(...)`` of parameters and group elements broadcast.
"""

from __future__ import annotations

import numpy as np

from gptbayes.forward import Parameters
from gptbayes.stages import Stage


def symmetries(stage: Stage) -> tuple[str, ...]:
    """Which of the actions below are symmetries of a stage, by name."""
    if "feed_forward" in stage.features:
        return ("rotate_query_key",)
    names = []
    if "lm_head" in stage.features:
        names.append("rotate_stream")
    if "attention" in stage.features:
        names += ["rotate_query_key", "rotate_value"]
    if "multi_head" in stage.features:
        names.append("permute_heads")
    return tuple(names)


def rotate_stream(stage: Stage, parameters: Parameters, rotation: np.ndarray) -> dict:
    """Change the orthonormal basis of the stream that embeddings write and heads read.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    rotation : ndarray, (..., embed, embed)
        Orthogonal.

    Returns
    -------
    dict of str to ndarray
    """
    rotated = dict(parameters)
    readers = ("key", "query", "value") if "attention" in stage.features else ()
    inverse = np.swapaxes(rotation, -1, -2)[..., None, None, :, :]  # one for all heads
    for name in readers:
        rotated[name] = inverse @ parameters[name]
    for name in ("token_embedding", "position_embedding"):
        if name in parameters:
            rotated[name] = parameters[name] @ rotation
    if not readers:
        rotated["lm_head_multiplier"] = parameters["lm_head_multiplier"] @ rotation
    return rotated


def rotate_query_key(parameters: Parameters, rotation: np.ndarray) -> dict:
    """Change the basis in which a head compares queries with keys.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    rotation : ndarray, (..., layer, head, head_dim, head_dim)
        Orthogonal, one per head.

    Returns
    -------
    dict of str to ndarray
    """
    return {
        **parameters,
        "key": parameters["key"] @ rotation,
        "query": parameters["query"] @ rotation,
    }


def rotate_value(parameters: Parameters, rotation: np.ndarray) -> dict:
    """Change the basis in which a head passes on what it read.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    rotation : ndarray, (..., layer, head, head_dim, head_dim)
        Orthogonal, one per head.

    Returns
    -------
    dict of str to ndarray
    """
    readout = head_readout(parameters) @ rotation[..., 0, :, :, :]
    return {
        **parameters,
        "value": parameters["value"] @ rotation,
        "lm_head_multiplier": _side_by_side(readout),
    }


def permute_heads(parameters: Parameters, permutation: np.ndarray) -> dict:
    """Put heads in another order, with all that belongs to them.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    permutation : ndarray of int, (..., head)
        New head ``i`` is the old head ``permutation[..., i]``. One layer.

    Returns
    -------
    dict of str to ndarray
    """
    permuted = dict(parameters)
    for name in ("key", "query", "value"):
        at = permutation[..., None, :, None, None]
        permuted[name] = np.take_along_axis(parameters[name], at, axis=-3)
    readout = np.take_along_axis(head_readout(parameters), permutation[..., None, None], axis=-3)
    permuted["lm_head_multiplier"] = _side_by_side(readout)
    return permuted


def head_readout(parameters: Parameters) -> np.ndarray:
    """The columns of the head multiplier that read each attention head's output.

    Returns
    -------
    ndarray, (..., head, token, head_dim)
    """
    multiplier = parameters["lm_head_multiplier"]  # (..., V, H h)
    n_head, _, head_dim = parameters["value"].shape[-3:]
    split = multiplier.reshape(*multiplier.shape[:-1], n_head, head_dim)
    return np.moveaxis(split, -2, -3)


def _side_by_side(readout):
    columns = np.moveaxis(readout, -3, -2)  # (..., V, H, h)
    return columns.reshape(*columns.shape[:-2], -1)
