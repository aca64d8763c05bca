"""The gradient in JAX, of the model in `tests/jax_gpt.py`, and that of our kernels through JAX.

In a compiled loop it does nothing but gradients and steps, as a sampler written in JAX does; called
one by one, each goes through Python and hands over every parameter, as a sampler outside does.
"""

from __future__ import annotations

import jax
import jax_gpt
import numpy as np
from densities import Density
from measure import Peer, processor_seconds

from gptbayes.model.jax_density import jax_log_posterior
from gptbayes.model.log_density import ravel, unravel
from gptbayes.model.stan_data import stan_data

STEP = 1e-12  # not 0, so that no gradient can be computed once for all
HUGE = 2.0**30  # a step that leaves of the sum the gradient alone


def peers(problem, parameters) -> list[Peer]:
    """Of each density, in a loop and call by call."""
    stage, design = problem.stage, problem.design
    number, data = int(stage.number[:2]), stan_data(problem)
    point = ravel(stage, stage.from_stan(parameters, design))

    def with_stan_shapes(slope):
        return stage.to_stan(unravel(stage, design, np.asarray(slope)), design)

    return [
        *_peers("JAX", lambda p: jax_gpt.log_density(number, p, data), parameters, _arrays),
        *_peers("ours in JAX", jax_log_posterior(problem), point, with_stan_shapes),
    ]


def _arrays(slope):
    return {name: np.asarray(g) for name, g in slope.items()}


def _peers(name, log_density, parameters, named):
    """Of a density of a pytree; ``named`` makes the gradient a dict of arrays."""
    gradient = jax.value_and_grad(log_density)

    def run(point, n, size):
        def step(_, state):
            point, total = state
            value, slope = gradient(point)
            return jax.tree.map(lambda p, g: p + size * g, point, slope), total + value

        return jax.lax.fori_loop(0, n, step, (point, 0.0))

    point = jax.device_put(parameters)
    loop = jax.jit(run).lower(point, 1, STEP).compile()
    one = jax.jit(gradient).lower(point).compile()

    def density():
        value, slope = one(point)
        return Density(float(value), named(slope))

    def density_in_loop():
        moved, value = loop(point, 1, HUGE)
        slope = jax.tree.map(lambda m, p: (np.asarray(m) - p) / HUGE, moved, parameters)
        return Density(float(value), named(slope))

    def in_loop(n):
        return processor_seconds(lambda: jax.block_until_ready(loop(point, n, STEP))) / n

    def call_by_call(n):
        def calls():
            for _ in range(n):
                jax.block_until_ready(one(point))

        return processor_seconds(calls) / n

    return [
        Peer(f"{name}, in a compiled loop", density_in_loop, in_loop),
        Peer(f"{name}, call by call", density, call_by_call),
    ]
