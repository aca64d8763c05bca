"""The bricks once more, token by token: another way to the same posterior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from densities import compiled, stan_density
from problems import UNEQUAL_PRIORS, small_problem

from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import stan_folder

pytestmark = pytest.mark.usefixtures("programs")


@pytest.mark.parametrize("number", ["05", "12"])  # between them they have every brick
def test_loops_and_whole_matrices_define_the_same_posterior(number, rng):
    problem = replace(small_problem(number), priors=UNEQUAL_PRIORS, likelihood_weight=0.7)
    vectorised, looping = compiled(problem), compiled(problem, "loops")
    assert vectorised.exe_file != looping.exe_file
    stan = problem.stage.to_stan(prior_draws(problem, 3, rng), problem.design)
    for i in range(3):
        here = {name: draws[i] for name, draws in stan.items()}
        ours = stan_density(looping, problem, here)
        theirs = stan_density(vectorised, problem, here)
        assert ours.value == pytest.approx(theirs.value, rel=1e-10, abs=0)
        for name, gradient in theirs.gradient.items():
            noise = 1e-13 * np.abs(gradient).max()
            np.testing.assert_allclose(
                ours.gradient[name], gradient, rtol=1e-10, atol=noise, err_msg=name
            )


def test_loops_are_bricks_that_look_different():
    for path in (stan_folder() / "loops").iterdir():
        assert path.read_text() != (stan_folder() / "functions" / path.name).read_text()
