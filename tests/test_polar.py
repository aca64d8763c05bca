"""Polar factors and nuclear norms agree with singular value decompositions."""

from __future__ import annotations

import numpy as np
import pytest

from gptbayes.symmetry.elements import _permuted
from gptbayes.symmetry.polar import nearest_orthogonal, nuclear_norm


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_polar_factors_are_those_of_singular_vectors(rng, k):
    matrices = rng.normal(size=(11, 13, k, k)) * np.exp(rng.normal(0, 5, size=(11, 13, 1, 1)))
    left, values, right = np.linalg.svd(matrices)
    # The factor of a nearly singular matrix depends on rounding errors.
    condition = values[..., 0] / values[..., -1]
    error = abs(nearest_orthogonal(matrices) - left @ right).max(axis=(-1, -2))
    assert (error < 1e-13 * (1 + condition)).all()
    np.testing.assert_allclose(nuclear_norm(matrices), values.sum(axis=-1), rtol=1e-13)


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-6, 1e-12])
def test_nearly_singular_matrices(rng, smallest):
    left, right = (np.linalg.qr(rng.normal(size=(17, 3, 3)))[0] for _ in range(2))
    matrices = (left * [1.0, 0.3, smallest]) @ right
    found = nearest_orthogonal(matrices)
    assert abs(found - left @ right).max() < 1e-14 / smallest
    assert abs(found @ found.swapaxes(-1, -2) - np.eye(3)).max() < 1e-13
    np.testing.assert_allclose(nuclear_norm(matrices), 1.3 + smallest, rtol=1e-13)


def test_singular_matrices_have_an_orthogonal_factor():
    matrices = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.diag([2.0, -5.0, 0.0])])
    found = nearest_orthogonal(matrices)
    assert abs(found @ found.swapaxes(-1, -2) - np.eye(3)).max() < 1e-13
    np.testing.assert_allclose(nuclear_norm(matrices), [0, 3, 7], atol=1e-13)
    assert nearest_orthogonal(np.empty((0, 5, 5))).shape == (0, 5, 5)


@pytest.mark.parametrize("shape, axis", [((7, 5, 1, 1), -3), ((7, 5, 2, 1), -3), ((1, 5, 2), -2)])
def test_items_are_permuted_as_by_take_along_axis(rng, shape, axis):
    values = rng.normal(size=(3, 7, 5, 2, 11)[: len(shape) + 1])
    at = rng.permuted(np.broadcast_to(np.arange(5), (3, *np.delete(shape, axis), 5)), axis=-1)
    at = np.moveaxis(at, -1, axis)
    np.testing.assert_array_equal(
        _permuted(values, at, axis), np.take_along_axis(values, at, axis=axis)
    )
