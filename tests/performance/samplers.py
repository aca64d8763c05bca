"""NUTS, here and elsewhere: the same posterior, settings and starting points; one chain per call.

Samplers that are written for JAX run on its own density and on our kernels, which compares samplers
on one gradient.

The others adapt a diagonal metric; ours takes its default, the variances of the prior. All aim at
an acceptance statistic of 0.8 with trees of depth 10 at most; how they adapt is their own. A
chain starts at a draw from the prior with twice its sd, which depends on the seed alone.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from densities import compiled
from stan_peer import NAMES

from gptbayes import fit
from gptbayes.fit.programs import compile_with_kernels
from gptbayes.model import kernel_sources
from gptbayes.model.jax_density import jax_log_posterior
from gptbayes.model.log_density import ravel, unravel
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import stan_folder
from gptbayes.model.stan_data import stan_data

TARGET, MAX_DEPTH = 0.8, 10


class Chain(NamedTuple):
    """What one chain came to.

    Attributes
    ----------
    draws : dict of str to ndarray
        Each ``(draw, stan_shape)``, warm-up left out.
    steps : float
        Gradients per draw after warm-up, on average.
    divergences : int
        After warm-up.
    """

    draws: dict[str, np.ndarray]
    steps: float
    divergences: int


class Sampler(NamedTuple):
    """One implementation, ready to run.

    Attributes
    ----------
    name : str
    compile_seconds : float
        Of the processor; nan where it was not measured.
    run : callable
        From a seed to a `Chain`; all of it is timed.
    """

    name: str
    compile_seconds: float
    run: Callable[[int], Chain]


class Length(NamedTuple):
    """Iterations of a chain."""

    warmup: int
    draws: int


def start(problem, seed: int) -> dict[str, np.ndarray]:
    """Where the chain of a seed starts, with Stan's shapes: as `gptbayes.fit.nuts` does it."""
    drawn = prior_draws(problem, 1, np.random.default_rng(seed), overdispersion=2.0)
    return {name: v[0] for name, v in problem.stage.to_stan(drawn, problem.design).items()}


class Posterior(NamedTuple):
    """The log posterior as a function of JAX.

    Attributes
    ----------
    name : str
    log_density : callable
        Of a point, in nats.
    point : callable
        From a seed to the point where its chain starts.
    stan_shapes : callable
        From many points to a dict of arrays ``(draw, stan_shape)``.
    """

    name: str
    log_density: Callable
    point: Callable
    stan_shapes: Callable


def processor_seconds() -> float:
    """Of this process and of the processes that it started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(problem, length: Length, compile_too: bool) -> list[Sampler]:
    """`gptbayes.fit.nuts` with each body of the bricks: CSV files, checks and all."""
    there = [name for name in ("kernels", "functions") if (stan_folder() / name).is_dir()]
    return [_ours(problem, length, bricks, len(there) > 1, compile_too) for bricks in there]


def others(problem, length: Length) -> list[Sampler]:
    """Those that are installed; a line is printed for each that is not."""
    found = []
    for make in (_stanli, _numpyro, _blackjax, _nutpie):  # in this order, see stanli_peer
        try:
            if make is _stanli:
                found.append(make(problem, length))
            else:
                found += [make(target, length) for target in (_jax(problem), _kernels(problem))]
        except ImportError as error:
            print(f"skipped: {make.__name__.strip('_')}, {error}")
    return found


def _ours(problem, length, bricks, choice, compile_too):
    compiled(problem, bricks)  # so that no chain waits for it
    which = {"kernels": {"kernels": "c++", "functions": "stan"}[bricks]} if choice else {}

    def run(seed):
        with TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=1) as executor:
            fit.nuts(
                problem,
                Path(folder) / "run",
                chains=1,
                iter_warmup=length.warmup,
                iter_sampling=length.draws,
                init="random",
                adapt_delta=TARGET,
                max_treedepth=MAX_DEPTH,
                seed=seed,
                executor=executor,
                **which,
            )
            (drawn,) = fit.read_draws(Path(folder) / "run")
        told = drawn.method_variables
        names = [p.name for p in problem.stage.parameters]
        return Chain(
            {name: drawn.variables[name] for name in names},
            told["n_leapfrog"].mean(),
            int(told["divergent"].sum()),
        )

    seconds = _seconds_to_compile(problem, bricks) if compile_too else np.nan
    return Sampler(NAMES[bricks], seconds, run)


def _seconds_to_compile(problem, bricks):
    """Of a program that is not in the cache, because of a comment, and is not left there."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "stan"
        shutil.copytree(stan_folder(), copy)
        stage = replace(problem.stage, folder=copy)
        with stage.program.open("a") as program:
            program.write(f"// {time.time_ns()}\n")
        kernels = kernel_sources.build()
        before = processor_seconds()
        if bricks == "kernels":
            executable = compile_with_kernels(stage, kernels)
        else:
            executable = fit.executable_of(stage, "stan").path
        seconds = processor_seconds() - before
    shutil.rmtree(executable.parent)
    return seconds


def _stanli(problem, length):
    import stanli
    import stanli_peer

    before = processor_seconds()
    model = stanli_peer.model(problem)
    seconds = processor_seconds() - before

    def run(seed):
        drawn = model.sample(
            chains=1,
            parallel_chains=1,
            seed=seed,
            warmup=length.warmup,
            samples=length.draws,
            delta=TARGET,
            max_depth=MAX_DEPTH,
            inits=stanli_peer.flat(problem, start(problem, seed)),
            refresh=0,
        )
        told = drawn.sampler_stats[0, :, list(stanli.SAMPLER_COLUMNS).index("n_leapfrog__")]
        names = [p.name for p in problem.stage.parameters]
        return Chain(
            {name: np.asarray(drawn[name]) for name in names},
            told.mean(),
            int(np.sum(drawn.divergences)),
        )

    return Sampler("stanli", seconds, run)


def _numpyro(target, length):
    import jax
    from numpyro.infer import NUTS

    log_density = target.log_density
    kernel = NUTS(
        potential_fn=lambda p: -log_density(p),
        target_accept_prob=TARGET,
        max_tree_depth=MAX_DEPTH,
    )

    def chain(key, position):
        def step(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        state = kernel.init(key, length.warmup, position)
        return jax.lax.scan(step, state, length=sum(length))[1]

    return _in_jax("NumPyro", chain, target, length)


def _blackjax(target, length):
    import blackjax
    import jax

    log_density = target.log_density

    def chain(key, position):
        first, second = jax.random.split(key)
        warmup = blackjax.window_adaptation(
            blackjax.nuts,
            log_density,
            target_acceptance_rate=TARGET,
            max_num_doublings=MAX_DEPTH,
        )
        (state, adapted), _ = warmup.run(first, position, length.warmup)
        nuts = blackjax.nuts(log_density, **adapted)

        def step(state, key):
            state, told = nuts.step(key, state)
            return state, (state.position, told.num_integration_steps, told.is_divergent)

        return jax.lax.scan(step, state, jax.random.split(second, length.draws))[1]

    return _in_jax("BlackJAX", chain, target, length)


def _nutpie(target, length):
    import jax
    import nutpie
    from jax.flatten_util import ravel_pytree

    log_density = target.log_density
    point, as_tree = ravel_pytree(target.point(0))
    before = processor_seconds()
    function = jax.jit(jax.value_and_grad(lambda q: log_density(as_tree(q)))).lower(point).compile()
    seconds = processor_seconds() - before

    def gradient(q):
        value, slope = function(q)
        return float(value), np.asarray(slope)

    def run(seed):
        model = nutpie.compiled_pyfunc.from_pyfunc(
            ndim=point.size,
            make_logp_fn=lambda: gradient,
            make_expand_fn=lambda *_: lambda q: {"q": q},
            expanded_dtypes=[np.dtype("float64")],
            expanded_shapes=[(point.size,)],
            expanded_names=["q"],
            make_initial_point_fn=lambda _: np.asarray(ravel_pytree(target.point(seed))[0]),
        )
        drawn = nutpie.sample(
            model,
            draws=length.draws,
            tune=length.warmup,
            chains=1,
            cores=1,
            seed=seed,
            target_accept=TARGET,
            maxdepth=MAX_DEPTH,
            save_warmup=False,
            progress_bar=False,
        )
        told, draws = drawn.sample_stats, jax.vmap(as_tree)(drawn.posterior["q"][0].values)
        return Chain(
            target.stan_shapes(draws),
            float(told["n_steps"].mean()),
            int(told["diverging"].sum()),
        )

    return Sampler(f"nutpie, {target.name}", seconds, run)


def _jax(problem):
    """JAX's own density, of a dict of arrays with Stan's shapes."""
    import jax_gpt

    number, data = int(problem.stage.number[:2]), stan_data(problem)
    return Posterior(
        "JAX",
        lambda p: jax_gpt.log_density(number, p, data),
        lambda seed: start(problem, seed),
        lambda draws: {name: np.asarray(values) for name, values in draws.items()},
    )


def _kernels(problem):
    """Our kernels, of a vector."""
    stage, design = problem.stage, problem.design
    return Posterior(
        "our kernels",
        jax_log_posterior(problem),
        lambda seed: ravel(stage, stage.from_stan(start(problem, seed), design)),
        lambda draws: stage.to_stan(unravel(stage, design, np.asarray(draws)), design),
    )


def _in_jax(name, chain, target, length):
    """A sampler whose whole chain is one compiled function; warm-up may be part of its result."""
    import jax

    before = processor_seconds()
    function = jax.jit(chain).lower(jax.random.key(0), target.point(0)).compile()
    seconds = processor_seconds() - before

    def run(seed):
        result = function(jax.random.key(seed), target.point(seed))
        draws, steps, diverging = jax.tree.map(lambda a: np.asarray(a)[-length.draws :], result)
        return Chain(target.stan_shapes(draws), steps.mean(), int(diverging.sum()))

    return Sampler(f"{name}, {target.name}", seconds, run)
