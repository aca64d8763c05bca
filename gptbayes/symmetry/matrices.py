"""Matrix groups: random elements, and bases of their Lie algebras."""

from __future__ import annotations

from collections.abc import Callable
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
