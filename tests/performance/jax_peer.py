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

from gptbayes.standata import stan_data

STEP = 1e-12  # so that no gradient can be computed once for all


def peers(problem, parameters, folder) -> list[Peer]:
    """In a loop, and call by call."""
    number, data = int(problem.stage.number[:2]), stan_data(problem)
    gradient = jax.value_and_grad(lambda p: jax_gpt.log_density(number, p, data))

    def step(_, state):
        point, total = state
        value, slope = gradient(point)
        return jax.tree.map(lambda p, g: p + STEP * g, point, slope), total + value

    point = jax.device_put(parameters)
    loop = jax.jit(lambda p, n: jax.lax.fori_loop(0, n, step, (p, 0.0))).lower(point, 1).compile()
    one = jax.jit(gradient).lower(point).compile()

    def density():
        value, slope = one(point)
        return Density(float(value), {name: np.asarray(g) for name, g in slope.items()})

    def density_in_loop():
        moved, value = loop(point, 1)
        found = density()  # the loop returns no gradient but a step, which has fewer digits
        for name, g in found.gradient.items():
            step_taken = np.asarray(moved[name]) - parameters[name]
            np.testing.assert_allclose(step_taken, STEP * g, rtol=0, atol=1e-15)
        return Density(float(value), found.gradient)

    def in_loop(n):
        return processor_seconds(lambda: jax.block_until_ready(loop(point, n))) / n

    def call_by_call(n):
        def calls():
            for _ in range(n):
                jax.block_until_ready(one(point))

        return processor_seconds(calls) / n

    return [
        Peer("JAX, in a compiled loop", density_in_loop, in_loop),
        Peer("JAX, call by call", density, call_by_call),
    ]
