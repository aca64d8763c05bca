"""NUTS from beginning to end: effective draws per second, here and elsewhere.

    python tests/performance/nuts.py [--stage 05] [--quick]

The same posterior, the same text, the same numbers of iterations. Weights are not identified;
counted are the bulk effective sample sizes (Vehtari et al. 2021) of what is: log probabilities of
the next character in contexts that were held out, and the log posterior. They are computed from
everybody's draws by the same function, outside of the time that counts.
"""

import argparse
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
import xarray as xr
from measure import machine, spread
from peers import checked, load
from samplers import Length, Sampler, others, ours, processor_seconds, start

from gptbayes.corpus import read_text, zen_of_python
from gptbayes.findings import ESS_LIMIT, R_HAT_LIMIT
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import log_prior
from gptbayes.model.stages import stage
from gptbayes.stats.summary import ess, r_hat

logging.getLogger("cmdstanpy").disabled = True  # it tells of every program that it compiles


class Run(NamedTuple):
    """Some chains of one sampler, one after another."""

    seconds: float
    ess_min: float
    ess_median: float
    r_hat_max: float
    lp_mean: float
    lp_mcse: float
    steps: float
    divergences: int


def main():
    asked = _arguments()
    text = read_text(asked.text) if asked.text else zen_of_python().lower()
    sizes = stage(asked.stage).applicable(n_embed=asked.n_embed, n_head=2)
    problem = make_problem(stage(asked.stage), text, batch_size=asked.batch_size, **sizes)
    length = Length(asked.warmup, asked.draws)
    print(
        f"NUTS on stage {asked.stage}: {problem.stage.n_parameters(problem.design):,} parameters, "
        f"{problem.n_targets} characters\n{asked.chains} chains of {length.warmup} + "
        f"{length.draws} iterations, one after another, {asked.repeats} times\n{machine()}",
        flush=True,
    )
    with TemporaryDirectory() as folder:  # what they sample from is the same density
        checked(load(("stanli_peer", "jax_peer")), problem, start(problem, 1), Path(folder))
    samplers = [*ours(problem, length, compile_too=not asked.quick), *others(problem, length)]
    if asked.only:
        samplers = [s for s in samplers if any(part in s.name for part in asked.only)]
    runs = {sampler.name: [] for sampler in samplers}
    for repeat in range(asked.repeats):
        for sampler in samplers:
            runs[sampler.name].append(_run(problem, sampler, asked.chains, 100 * repeat))
    print(f"\n{_speeds(samplers, runs)}\n\n{_doubts(runs)}")


def _run(problem, sampler: Sampler, n_chains, seed):
    before = processor_seconds()
    chains = [sampler.run(seed + k) for k in range(1, n_chains + 1)]
    seconds = processor_seconds() - before
    known, log_posterior = _identified(problem, chains)
    sizes, lp_size = (ess(draws)["ess_bulk"].values for draws in (known, log_posterior))
    both = np.append(sizes, lp_size)
    return Run(
        seconds,
        both.min(),
        np.median(both),
        max(float(r_hat(draws).max()) for draws in (known, log_posterior)),
        float(log_posterior.mean()),
        float(log_posterior.std() / np.sqrt(lp_size[0])),
        np.mean([chain.steps for chain in chains]),
        sum(chain.divergences for chain in chains),
    )


def _identified(problem, chains):
    """Log probabilities in the held-out contexts and the log posterior: (chain, draw, scalar)."""
    design, names = problem.design, [p.name for p in problem.stage.parameters]
    stacked = {name: np.stack([chain.draws[name] for chain in chains]) for name in names}
    draws = problem.stage.from_stan(stacked, design)
    held_out = token_log_prob(problem.stage, draws, problem.held_out)
    log_lik = token_log_prob(problem.stage, draws, problem.training).sum(axis=(-1, -2))
    log_posterior = problem.likelihood_weight * log_lik + log_prior(problem, draws)
    shape = log_lik.shape
    return tuple(
        xr.DataArray(values.reshape(*shape, -1), dims=("chain", "draw", "scalar"))
        for values in (held_out, log_posterior)
    )


def _speeds(samplers, runs):
    lines = [
        f"  {'':<24}{'compiling':>10}{'running':>10}{'gradients':>11}   bulk ESS per second",
        f"  {'':<24}{'s':>10}{'s':>10}{'per draw':>11}   {'worst':<26}{'median':<26}ours / theirs",
    ]
    first = runs[samplers[0].name]
    for sampler in samplers:
        mine = runs[sampler.name]
        worst, middle = _rate(mine, "ess_min"), _rate(mine, "ess_median")
        seconds, steps = (np.median([getattr(r, n) for r in mine]) for n in ("seconds", "steps"))
        compiling = "-" if np.isnan(sampler.compile_seconds) else f"{sampler.compile_seconds:.1f}"
        ratios = (_rate(first, n) / _rate(mine, n) for n in ("ess_min", "ess_median"))
        told = " and ".join(f"{np.median(ratio):.2f}" for ratio in ratios)
        lines.append(
            f"  {sampler.name:<24}{compiling:>10}{seconds:>10.1f}{steps:>11.0f}"
            f"   {spread(worst):<26}{spread(middle):<26}{told}"
        )
    return "\n".join(lines)


def _rate(runs, name):
    return np.array([getattr(run, name) / run.seconds for run in runs])


def _doubts(runs):
    """Whether they have sampled the same posterior, and what is shaky about the above."""
    lines = ["  " + " " * 24 + "log posterior (mcse)   smallest ESS   largest R-hat   divergences"]
    for name, mine in runs.items():
        error = np.sqrt(sum(run.lp_mcse**2 for run in mine)) / len(mine)
        mean = np.mean([run.lp_mean for run in mine])
        lp = f"{mean:.1f} ({error:.1f})"
        size, apart = min(run.ess_min for run in mine), max(run.r_hat_max for run in mine)
        doubts = [f"ESS below {ESS_LIMIT}"] if size < ESS_LIMIT else []
        doubts += [f"R-hat above {R_HAT_LIMIT}"] if apart > R_HAT_LIMIT else []
        lines.append(
            f"  {name:<24}{lp:<23}{size:>12.0f}{apart:>16.3f}"
            f"{sum(run.divergences for run in mine):>14}  {', '.join(doubts)}"
        )
    return "\n".join(lines)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="05", help="of the ladder (default %(default)s)")
    parser.add_argument("--text", help="a file (default: the Zen of Python)")
    parser.add_argument("--batch-size", type=int, help="sequences of 8 characters")
    parser.add_argument("--n-embed", type=int, default=8)
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--draws", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--only", nargs="+", help="parts of names, such as: ours NumPyro")
    parser.add_argument("--quick", action="store_true", help="less of everything: a minute")
    asked = parser.parse_args()
    usual = (16, 150, 50, 1) if asked.quick else (32, 200, 200, 2)
    for name, value in zip(("batch_size", "warmup", "draws", "repeats"), usual, strict=True):
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


if __name__ == "__main__":
    main()
