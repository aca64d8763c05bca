"""The gradient in JAX, of the model in `tests/jax_gpt.py`.

In a compiled loop it does nothing but gradients and steps, as a sampler written in JAX does; called
one by one, each goes through Python and hands over every parameter, as a sampler outside does.
"""

from __future__ import annotations

import jax
import jax_gpt
import numpy as np
from densities import Density
from measure import Peer, processor_seconds

from gptbayes.model.stan_data import stan_data

STEP = 1e-12  # not 0, so that no gradient can be computed once for all
HUGE = 2.0**30  # a step that leaves of the sum the gradient alone


def peers(problem, parameters) -> list[Peer]:
    """In a loop, and call by call."""
    number, data = int(problem.stage.number[:2]), stan_data(problem)
    gradient = jax.value_and_grad(lambda p: jax_gpt.log_density(number, p, data))

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
        return Density(float(value), {name: np.asarray(g) for name, g in slope.items()})

    def density_in_loop():
        moved, value = loop(point, 1, HUGE)
        slope = {name: (np.asarray(moved[name]) - parameters[name]) / HUGE for name in parameters}
        return Density(float(value), slope)

    def in_loop(n):
        return processor_seconds(lambda: jax.block_until_ready(loop(point, n, STEP))) / n

    def call_by_call(n):
        def calls():
            for _ in range(n):
                jax.block_until_ready(one(point))

        return processor_seconds(calls) / n

    return [
        Peer("JAX, in a compiled loop", density_in_loop, in_loop),
        Peer("JAX, call by call", density, call_by_call),
    ]
