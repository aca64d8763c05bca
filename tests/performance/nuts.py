"""NUTS and other samplers from beginning to end, until their draws are worth enough.

    python tests/performance/nuts.py [--stage 05] [--seed 10] [--settings 100,0.8,7] [--quick]

The same posterior, the same text, the same starts of chains. Weights are not identified; counted
are the bulk effective sample sizes (Vehtari et al. 2021) of what is: log probabilities of held-out
characters and the log posterior. A sampler goes on until the smallest of them is 400, or until it
has had its share of gradients, warm-up and tuning counted. Its means are compared with those of a
long run of ours with other random numbers. What is computed from the draws is outside of
the time that counts.
"""

import argparse
import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import called_samplers
import hmc
import jax_samplers
import numpy as np
from measure import machine
from peers import checked, load
from posteriors import posteriors
from samplers import FORMER, Sampler, ours, point
from worth import Worth, bias, draws_to_go, identified, worth

from gptbayes.corpus import read_text, zen_of_python
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage

logging.getLogger("cmdstanpy").disabled = True  # it tells of every program that it compiles
TIMES = 10
"""How many times as many effective draws the reference has."""
REFERENCE_SEED = 1000
ON_OWN_DENSITY = ("NumPyro NUTS", "BlackJAX NUTS", "BlackJAX MCLMC 5e-04")
"""Samplers that also run on JAX's own density, where only the cost of a gradient is another one."""


class Run(NamedTuple):
    """Some chains of one sampler, one after another; gradients and seconds of all of them."""

    compile_seconds: float
    draws: float
    gradients: float
    warmup: float
    seconds: float
    divergences: float
    worth: Worth


def main():
    asked = _arguments()
    text = read_text(asked.text) if asked.text else zen_of_python().lower()
    sizes = stage(asked.stage).applicable(n_embed=asked.n_embed, n_head=2)
    problem = make_problem(stage(asked.stage), text, batch_size=asked.batch_size, **sizes)
    print(
        f"Samplers on stage {asked.stage}: {problem.stage.n_parameters(problem.design):,} "
        f"parameters, {problem.n_targets} characters\n{asked.chains} chains, one after another, "
        f"until the smallest ESS is {asked.ess}, at most {asked.limit:,} gradients\n{machine()}\n",
        flush=True,
    )
    with TemporaryDirectory() as folder:  # what they sample from is the same density
        checked(load(("jax_peer",)), problem, point(problem, 1), Path(folder))
    runs = {}
    for name, make in _samplers(problem, asked):
        try:
            runs[name] = _kept(asked, name, lambda make=make: _run(problem, make(), asked))
        except ImportError as error:
            print(f"skipped: {name}, {error}", flush=True)
    reference = None if asked.quick else _kept(asked, "reference", lambda: _long(problem, asked))
    print(f"\n{_costs(runs, asked.ess)}\n\n{_doubts(runs, reference, asked.ess)}")


def _samplers(problem, asked):
    """Names and functions that make them: ours, then the others, those that were asked for."""
    found = {"gptbayes": partial(ours, problem, compile_too=not asked.quick)}
    for settings in (FORMER, *asked.settings):
        name = f"gptbayes, {', '.join(map(str, settings.values()))}"
        found[name] = partial(ours, problem, **settings)
    found |= hmc.kinds(problem)
    kinds = jax_samplers.kinds() | called_samplers.kinds()
    try:
        on_kernels, own = posteriors(problem)
        for target, some in ((on_kernels, kinds), (own, ON_OWN_DENSITY)):
            found |= {f"{kind}, {target.name}": partial(kinds[kind], target) for kind in some}
    except ImportError as error:
        print(f"skipped: {error}")
    for name, make in found.items():
        wanted = not asked.only or any(part in name for part in asked.only)
        if wanted and not any(part in name for part in asked.without):
            yield name, make


def _kept(asked, name, make) -> Run:
    """A run of an earlier call, if runs are kept; a line is printed for a new one."""
    seed = f" {asked.seed}" if asked.seed else ""
    path = Path(asked.keep) / f"{asked.stage}{seed} {name}.npz" if asked.keep else None
    if path and path.exists():
        with np.load(path) as stored:
            return Run(*stored["numbers"], Worth(*stored["worth"]))
    run = make()
    print(f"  {name}: {run.seconds:.0f} s, smallest ESS {run.worth.counted.min():.0f}", flush=True)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, numbers=run[:-1], worth=run.worth)
    return run


def _long(problem, asked):
    """The reference."""
    longer = argparse.Namespace(
        chains=asked.chains,
        ess=TIMES * asked.ess,
        limit=asked.reference_limit,
        seed=REFERENCE_SEED + asked.seed,
    )
    return _run(problem, ours(problem), longer)


def _run(problem, sampler: Sampler, asked):
    chains = [sampler.start(asked.seed + k) for k in range(1, asked.chains + 1)]
    values = [[] for _ in chains]
    n, totals = sampler.first, np.zeros(4)
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
        done, size = sum(map(len, values[0])), found.counted.min()
        room = (asked.limit - totals[:2].sum()) / (totals[0] / done)
        n = draws_to_go(done, size, asked.ess, room)
        if size >= asked.ess or n < 0.05 * done:
            return Run(sampler.compile_seconds, asked.chains * done, *totals, found)


def _costs(runs, ess):
    """With warm-up effective draws per second, without it effective draws per gradient."""
    lines = [
        f"  {'':<34}{'compiling':>10}{'warm-up':>9}{'per draw':>10}{f'to ESS {ess}':>15}"
        f"   {'ESS per 1,000 gradients':<30}ESS per second",
        f"  {'':<34}{'s':>10}{'1000':>9}{'':>10}{'1000':>8}{'s':>7}"
        f"   {'smallest median log posterior':<30}smallest median",
    ]
    for name, run in runs.items():
        smallest, middle, lp = _sizes(run)
        compiling = "-" if np.isnan(run.compile_seconds) else f"{run.compile_seconds:.1f}"
        rates = [f"{1e3 * size / run.gradients:.2f}" for size in (smallest, middle, lp)]
        gradients = run.warmup + ess * run.gradients / smallest
        seconds = run.seconds * gradients / (run.warmup + run.gradients)
        lines.append(
            f"  {name:<34}{compiling:>10}{run.warmup / 1e3:>9.0f}{run.gradients / run.draws:>10.0f}"
            f"{gradients / 1e3:>8.0f}{seconds:>7.0f}"
            f"   {rates[0]:>8}{rates[1]:>7}{rates[2]:>14} "
            f"{smallest / run.seconds:>9.2f}{middle / run.seconds:>7.1f}"
        )
    return "\n".join(lines)


def _doubts(runs, reference, ess):
    """Whether they have sampled the same posterior, and what is shaky about the above."""
    lines = [f"  {'':<34}{'smallest ESS':>12}{'R-hat':>7}{'divergences':>13}"]
    if reference:
        lines[0] += "   bias in posterior sd (Monte Carlo error)"
        lines += [f"  {'':<66}   log posterior  log likelihood  log probabilities"]
        runs = runs | {"reference": reference}
    for name, run in runs.items():
        smallest, r_hat = run.worth.counted.min(), run.worth.r_hat.max()
        line = f"  {name:<34}{smallest:>12.0f}{r_hat:>7.3f}{run.divergences:>13.0f}   "
        if reference and run is not reference:
            apart = bias(run.worth, reference.worth)
            line += "".join(
                f"{value:+.2f} ({error:.2f})   " for value, error in (*apart[1::-1], apart[2])
            )
        doubts = [f"ESS below {ess}"] if smallest < ess else []
        doubts += [f"R-hat above {R_HAT_LIMIT}"] if r_hat > R_HAT_LIMIT else []
        lines.append((line + ", ".join(doubts)).rstrip())
    return "\n".join(lines)


def _sizes(run):
    """The smallest and the median ESS of log probabilities, and that of the log posterior."""
    return run.worth.counted.min(), np.median(run.worth.ess[:-2]), run.worth.ess[-1]


def _settings(text):
    warmup, target, depth = text.split(",")
    return {"iter_warmup": int(warmup), "adapt_delta": float(target), "max_treedepth": int(depth)}


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="05", help="of the ladder (default %(default)s)")
    parser.add_argument("--text", help="a file (default: the Zen of Python)")
    parser.add_argument("--batch-size", type=int, help="sequences of 8 characters")
    parser.add_argument("--n-embed", type=int, default=8)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="other ones 10 apart: chains add to it")
    parser.add_argument("--ess", type=int, help="the smallest that is enough")
    parser.add_argument("--limit", type=int, help="gradients of all chains of a sampler")
    parser.add_argument("--only", nargs="+", help="parts of names, such as: gptbayes MCLMC")
    parser.add_argument("--without", nargs="+", default=[], help="parts of names to leave out")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=[],
        type=_settings,
        metavar="100,0.8,7",
        help="warm-up, target acceptance and depth of more rows of ours",
    )
    parser.add_argument("--reference-limit", type=int, default=10_000_000, help="of the long run")
    parser.add_argument("--keep", metavar="FOLDER", help="keep runs here; those there are not done")
    parser.add_argument("--quick", action="store_true", help="less of everything: a few minutes")
    asked = parser.parse_args()
    if asked.quick and not asked.only:
        asked.only = ["gptbayes", "our kernels"]
    usual = (16, 30, 60_000) if asked.quick else (32, 400, 1_000_000)
    for name, value in zip(("batch_size", "ess", "limit"), usual, strict=True):
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


if __name__ == "__main__":
    main()
