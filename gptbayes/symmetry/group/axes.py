"""Join and split axes of parameters with leading batch dims, and find their sizes."""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage


def concatenate_heads(per_head: np.ndarray) -> np.ndarray:
    """Put the columns of all heads side by side.

    Parameters
    ----------
    per_head : ndarray, (..., head, row, head_dim)

    Returns
    -------
    ndarray, (..., row, head * head_dim)
    """
    columns = np.moveaxis(per_head, -3, -2)
    return columns.reshape(*columns.shape[:-2], -1)


def split_heads(columns: np.ndarray, n_head: int, head_dim: int) -> np.ndarray:
    """The inverse of `concatenate_heads`.

    Parameters
    ----------
    columns : ndarray, (..., row, head * head_dim)
    n_head, head_dim : int

    Returns
    -------
    ndarray, (..., head, row, head_dim)
    """
    split = columns.reshape(*columns.shape[:-1], n_head, head_dim)
    return np.moveaxis(split, -2, -3)


def gain_on_axis(gain: np.ndarray, axis: int, n_dims: int, stage: Stage, norm: str) -> np.ndarray:
    """Reshape the gain of a layer norm so that it multiplies one axis of a parameter.

    Parameters
    ----------
    gain : ndarray, (..., layer, embed) or, for the final layer norm, (..., embed)
    axis, n_dims : int
        As for `gptbayes.symmetry.matrices.multiply_axis`, of the parameter that reads the layer
        norm.
    stage : Stage
    norm : {"ln1", "ln2", "ln_f"}

    Returns
    -------
    ndarray, (..., n_dims dims)
        With length one on all dims other than ``axis`` and layer.
    """
    n_own = len(stage.parameter(f"{norm}_weight").dims)
    shape = [1] * n_dims
    shape[axis] = gain.shape[-1]
    if n_own == 2:
        shape[0] = gain.shape[-2]
    return gain.reshape(*gain.shape[: gain.ndim - n_own], *shape)


def sizes_of(stage: Stage, parameters: Parameters) -> dict[str, int]:
    """Length of every dim of the parameters, from their shapes.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Returns
    -------
    dict of str to int
    """
    sizes: dict[str, int] = {}
    for p in stage.parameters:
        shape = parameters[p.name].shape
        sizes |= dict(zip(p.dims, shape[len(shape) - len(p.dims) :], strict=True))
    return sizes
