"""HMC (Duane et al. 1987; Neal 2011) on our kernels: trajectories of one length, or of random ones.

With the prior's variances as inverse metric, a parameter about which nothing was learned has a
period of 2 pi. A trajectory of a quarter or of three quarters of it gives an independent value, one
of a half gives the mirrored one.

Trajectories of one length are those of `gptbayes.fit.hmc`, which are Stan's: the step size changes
by up to a fifth at random from one to the next, and so does the length. Stan has none of random
length. These are BlackJAX's, from where the warm-up of our NUTS ends, with a step size that stays
and a uniform number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from metric import seconds as seconds_of_phases
from posteriors import posteriors
from samplers import Piece, Sampler, ours, processor_seconds

from gptbayes import fit
from gptbayes.fit.sampling import PRIOR_DEFAULTS
from gptbayes.model.log_density import prior_moments, ravel

LENGTHS = {"gptbayes HMC": {}} | {
    f"gptbayes HMC, length {t}": {"trajectory_length": t, "thin": thin}
    for t, thin in ((3.0, 2), (4.5, 1))
}
"""Settings of `gptbayes.fit.hmc`: a quarter of a period by default, a half, and three quarters."""
LONGEST = {"0 to pi": np.pi, "0 to 2pi": 2 * np.pi}
"""Of random trajectories, in units of prior standard deviations."""
THIN = 2
"""As by default."""
CHUNK = 25
"""Draws that a compiled function of JAX returns."""
LAST = 10
"""Draws of NUTS after its warm-up. HMC starts at the last one; their gradients count as warm-up."""


def kinds(problem) -> dict[str, Callable[[], Sampler]]:
    """What makes a sampler for each length, by name."""
    of_one = {
        name: partial(ours, problem, name, method=fit.hmc, **{"thin": THIN, **settings})
        for name, settings in LENGTHS.items()
    }
    return of_one | {f"BlackJAX HMC {k}": partial(_random, problem, t) for k, t in LONGEST.items()}


def _random(problem, longest):
    import jax
    from blackjax.mcmc import dynamic_hmc

    stage, target = problem.stage, posteriors(problem)[0]
    kernel = dynamic_hmc.build_kernel(
        integration_steps_fn=lambda key, n: jax.random.randint(key, (), 1, n + 1)
    )
    variances = 1.0 / prior_moments(problem)[1]

    @jax.jit
    def some(state, keys, step):
        n = jax.numpy.rint(longest / step).astype(int)

        def draw(state, key):
            state, told = kernel(key, state, target.log_density, step, variances, (n,))
            return state, (state.position, told.num_integration_steps, told.is_divergent)

        return jax.lax.scan(draw, state, keys)

    def begin(point, key):
        return dynamic_hmc.init(point, target.log_density, key)

    def keys(seed, chunk):
        return jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), CHUNK)

    before = processor_seconds()
    some(begin(target.point(0), jax.random.key(0)), keys(0, 0), 1.0)  # so that it is compiled
    compile_seconds = processor_seconds() - before

    def start(seed):
        state, step, chunks = None, 0.0, 0

        def more(n):
            nonlocal state, step, chunks
            before, warmup = processor_seconds(), 0.0
            if state is None:
                with TemporaryDirectory() as folder:
                    last, step, warmup = _warmed(problem, Path(folder) / "run", seed)
                stan = {p.name: last.variables[p.name][-1] for p in stage.parameters}
                point = ravel(stage, stage.from_stan(stan, problem.design))
                state = begin(point, jax.random.key(seed))
            found = []
            for _ in range(-(-n // CHUNK)):
                chunks += 1
                state, chunk = some(state, keys(seed, chunks), step)
                found.append(jax.tree.map(np.asarray, chunk))
            points, steps, diverging = (np.concatenate(each) for each in zip(*found, strict=True))
            draws = target.stan_shapes(points)
            seconds = processor_seconds() - before
            return Piece(draws, float(steps.sum()), warmup, seconds, int(diverging.sum()))

        return more

    return Sampler("", compile_seconds, 100, start)


def _warmed(problem, out, seed):
    """The draws of NUTS after its warm-up, its step size, and the gradients it took."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        fit.nuts(
            problem,
            out,
            chains=1,
            iter_sampling=LAST,
            seed=seed,
            kernels="c++",
            executor=executor,
            **PRIOR_DEFAULTS,
        )
    (drawn,) = fit.read_draws(out)
    (csv,) = (out / "csv").glob("*.csv")
    warmup, sampling = seconds_of_phases(csv)
    told = drawn.method_variables
    gradients = float(told["n_leapfrog"].sum()) * (1.0 + warmup / sampling)
    return drawn, float(told["stepsize"][0]), gradients
