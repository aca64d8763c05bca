"""Matrix groups: random elements, bases of their Lie algebras, and products with axes of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

LOG_SCALE_SD = 0.4
"""Standard deviation of the logarithms of random scales and singular values."""


class MatrixGroup(NamedTuple):
    """A group of k by k matrices.

    Attributes
    ----------
    random : callable
        ``random(k, shape, rng)`` gives random elements, ``(*shape, k, k)``.
    algebra : callable
        ``algebra(k)`` gives a basis of the Lie algebra, ``(dimension, k, k)``.
    """

    random: Callable[[int, tuple[int, ...], np.random.Generator], np.ndarray]
    algebra: Callable[[int], np.ndarray]


def multiply_axis(
    values: np.ndarray, matrix: np.ndarray, axis: int, n_dims: int, each: Sequence[int] = ()
) -> np.ndarray:
    """Multiply one axis of an array by a matrix, ``sum_i values[i] matrix[i, j]``.

    Parameters
    ----------
    values : ndarray, (..., n_dims dims)
    matrix : ndarray, (..., *each, k, k)
        Batch dims broadcast against those of the values.
    axis : int
        Counted from the end, of length k.
    n_dims : int
        Number of trailing dims of ``values`` that are not batch dims.
    each : sequence of int
        Axes, counted from the end, of which every index has a matrix of its own.

    Returns
    -------
    ndarray, (..., n_dims dims)
    """
    rest = [other for other in range(-n_dims, 0) if other not in (*each, axis)]
    order = [*each, *rest, axis]
    n_batch = values.ndim - n_dims
    moved = values.transpose(*range(n_batch), *(values.ndim + other for other in order))
    start = n_batch + len(each)
    shape = moved.shape
    product = moved.reshape(*shape[:start], math.prod(shape[start:-1]), shape[-1]) @ matrix
    product = product.reshape(*product.shape[:-2], *shape[start:])
    back = np.argsort(order)
    n_batch = product.ndim - n_dims
    return product.transpose(*range(n_batch), *(n_batch + back))


def one_for_each(basis: np.ndarray, each: tuple[int, ...]) -> np.ndarray:
    """Make a basis of the Lie algebra of several independent matrices from that of one.

    Parameters
    ----------
    basis : ndarray, (dimension, k, k)
    each : tuple of int
        Lengths of the axes of which every index has a matrix of its own.

    Returns
    -------
    ndarray, (n * dimension, *each, k, k)
        In every element all but one of the n matrices are zero.
    """
    n, k = math.prod(each), basis.shape[-1]
    one_hot = np.eye(n).reshape(n, 1, *each, 1, 1)
    found = one_hot * basis.reshape(1, len(basis), *(1,) * len(each), k, k)
    return found.reshape(-1, *each, k, k)


def _random_orthogonal(k, shape, rng):
    """Haar-distributed orthogonal matrices (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(*shape, k, k)))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _random_invertible(k, shape, rng):
    scales = np.exp(LOG_SCALE_SD * rng.normal(size=(*shape, k)))
    left, right = (_random_orthogonal(k, shape, rng) for _ in range(2))
    return (left * scales[..., None, :]) @ right


def _random_fixing_ones(k, shape, rng):
    plane = _complement_of_ones(k)
    return plane @ _random_orthogonal(k - 1, shape, rng) @ plane.T + 1 / k


def _all_matrices(k):
    return np.eye(k * k).reshape(k * k, k, k)


def _skew_symmetric(k):
    basis = np.zeros((k * (k - 1) // 2, k, k))
    for n, (i, j) in enumerate(combinations(range(k), 2)):
        basis[n, i, j], basis[n, j, i] = 1, -1
    return basis


def _skew_symmetric_fixing_ones(k):
    plane = _complement_of_ones(k)
    return plane @ _skew_symmetric(k - 1) @ plane.T


def _complement_of_ones(k):
    """An orthonormal basis of the complement of the vector of ones, (k, k - 1)."""
    return np.linalg.svd(np.eye(k) - 1 / k)[0][:, : k - 1]


GENERAL_LINEAR = MatrixGroup(_random_invertible, _all_matrices)
"""GL(k), the invertible matrices."""
ORTHOGONAL = MatrixGroup(_random_orthogonal, _skew_symmetric)
"""O(k), the orthogonal matrices."""
ORTHOGONAL_FIXING_ONES = MatrixGroup(_random_fixing_ones, _skew_symmetric_fixing_ones)
"""The orthogonal matrices that leave the vector of ones unchanged."""
