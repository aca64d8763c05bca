"""Log evidence, here and elsewhere: processor time for an error of one nat.

    python tests/performance/evidence.py [--stage 05] [--quick]

The same log likelihood and the same prior, from the prior to the posterior by levels whose weights
have an effective sample size of half of the particles. BlackJAX's `adaptive_tempered_smc` runs its
HMC with the variances of the prior as its metric; it has no rule for step sizes, and gets ours.
PyMC's `sample_smc` runs its two kernels, which need no gradient, on a compiled JAX function. Each
runs several times; the error is the root mean square of its log evidences around a reference, ours
with more particles and other seeds, and cost times squared error does not depend on how many
particles there are while the error is mostly variance.
"""

import argparse
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from densities import compiled
from measure import machine
from samplers import processor_seconds

from gptbayes import fit
from gptbayes.corpus import read_text, zen_of_python
from gptbayes.fit import tempering
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import stage
from gptbayes.model.stan_data import stan_data

ESS = 0.5


class Estimator(NamedTuple):
    """One implementation, ready to run.

    Attributes
    ----------
    name : str
    compile_seconds : float
        Of the processor.
    run : callable
        From a seed to the log evidence and the number of levels; all of it is timed.
    """

    name: str
    compile_seconds: float
    run: Callable[[int], tuple[float, int]]


def main():
    asked = _arguments()
    text = read_text(asked.text) if asked.text else zen_of_python().lower()
    problem = make_problem(
        stage(asked.stage), text, batch_size=asked.batch_size, n_embed=asked.n_embed, n_head=2
    )
    print(
        f"Evidence of stage {asked.stage}: {problem.stage.n_parameters(problem.design):,} "
        f"parameters, {problem.n_targets} characters; {asked.repeats} runs of each\n{machine()}",
        flush=True,
    )
    compiled(problem, "kernels")
    reference, se = _reference(problem, asked)
    print(f"Reference: {reference:.2f} ± {se:.2f} nats", flush=True)
    print(
        f"\n  {'':<26}{'compiling':>10}{'running':>9}{'levels':>8}{'mean error':>12}{'sd':>7}"
        f"{'seconds for':>14}\n  {'':<26}{'s':>10}{'s':>9}{'':>8}{'nats':>12}{'nats':>7}"
        f"{'1 nat':>14}"
    )
    for make in (_ours, _blackjax, _pymc_imh, _pymc_mh):
        if asked.only and not any(part in make.__name__ for part in asked.only):
            continue
        try:
            estimator = make(problem, asked)
        except ImportError as error:
            print(f"skipped: {make.__name__.strip('_')}, {error}")
            continue
        print(_line(estimator, asked.repeats, reference), flush=True)


def _line(estimator, repeats, reference):
    values, levels, seconds = [], [], []
    for seed in range(1, repeats + 1):
        before = processor_seconds()
        value, n_level = estimator.run(seed)
        seconds.append(processor_seconds() - before)
        values.append(value)
        levels.append(n_level)
    error = np.array(values) - reference
    cost = np.mean(seconds) * np.mean(np.square(error))
    return (
        f"  {estimator.name:<26}{estimator.compile_seconds:>10.1f}{np.mean(seconds):>9.1f}"
        f"{np.mean(levels):>8.0f}{error.mean():>+12.2f}{error.std(ddof=1):>7.2f}{cost:>14.3g}"
    )


def _reference(problem, asked):
    with TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=1) as executor:
        run = fit.smc(
            problem,
            Path(folder) / "run",
            replicates=4,
            chains=2 * asked.chains,
            moves=2 * asked.moves,
            seed=1000,
            executor=executor,
        )
        found = [fit.levels_of(run / "csv", k)[-1].log_evidence for k in range(1, 5)]
    return tempering.log_evidence(found)


def _ours(problem, asked):
    """Replicates after the first, whose levels the others have: one run is one of these."""
    weights: list[float] = []

    def run(seed):
        with TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=1) as executor:
            where = fit.smc(
                problem,
                Path(folder) / "run",
                replicates=1,
                chains=asked.chains,
                moves=asked.moves,
                weights=weights or None,
                seed=seed,
                executor=executor,
            )
            levels = fit.levels_of(where / "csv", 1)
        weights[:] = [level.likelihood_weight for level in levels[1:]]
        return levels[-1].log_evidence, len(levels) - 1

    before = processor_seconds()
    run(2000)  # chooses the levels, as the first replicate of a fit does
    return Estimator("ours", processor_seconds() - before, run)


def _blackjax(problem, asked):
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import resampling

    log_prior, log_lik, _, variances = _in_jax(problem)
    hmc = blackjax.hmc.build_kernel()

    def step(key, state, log_density, step_size):
        return hmc(key, state, log_density, step_size, variances, asked.steps)

    def level(key, state, step_size):
        smc = blackjax.adaptive_tempered_smc(
            log_prior,
            log_lik,
            step,
            blackjax.hmc.init,
            {"step_size": step_size[None]},
            resampling.systematic,
            ESS,
            num_mcmc_steps=asked.mcmc_steps,
        )
        state, told = smc.step(key, state)
        return state, told.log_likelihood_increment, told.update_info.acceptance_rate.mean()

    def start(seed):
        particles = _prior(problem, asked.particles, seed)
        return blackjax.adaptive_tempered_smc.init(jnp.asarray(particles))

    before = processor_seconds()
    function = jax.jit(level).lower(jax.random.key(0), start(0), jnp.array(0.1)).compile()
    seconds = processor_seconds() - before

    def run(seed):
        state, key, step_size = start(seed), jax.random.key(seed), 0.2
        log_z, count = 0.0, 0
        while state.tempering_param < 1:
            key, now = jax.random.split(key)
            state, increment, acceptance = function(now, state, jnp.array(step_size))
            step_size = tempering.next_step_size(step_size, float(acceptance))
            log_z, count = log_z + float(increment), count + 1
        return log_z, count

    return Estimator(f"BlackJAX, {asked.steps} leapfrogs", seconds, run)


def _pymc_imh(problem, asked):
    return _pymc(problem, asked, "IMH")


def _pymc_mh(problem, asked):
    return _pymc(problem, asked, "MH")


def _pymc(problem, asked, kernel):
    import jax
    import pymc
    import pytensor.tensor as pt
    from pytensor.graph.op import Op

    logging.getLogger("pymc").setLevel(logging.ERROR)
    _, log_lik, mean, variances = _in_jax(problem)
    function = jax.jit(log_lik)

    class LogLik(Op):
        itypes, otypes = [pt.dvector], [pt.dscalar]

        def perform(self, node, inputs, outputs):
            outputs[0][0] = np.asarray(function(inputs[0]))

    before = processor_seconds()
    with pymc.Model() as model:
        theta = pymc.Normal("theta", mean, np.sqrt(variances), shape=len(mean))
        pymc.Potential("text", LogLik()(theta))
    function(mean)
    seconds = processor_seconds() - before

    def run(seed):
        with model, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pymc.sample_smc(
                asked.pymc_draws,
                kernel=getattr(pymc.smc, kernel),
                chains=1,
                cores=1,
                threshold=ESS,
                random_seed=seed,
                progressbar=False,
                compute_convergence_checks=False,
            )
        stats = found.sample_stats
        return float(stats["log_marginal_likelihood"][0, -1]), stats.sizes["draw"]

    return Estimator(f"PyMC, {kernel}", seconds, run)


def _in_jax(problem):
    """Log prior and log likelihood of a vector, and mean and variance of its elements."""
    import jax
    import jax_gpt
    from jax.flatten_util import ravel_pytree

    number, data = int(problem.stage.number[:2]), stan_data(problem)
    one = {name: v[0] for name, v in _stan_prior(problem, 1, 0).items()}
    _, unravel = ravel_pytree(one)
    families = {p.name: p for p in problem.stage.parameters}
    mean, sd = (
        ravel_pytree({n: np.full(np.shape(v), float(of(families[n]))) for n, v in one.items()})[0]
        for of in (lambda p: p.prior_mean, problem.priors.scale)
    )

    def at(weight):
        changed = {**data, "likelihood_weight": weight}
        return lambda vector: jax_gpt.log_density(number, unravel(vector), changed)

    def log_prior(vector):
        return -0.5 * (((vector - mean) / sd) ** 2).sum()

    def log_lik(vector):
        return at(1.0)(vector) - log_prior(vector)

    drawn = prior_draws(problem, 3, np.random.default_rng(1))
    ours = token_log_prob(problem.stage, drawn, problem.training).sum(axis=(-2, -1))
    theirs = jax.vmap(log_lik)(_ravelled(problem.stage.to_stan(drawn, problem.design)))
    if not np.allclose(ours, theirs, rtol=1e-9):
        raise SystemExit("void: JAX has another log likelihood, so that nothing can be compared")
    return log_prior, log_lik, np.asarray(mean), np.asarray(sd) ** 2


def _stan_prior(problem, n, seed):
    drawn = prior_draws(problem, n, np.random.default_rng([seed, 17]))
    return problem.stage.to_stan(drawn, problem.design)


def _prior(problem, n, seed):
    return _ravelled(_stan_prior(problem, n, seed))


def _ravelled(particles):
    """In the order of `jax.flatten_util.ravel_pytree`, (particle, element)."""
    columns = [np.asarray(particles[name]) for name in sorted(particles)]
    return np.concatenate([v.reshape(len(v), -1) for v in columns], axis=1)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="05", help="of the ladder (default %(default)s)")
    parser.add_argument("--text", help="a file (default: the Zen of Python)")
    parser.add_argument("--batch-size", type=int, help="sequences of 8 characters")
    parser.add_argument("--n-embed", type=int, default=4)
    parser.add_argument("--chains", type=int, default=32, help="ours, of each level")
    parser.add_argument("--moves", type=int, default=8, help="ours, draws of each chain")
    parser.add_argument("--particles", type=int, default=256, help="of BlackJAX")
    parser.add_argument("--mcmc-steps", type=int, default=1, help="of BlackJAX, at each level")
    parser.add_argument("--steps", type=int, default=32, help="of BlackJAX: leapfrogs")
    parser.add_argument("--pymc-draws", type=int, default=2000)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--only", nargs="+", help="parts of: ours blackjax pymc_imh pymc_mh")
    parser.add_argument("--quick", action="store_true", help="less text and fewer runs")
    asked = parser.parse_args()
    usual = (4, 3) if asked.quick else (8, 6)
    for name, value in zip(("batch_size", "repeats"), usual, strict=True):
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


if __name__ == "__main__":
    main()
