"""An independent implementation, derivatives and all: every stage, every element."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax_gpt
import numpy as np
import pytest
from densities import compiled, stan_density
from problems import UNEQUAL_PRIORS

from gptbayes.model.simulate import prior_draws
from gptbayes.model.stan_data import stan_data

pytestmark = pytest.mark.usefixtures("programs")


def test_program_and_jax_define_the_same_posterior(problem, rng):
    """Value and the whole gradient at draws from the prior, with a weight that is not 1.

    An element of the gradient may differ by 1e-10 of itself plus, because terms cancel, 1e-13 of
    the largest element of its parameter, some hundred roundings.
    """
    problem = replace(problem, priors=UNEQUAL_PRIORS, likelihood_weight=0.7)
    model, n_draws = compiled(problem), 3
    stan = problem.stage.to_stan(prior_draws(problem, n_draws, rng), problem.design)
    value, gradient = in_jax(problem, stan)
    for i in range(n_draws):
        theirs = stan_density(model, problem, {name: draws[i] for name, draws in stan.items()})
        assert theirs.value == pytest.approx(value[i], abs=1e-10, rel=1e-12)
        for name, ours in gradient.items():
            noise = 1e-13 * np.abs(ours[i]).max()
            np.testing.assert_allclose(
                theirs.gradient[name], ours[i], rtol=1e-10, atol=noise, err_msg=name
            )


def in_jax(problem, stan):
    """Log densities and gradients of several draws, each with Stan's shapes."""
    data, number = stan_data(problem), int(problem.stage.number)

    def log_density(parameters):
        return jax_gpt.log_density(number, parameters, data)

    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(log_density)))(stan)
    assert value.dtype == np.float64
    return np.asarray(value), {name: np.asarray(each) for name, each in gradient.items()}
