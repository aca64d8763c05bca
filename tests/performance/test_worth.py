"""Biases in posterior standard deviations, on draws whose bias is known."""

from __future__ import annotations

import numpy as np
import pytest
from worth import bias, draws_to_go, worth

SD = np.linspace(0.5, 3, 202)  # 200 log probabilities, log likelihood, log posterior


def drawn(seed, n_draws, shift=0.0):
    rng = np.random.default_rng(seed)
    return worth(SD * (rng.normal(size=(4, n_draws, SD.size)) + shift))


@pytest.fixture(scope="module")
def reference():
    return drawn(1, 5000)


def test_there_is_no_bias_where_there_is_none(reference):
    found = bias(drawn(2, 500), reference)
    # The mean of 200 squares has a standard error of a tenth: 4 of them.
    assert found.log_probs[0] < np.sqrt(0.4) * found.log_probs[1]
    assert found.log_probs[1] == pytest.approx(np.sqrt(1 / 2000 + 1 / 20_000), rel=0.05)
    for apart, error in (found.log_lik, found.log_posterior):
        assert abs(apart) < 4 * error


def test_a_bias_is_found_and_has_its_sign(reference):
    shift = np.full(SD.size, 0.3)
    shift[-2:] = -0.2, 0.4
    found = bias(drawn(3, 500, shift), reference)
    assert found.log_probs[0] == pytest.approx(0.3, abs=4 * found.log_probs[1] / np.sqrt(200))
    for (apart, error), expected in ((found.log_lik, -0.2), (found.log_posterior, 0.4)):
        assert abs(apart - expected) < 4 * error


def test_a_bias_below_the_monte_carlo_error_is_found_on_average(reference):
    error = bias(drawn(4, 100), reference).log_probs[1]
    found = [bias(drawn(5 + k, 100, error), reference).log_probs[0] for k in range(20)]
    assert np.mean(found) == pytest.approx(error, rel=0.1)


def test_the_log_likelihood_does_not_decide():
    found = worth(np.random.default_rng(1).normal(size=(4, 50, 3)))
    assert np.array_equal(found.counted, found.ess[[0, 2]])


@pytest.mark.parametrize(
    ("ess", "room", "expected"),
    [
        (200, 1e9, 110),  # as many again, and a tenth
        (399, 1e9, 10),  # not one by one
        (10, 1e9, 300),  # nobody knows yet
        (0, 1e9, 300),
        (200, 55.5, 55),
        (200, -3, 0),
    ],
)
def test_draws_to_go(ess, room, expected):
    assert draws_to_go(100, ess, 400, room) == expected
