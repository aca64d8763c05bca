"""Replicates of simulation-based calibration: simulate, fit and rank."""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from gptbayes import fit, home
from gptbayes.fit.directory import write_json
from gptbayes.groups import group
from gptbayes.inference import convert
from gptbayes.model.simulate import generate_windows, prior_draws
from gptbayes.stats.summary import ess
from gptbayes.validate.experiment import SMC_MOVES, Experiment
from gptbayes.validate.ranked_quantities import ranked_quantities

TIE_TOLERANCE = 1e-9
"""Values whose relative or absolute difference is smaller are tied: they differ by rounding."""
MAX_TREEDEPTH = 10


@dataclass(frozen=True, eq=False)
class Replicate:
    """One replicate: a simulated text, a fit, and one rank for each quantity.

    Attributes
    ----------
    experiment : Experiment
    index : int
        Number of the replicate. With ``seed`` it determines all random numbers.
    seed : int
    result : str
        Path of the JSON file with the ranks.
    """

    experiment: Experiment
    index: int
    seed: int
    result: str


def run_replicate(unit: Replicate) -> None:
    """Draw parameters, simulate a text, fit it, and write the ranks to a JSON file.

    Parameters
    ----------
    unit : Replicate

    Raises
    ------
    RuntimeError
        If the fit fails.
    """
    start = time.perf_counter()
    experiment = unit.experiment
    rng = np.random.default_rng([unit.seed, int(experiment.truth.stage.number), unit.index])
    weights = {name: draw[0] for name, draw in prior_draws(experiment.truth, 1, rng).items()}
    text = generate_windows(experiment.truth, weights, rng)
    truth = replace(experiment.truth, training=text)
    fitted = replace(experiment.fitted, training=text)
    idata = _fit_until_long_enough(experiment, truth, fitted, int(rng.integers(2**32)))
    stats = idata.sample_stats
    draws = ranked_quantities(truth, group(idata, "posterior"))
    true_value = ranked_quantities(truth, _as_posterior(truth, weights))
    names = [str(name) for name in draws["quantity"].values]
    ranks = _ranks(true_value.values[0, 0], draws.values[0], experiment.n_ranked, rng)
    sizes = ess(draws)["ess_bulk"].values
    result = {
        "rank": dict(zip(names, ranks.tolist(), strict=True)),
        "ess": dict(zip(names, np.round(sizes, 1).tolist(), strict=True)),
        "n_draws": draws.sizes["draw"],
        "divergences": int(stats["diverging"].sum()),
        "max_treedepth_hits": int((stats["tree_depth"] >= MAX_TREEDEPTH).sum()),
        "init": json.loads(idata.attrs["settings"]).get("init", "prior"),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(Path(unit.result), result)


def _fit_until_long_enough(experiment, truth, fitted, seed):
    """Fit until all ranked quantities have an ESS of ``n_ranked``, or the chain is longest."""
    for doubling in range(experiment.max_doublings + 1):
        idata = _fit(experiment, fitted, experiment.iter_sampling * 2**doubling, seed)
        sizes = ess(ranked_quantities(truth, group(idata, "posterior")))["ess_bulk"].values
        if np.nanmin(sizes) >= experiment.n_ranked:  # nan for a constant
            break
    return idata


def _fit(experiment, problem, iter_sampling, seed):
    """Fit with the chosen starting point, or a random one if Pathfinder fails (rarely)."""
    try:
        return _fit_from(experiment.init, experiment, problem, iter_sampling, seed)
    except RuntimeError:
        if experiment.init == "random":
            raise
        return _fit_from("random", experiment, problem, iter_sampling, seed)


def _fit_from(init, experiment, problem, iter_sampling, seed):
    with tempfile.TemporaryDirectory(dir=home.temporary_folder()) as folder:
        if experiment.method == "smc":
            run = fit.smc(
                problem,
                Path(folder) / "run",
                replicates=1,
                chains=math.ceil(iter_sampling / SMC_MOVES),
                moves=SMC_MOVES,
                max_treedepth=MAX_TREEDEPTH,
                seed=seed,
            )
            return convert(fit.read_config(run), problem, fit.read_draws(run))
        run = fit.nuts(
            problem,
            Path(folder) / "run",
            chains=1,
            iter_warmup=experiment.iter_warmup,
            iter_sampling=iter_sampling,
            init=init,
            adapt_delta=experiment.adapt_delta,
            max_treedepth=MAX_TREEDEPTH,
            seed=seed,
        )
        return convert(fit.read_config(run), problem, fit.read_draws(run))


def _ranks(true_value, draws, n_ranked, rng):
    """Ranks among evenly spaced draws; ties are broken at random."""
    thinned = draws[np.arange(n_ranked) * len(draws) // n_ranked]  # (n_ranked, quantity)
    tied = np.isclose(thinned, true_value, rtol=TIE_TOLERANCE, atol=TIE_TOLERANCE)
    below = ((thinned < true_value) & ~tied).sum(axis=0)
    return below + rng.integers(tied.sum(axis=0) + 1)


def _as_posterior(problem, weights):
    dims = {p.name: ("chain", "draw", *p.dims) for p in problem.stage.parameters}
    return xr.Dataset({name: (dims[name], value[None, None]) for name, value in weights.items()})
