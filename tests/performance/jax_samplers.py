"""NumPyro and BlackJAX, on our kernels and on JAX's own density.

On our kernels, samplers are compared on one gradient. NUTS adapts a diagonal metric here. MCLMC and
its adjusted form, MAMS, are tuned by BlackJAX's own functions; a step of their integrator takes two
gradients, and every tenth and every fifth of their states is a draw.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from posteriors import Posterior
from samplers import MAX_DEPTH, TARGET, WARMUP, Piece, Sampler, processor_seconds

TOLERANCES = (5e-4, 5e-5)
"""Of MCLMC: variance of the energy's error per weight. The first is BlackJAX's default."""
STEPS, TRANSITIONS = 20_000, 10_000
"""Of a chain of MCLMC and of MAMS, by which BlackJAX sets the length of tuning: a third of them."""
ACCEPTANCE, TRAJECTORY = 0.9, 2.0
"""Of MAMS: target of Robnik et al. (2025), and BlackJAX's default of steps per transition."""
CHUNK = 25
"""Draws that a compiled function returns."""
GRADIENTS_PER_STEP = 2


def kinds() -> dict[str, Callable[[Posterior], Sampler]]:
    """What makes each of them from a density, by name."""
    return {
        "NumPyro NUTS": _numpyro,
        "BlackJAX NUTS": _blackjax,
        **{f"BlackJAX MCLMC {t:.0e}": partial(_mclmc, tolerance=t) for t in TOLERANCES},
        "BlackJAX MAMS": _mams,
    }


def _numpyro(target):
    import jax
    from numpyro.infer import NUTS

    log_density = target.log_density
    kernel = NUTS(
        potential_fn=lambda p: -log_density(p),
        target_accept_prob=TARGET,
        max_tree_depth=MAX_DEPTH,
    )

    def draw(state, _):
        state = kernel.sample(state, (), {})
        return state, (state.z, state.num_steps, state.diverging)

    def begin(key, position):
        state = kernel.init(key, WARMUP, position)
        state, (_, steps, _) = jax.lax.scan(draw, state, length=WARMUP)
        return state, steps.sum()

    # What `init` leaves in the kernel must not be a part of the function that is compiled.
    return _in_jax(begin, draw, target, 100, lambda: kernel.init(_key(0), WARMUP, target.point(0)))


def _blackjax(target):
    import blackjax
    import jax

    log_density = target.log_density

    def begin(key, position):
        warmup = blackjax.window_adaptation(
            blackjax.nuts,
            log_density,
            target_acceptance_rate=TARGET,
            max_num_doublings=MAX_DEPTH,
        )
        (state, adapted), told = warmup.run(key, position, WARMUP)
        found = {name: adapted[name] for name in ("step_size", "inverse_mass_matrix")}
        return (state, found, key), told.info.num_integration_steps.sum()

    def draw(carried, _):
        state, found, key = carried
        key, now = jax.random.split(key)
        nuts = blackjax.nuts(log_density, max_num_doublings=MAX_DEPTH, **found)
        state, told = nuts.step(now, state)
        output = (state.position, told.num_integration_steps, told.is_divergent)
        return (state, found, key), output

    return _in_jax(begin, draw, target, 100)


def _mclmc(target, tolerance):
    import blackjax
    import jax

    log_density = target.log_density
    kernel = blackjax.mcmc.mclmc.build_kernel()

    def begin(key, position):
        first, second, third = jax.random.split(key, 3)
        state = blackjax.mcmc.mclmc.init(position, log_density, first)
        state, found, steps = blackjax.mclmc_find_L_and_step_size(
            kernel, STEPS, state, second, log_density, desired_energy_var=tolerance
        )
        return (state, found, third), GRADIENTS_PER_STEP * steps

    def step(carried, _):
        state, found, key = carried
        key, now = jax.random.split(key)
        state, told = kernel(
            now, state, log_density, found.inverse_mass_matrix, found.L, found.step_size
        )
        return (state, found, key), ~told.nonans

    def draw(carried, _):
        carried, broken = jax.lax.scan(step, carried, length=10)
        return carried, (carried[0].position, 10 * GRADIENTS_PER_STEP, broken.any())

    return _in_jax(begin, draw, target, 500)


def _mams(target):
    import blackjax
    import jax
    from blackjax.mcmc import adjusted_mclmc_dynamic as mams

    log_density = target.log_density
    kernel = mams.build_kernel(mams.make_random_trajectory_length_fn(True))

    def begin(key, position):
        first, second, third = jax.random.split(key, 3)
        state = mams.init(position, log_density, first)
        state, found, steps = blackjax.adjusted_mclmc_find_L_and_step_size(
            kernel,
            log_density,
            TRANSITIONS,
            state,
            second,
            target=ACCEPTANCE,
            target_num_integration_steps=TRAJECTORY,
        )
        return (state, found, third), GRADIENTS_PER_STEP * steps

    def step(carried, _):
        state, found, key = carried
        key, now = jax.random.split(key)
        state, told = kernel(
            now,
            state,
            log_density,
            found.step_size,
            inverse_mass_matrix=found.inverse_mass_matrix,
            integration_steps_params=(found.L / found.step_size,),
        )
        return (state, found, key), (told.num_integration_steps, told.is_divergent)

    def draw(carried, _):
        carried, (steps, diverging) = jax.lax.scan(step, carried, length=5)
        return carried, (carried[0].position, GRADIENTS_PER_STEP * steps.sum(), diverging.any())

    return _in_jax(begin, draw, target, 500)


def _in_jax(begin, draw, target, first, between=lambda: None):
    """A sampler of two compiled functions: warm-up, and some draws."""
    import jax

    def draws(state):
        return jax.lax.scan(draw, state, length=CHUNK)

    before = processor_seconds()
    warm_up = jax.jit(begin).lower(_key(0), target.point(0)).compile()
    between()
    shapes = jax.eval_shape(begin, _key(0), target.point(0))[0]
    between()
    some = jax.jit(draws).lower(shapes).compile()
    seconds = processor_seconds() - before

    def start(seed):
        state = None

        def more(n):
            nonlocal state
            before, warmup = processor_seconds(), 0.0
            if state is None:
                state, steps = warm_up(_key(seed), target.point(seed))
                warmup = float(steps)
            chunks = []
            for _ in range(-(-n // CHUNK)):
                state, chunk = some(state)
                chunks.append(jax.tree.map(np.asarray, chunk))
            points, steps, diverging = jax.tree.map(lambda *each: np.concatenate(each), *chunks)
            draws = target.stan_shapes(points)
            seconds = processor_seconds() - before
            return Piece(draws, float(steps.sum()), warmup, seconds, int(diverging.sum()))

        return more

    return Sampler("", seconds, first, start)


def _key(seed):
    import jax

    return jax.random.key(seed)
