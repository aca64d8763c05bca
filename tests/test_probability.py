"""Probabilities from draws, and their Monte Carlo errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from gptbayes.stats.probability import prob_greater, probability


def test_probability_of_independent_events(rng):
    events = xr.DataArray(rng.random((4, 1000, 2)) < [0.3, 0.0], dims=("chain", "draw", "event"))
    found = probability(events)
    assert abs(found["probability"][0] - 0.3) < 4 * found["mcse"][0]
    np.testing.assert_allclose(found["mcse"][0], np.sqrt(0.3 * 0.7 / 4000), rtol=0.15)
    assert found["probability"][1] == 0
    np.testing.assert_allclose(found["mcse"][1], np.sqrt(0.5) / 4000, rtol=0.01)
    fewer = probability(events, effective=xr.DataArray([10.0, 10.0], dims="event"))
    assert fewer["mcse"][1] > 50 * found["mcse"][1]  # one that never happens says how often asked
    assert fewer["mcse"][0] == found["mcse"][0]


def test_probability_of_a_larger_draw_and_its_error(rng):
    """Normals one sd apart: Φ(1/√2), and the errors of 200 repetitions are what is stated."""
    shift = xr.DataArray(np.full(200, 1.0), dims="repetition")
    noise = [rng.normal(size=(2, 100, 200)), rng.normal(size=(1, 150, 200))]
    ours, theirs = (xr.DataArray(each, dims=("chain", "draw", "repetition")) for each in noise)
    found = prob_greater(ours + shift, theirs)
    expected = norm.cdf(1 / np.sqrt(2))
    error = found["probability"] - expected
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(200)
    np.testing.assert_allclose(found["mcse"].mean(), error.std(), rtol=0.2)
    same = xr.zeros_like(ours)
    assert (prob_greater(same, xr.zeros_like(theirs))["probability"] == 0.5).all()


@pytest.mark.parametrize("sizes", [((3, 7), (2, 11)), ((1, 5), (3, 4))])
def test_projections_against_counting(rng, sizes):
    """With ties, and where there is nothing to compare."""
    one, other = (
        xr.DataArray(rng.integers(5, size=(*size, 13)).astype(float), dims=("chain", "draw", "x"))
        for size in sizes
    )
    one[..., 3] = np.nan
    pairs = one.values.reshape(-1, 1, 13), other.values.reshape(1, -1, 13)
    expected = ((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1])).mean(axis=(0, 1))
    expected[3] = np.nan
    np.testing.assert_allclose(prob_greater(one, other)["probability"], expected, rtol=1e-12)
    assert (np.delete(prob_greater(one, other)["mcse"].values, 3) > 0).all()
