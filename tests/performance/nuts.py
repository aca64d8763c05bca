"""NUTS and other samplers from beginning to end, until their draws are worth enough.

    python tests/performance/nuts.py [--stage 05] [--quick]

The same posterior, the same text, the same starts of chains. Weights are not identified; counted
are the bulk effective sample sizes (Vehtari et al. 2021) of what is: log probabilities of held-out
characters and the log posterior. A sampler goes on until the smallest of them is 400, or until it
has had its share of gradients, warm-up and tuning counted. Its means are compared with those of a
long run of NUTS, whose trees have depth 7 at most. What is computed from the draws is outside of
the time that counts.
"""

import argparse
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import called_samplers
import jax_samplers
import numpy as np
from measure import machine
from peers import checked, load
from posteriors import posteriors
from samplers import SHORTER, Sampler, ours, point
from worth import Worth, bias, draws_to_go, identified, worth

from gptbayes.corpus import read_text, zen_of_python
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage

logging.getLogger("cmdstanpy").disabled = True  # it tells of every program that it compiles
TIMES = 10
"""By how much the reference has more effective draws, and may have more gradients."""
REFERENCE_SEED, REFERENCE_DEPTH = 1000, 7


class Run(NamedTuple):
    """Some chains of one sampler, one after another; gradients and seconds of all of them."""

    draws: int
    gradients: float
    warmup: float
    seconds: float
    divergences: int
    worth: Worth


def main():
    asked = _arguments()
    text = read_text(asked.text) if asked.text else zen_of_python().lower()
    sizes = stage(asked.stage).applicable(n_embed=asked.n_embed, n_head=2)
    problem = make_problem(stage(asked.stage), text, batch_size=asked.batch_size, **sizes)
    print(
        f"Samplers on stage {asked.stage}: {problem.stage.n_parameters(problem.design):,} "
        f"parameters, {problem.n_targets} characters\n{asked.chains} chains, one after another, "
        f"until the smallest ESS is {asked.ess}, at most {asked.limit:,} gradients\n{machine()}",
        flush=True,
    )
    with TemporaryDirectory() as folder:  # what they sample from is the same density
        checked(load(("jax_peer",)), problem, point(problem, 1), Path(folder))
    reference = None if asked.quick else _reference(problem, asked)
    print(f"\n{HEADER}", flush=True)
    for sampler in _samplers(problem, asked):
        run = _run(problem, sampler, asked.chains, asked.ess, asked.limit)
        print(_row(sampler, run, reference, asked.ess), flush=True)


def _samplers(problem, asked):
    """Ours, then the others, those that were asked for; made when their turn comes."""

    def wanted(name):
        return not asked.only or any(part in name for part in asked.only)

    if wanted("gptbayes"):
        yield ours(problem, compile_too=not asked.quick)
    if wanted("gptbayes, shorter"):
        yield ours(problem, "gptbayes, shorter", **SHORTER)
    kinds = jax_samplers.kinds() | called_samplers.kinds()
    try:
        targets = posteriors(problem)
    except ImportError as error:
        print(f"skipped: {error}")
        return
    for target in targets:
        for kind, make in kinds.items():
            name = f"{kind}, {target.name}"
            if wanted(name):
                try:
                    yield make(target)._replace(name=name)
                except ImportError as error:
                    print(f"skipped: {name}, {error}")


def _run(problem, sampler: Sampler, n_chains, ess, limit, seed=0):
    chains = [sampler.start(seed + k) for k in range(1, n_chains + 1)]
    values = [[] for _ in chains]
    n, done, totals = sampler.first, 0, np.zeros(4)
    while True:
        for chain, parts in zip(chains, values, strict=True):
            piece = chain(n)
            parts.append(identified(problem, piece.draws))
            totals += (
                piece.gradients,
                piece.warmup_gradients,
                piece.seconds,
                piece.divergences,
            )
        found = worth(np.stack([np.concatenate(parts) for parts in values]))
        done = sum(len(part) for part in values[0])
        gradients, warmup = totals[:2]
        size = found.counted.min()
        room = (limit - gradients - warmup) / (gradients / done)
        n = draws_to_go(done, size, ess, room)
        if size >= ess or n < 0.05 * done:
            seconds, divergences = totals[2:]
            return Run(n_chains * done, gradients, warmup, seconds, int(divergences), found)


def _reference(problem, asked) -> Worth:
    """From a file if there is one, whose name tells of the problem."""
    path = None
    if asked.reference:
        size = problem.stage.n_parameters(problem.design)
        path = Path(asked.reference) / f"{asked.stage}-{size}-{problem.n_targets}.npz"
        if path.exists():
            with np.load(path) as stored:
                return Worth(**stored)
    sampler = ours(problem, max_treedepth=REFERENCE_DEPTH)
    run = _run(
        problem, sampler, asked.chains, TIMES * asked.ess, TIMES * asked.limit, REFERENCE_SEED
    )
    found = run.worth
    print(
        f"Reference: {run.draws:,} draws, {(run.gradients + run.warmup) / 1e6:.1f} million "
        f"gradients, {run.seconds:.0f} s, smallest ESS {found.counted.min():.0f}, "
        f"largest R-hat {found.r_hat.max():.3f}, {run.divergences} divergences",
        flush=True,
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found._asdict())
    return found


HEADER = "\n".join(
    f"{'':<34}{first}"
    for first in (
        "compiling warm-up   per     all seconds | ESS per 1,000 gradients     | ESS per second"
        " | smallest  R-hat  diver- | bias in posterior sd (its Monte Carlo error)",
        "        s    1000  draw    1000         |   min  median  log posterior|    min  median"
        " |      ESS         gences | log posterior  log likelihood  log probabilities",
    )
)


def _row(sampler, run: Run, reference, ess):
    """After warm-up effective draws per gradient, with it effective draws per second."""
    found, total = run.worth, run.gradients + run.warmup
    smallest, middle = found.counted.min(), np.median(found.ess[:-2])
    rates = [1e3 * size / run.gradients for size in (smallest, middle, found.ess[-1])]
    compiling = "-" if np.isnan(sampler.compile_seconds) else f"{sampler.compile_seconds:.1f}"
    doubts = [f"ESS below {ess}"] if smallest < ess else []
    doubts += [f"R-hat above {R_HAT_LIMIT}"] if found.r_hat.max() > R_HAT_LIMIT else []
    if reference is None:
        distances = f"{'-':^48}"
    else:
        apart = bias(found, reference)
        distances = (
            f"{apart.log_posterior[0]:+.2f} ({apart.log_posterior[1]:.2f})    "
            f"{apart.log_lik[0]:+.2f} ({apart.log_lik[1]:.2f})     "
            f"{apart.log_probs[0]:.3f} ({apart.log_probs[1]:.3f})"
        )
    return (
        f"{sampler.name:<34}{compiling:>9}{run.warmup / 1e3:>8.1f}"
        f"{run.gradients / run.draws:>6.0f}{total / 1e3:>8.0f}{run.seconds:>8.1f} |"
        f"{rates[0]:>6.2f}{rates[1]:>8.1f}{rates[2]:>15.2f}|"
        f"{smallest / run.seconds:>7.2f}{middle / run.seconds:>8.1f} |"
        f"{smallest:>9.0f}{found.r_hat.max():>7.3f}{run.divergences:>8} | "
        f"{distances}  {', '.join(doubts)}"
    ).rstrip()


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="05", help="of the ladder (default %(default)s)")
    parser.add_argument("--text", help="a file (default: the Zen of Python)")
    parser.add_argument("--batch-size", type=int, help="sequences of 8 characters")
    parser.add_argument("--n-embed", type=int, default=8)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--ess", type=int, help="the smallest that is enough")
    parser.add_argument("--limit", type=int, help="gradients of all chains of a sampler")
    parser.add_argument("--only", nargs="+", help="parts of names, such as: gptbayes MCLMC")
    parser.add_argument("--reference", metavar="FOLDER", help="where the long run is kept")
    parser.add_argument("--quick", action="store_true", help="less of everything: a minute")
    asked = parser.parse_args()
    usual = (16, 30, 60_000) if asked.quick else (32, 400, 1_000_000)
    for name, value in zip(("batch_size", "ess", "limit"), usual, strict=True):
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


if __name__ == "__main__":
    main()
