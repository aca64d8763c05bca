"""The kernels as a function of JAX: values, gradients, batches, masks; skipped without JAX."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import UNEQUAL_PRIORS, small_problem

from gptbayes.model.log_density import log_posterior_gradient, ravel
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES

jax = pytest.importorskip("jax", reason="JAX is in the extra test")
jax.config.update("jax_enable_x64", True)

from gptbayes.model.jax_density import jax_log_posterior  # noqa: E402


@pytest.mark.parametrize("number", STAGES)
def test_values_and_gradients_are_those_of_the_kernels(number, rng):
    """One point, and many by vmap under jit."""
    problem = small_problem(number)
    problem = replace(problem, priors=UNEQUAL_PRIORS, likelihood_weight=0.7)
    points = ravel(problem.stage, prior_draws(problem, 5, rng))
    values, gradients = log_posterior_gradient(problem)(points)
    function = jax_log_posterior(problem)
    np.testing.assert_allclose(function(points[2]), values[2], rtol=1e-13)
    value, gradient = jax.value_and_grad(function)(points[1])
    np.testing.assert_allclose(value, values[1], rtol=1e-13)
    np.testing.assert_allclose(gradient, gradients[1], rtol=1e-11, atol=1e-12)
    both = jax.jit(jax.vmap(jax.value_and_grad(function)))(points)
    np.testing.assert_allclose(both[0], values, rtol=1e-13)
    np.testing.assert_allclose(both[1], gradients, rtol=1e-11, atol=1e-12)


def test_a_scan_runs_on_it(rng):
    """Twenty leapfrog steps keep the energy: what a sampler does, without one."""
    problem = small_problem("05")
    point = ravel(problem.stage, prior_draws(problem, 1, rng))[0]
    function = jax_log_posterior(problem)
    gradient, step = jax.grad(function), 1e-3
    momentum = rng.normal(size=point.shape)

    def leapfrog(state, _):
        q, p = state
        p = p + 0.5 * step * gradient(q)
        q = q + step * p
        return (q, p + 0.5 * step * gradient(q)), None

    (q, p), _ = jax.jit(lambda s: jax.lax.scan(leapfrog, s, length=20))((point, momentum))
    before = function(point) - 0.5 * (momentum**2).sum()
    after = function(q) - 0.5 * (p**2).sum()
    assert abs(float(after - before)) < 1e-3
    assert float(abs(q - point).max()) > 1e-3


def test_what_cannot_be_is_refused(rng):
    problem = small_problem("01-log-gamma")
    with pytest.raises(ValueError, match="01-log-gamma has no normal prior"):
        jax_log_posterior(problem)
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="JAX must compute with 64 bits"):
            jax_log_posterior(small_problem("05"))
    finally:
        jax.config.update("jax_enable_x64", True)
