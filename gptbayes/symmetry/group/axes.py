"""Multiply, join and split axes of parameters with leading batch dims."""

from __future__ import annotations

import math

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage


def multiply_axis(values: np.ndarray, matrix: np.ndarray, axis: int, n_dims: int) -> np.ndarray:
    """Multiply one axis of a parameter by a matrix, ``sum_i values[i] matrix[i, j]``.

    Parameters
    ----------
    values : ndarray, (..., n_dims dims)
    matrix : ndarray, (..., k, k)
    axis : int
        Negative.
    n_dims : int
        Number of trailing dims of ``values`` that are not batch dims.

    Returns
    -------
    ndarray
    """
    moved = np.moveaxis(values, axis, -1)
    batch, dims = moved.shape[: moved.ndim - n_dims], moved.shape[moved.ndim - n_dims :]
    product = moved.reshape(*batch, math.prod(dims[:-1]), dims[-1]) @ matrix
    product = product.reshape(*product.shape[:-2], *dims)
    return np.moveaxis(product, -1, axis)


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
        As for `multiply_axis`, of the parameter that reads the layer norm.
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
