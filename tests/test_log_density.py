"""The log posterior and its gradient without Stan; `test_fit` holds the values to Stan's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import UNEQUAL_PRIORS, small_problem

from gptbayes.model.log_density import log_posterior, log_posterior_gradient, ravel, unravel
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES


@pytest.mark.parametrize("number", [*STAGES, "01-log-gamma"])
def test_values_and_slopes_along_random_directions(number, rng):
    problem = small_problem(number)
    if number in STAGES:
        problem = replace(problem, priors=UNEQUAL_PRIORS, likelihood_weight=0.7)
    stage, design = problem.stage, problem.design
    points = ravel(stage, prior_draws(problem, 3, rng))
    values, gradients = log_posterior_gradient(problem)(points)

    def value(at):
        return log_posterior(problem, unravel(stage, design, at))

    np.testing.assert_allclose(values, value(points), rtol=1e-12)
    along = rng.normal(size=points.shape)
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    slopes = (value(points + 1e-5 * along) - value(points - 1e-5 * along)) / 2e-5
    np.testing.assert_allclose((gradients * along).sum(axis=-1), slopes, rtol=1e-6, atol=1e-6)


def test_weights_in_a_row_come_back(problem, rng):
    draws = prior_draws(problem, 6, rng)
    draws = {name: value.reshape(2, 3, *value.shape[1:]) for name, value in draws.items()}
    rows = ravel(problem.stage, draws)
    assert rows.shape == (2, 3, problem.stage.n_parameters(problem.design))
    for name, value in unravel(problem.stage, problem.design, rows).items():
        np.testing.assert_array_equal(value, draws[name])
    with pytest.raises(ValueError, match=r"points must have \d+ weights, got"):
        unravel(problem.stage, problem.design, rows[..., 1:])
