"""Replicates of simulation-based calibration: simulate, fit and rank."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr

from gptbayes import fit, home
from gptbayes.fit.directory import write_json
from gptbayes.groups import group
from gptbayes.inference import convert, settings_of
from gptbayes.model.simulate import generate_windows, prior_draws
from gptbayes.stats.summary import ess
from gptbayes.toolchain import interface
from gptbayes.validate.experiment import HMC_THIN, SMC_MOVES, Experiment, RankSettings
from gptbayes.validate.ranked_quantities import ranked_quantities

TIE_TOLERANCE = 1e-9
"""Values whose relative or absolute difference is smaller are tied: they differ by rounding."""
MAX_TREEDEPTH = 10


class Fitted(NamedTuple):
    """The ranked quantities of a fit, and diagnostics of the sampler.

    Attributes
    ----------
    quantities : DataArray (chain, draw, quantity)
    divergences, max_treedepth_hits : int
    init : str
        Starting point of the chain.
    """

    quantities: xr.DataArray
    divergences: int
    max_treedepth_hits: int
    init: str


class Model(Protocol):
    """The interface of a model for simulation-based calibration."""

    @property
    def key(self) -> list[int]:
        """Numbers that enter the seed, so that models have different random numbers."""

    def simulate(self, rng: np.random.Generator) -> tuple[Any, Any]:
        """Draw parameters from the prior, and simulate data from them.

        Parameters
        ----------
        rng : numpy.random.Generator

        Returns
        -------
        parameters, data
        """

    def true_values(self, parameters: Any, data: Any) -> xr.DataArray:
        """Compute the ranked quantities of the true parameters.

        Parameters
        ----------
        parameters, data
            As of `simulate`.

        Returns
        -------
        DataArray (chain, draw, quantity)
            Of a single draw.
        """

    def fit(self, data: Any, settings: RankSettings, iter_sampling: int, seed: int) -> Fitted:
        """Fit simulated data.

        Parameters
        ----------
        data
            As of `simulate`.
        settings : RankSettings
        iter_sampling, seed : int

        Returns
        -------
        Fitted
        """


@dataclass(frozen=True, eq=False)
class StageModel:
    """A stage as a model, see `gptbayes.validate.experiment.Experiment`."""

    experiment: Experiment

    @property
    def key(self):
        return [int(self.experiment.truth.stage.number)]

    def simulate(self, rng):
        truth = self.experiment.truth
        weights = {name: draw[0] for name, draw in prior_draws(truth, 1, rng).items()}
        return weights, generate_windows(truth, weights, rng)

    def true_values(self, parameters, data):
        truth = replace(self.experiment.truth, training=data)
        return ranked_quantities(truth, _as_posterior(truth, parameters))

    def fit(self, data, settings, iter_sampling, seed):
        """With the chosen starting point, or a random one if Pathfinder fails (rarely)."""
        try:
            idata = self._fit_from(self.experiment.init, data, iter_sampling, seed)
        except RuntimeError:
            if self.experiment.init == "random":
                raise
            idata = self._fit_from("random", data, iter_sampling, seed)
        truth, stats = replace(self.experiment.truth, training=data), idata.sample_stats
        return Fitted(
            ranked_quantities(truth, group(idata, "posterior")),
            int(stats["diverging"].sum()),
            int((stats["tree_depth"] >= MAX_TREEDEPTH).sum()) if "tree_depth" in stats else 0,
            settings_of(idata).get("init", "prior"),
        )

    def _fit_from(self, init, data, iter_sampling, seed):
        problem = replace(self.experiment.fitted, training=data)
        with tempfile.TemporaryDirectory(dir=home.temporary_folder()) as folder:
            if self.experiment.method == "smc":
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
            chain = {
                "chains": 1,
                "iter_warmup": self.experiment.iter_warmup,
                "init": init,
                "adapt_delta": self.experiment.adapt_delta,
                "seed": seed,
            }
            if self.experiment.method == "hmc":
                chain |= {"iter_sampling": HMC_THIN * iter_sampling, "thin": HMC_THIN}
                run = fit.hmc(problem, Path(folder) / "run", **chain)
            else:
                chain |= {"iter_sampling": iter_sampling, "max_treedepth": MAX_TREEDEPTH}
                run = fit.nuts(problem, Path(folder) / "run", **chain)
            return convert(fit.read_config(run), problem, fit.read_draws(run))


@dataclass(frozen=True, eq=False)
class ProgramModel:
    """A compiled program as a model, with prior, simulation and quantities as Python functions."""

    executable: str
    prior: Callable[[np.random.Generator], Mapping[str, Any]]
    simulation: Callable[..., Mapping[str, Any]]
    quantities: Callable[..., Mapping[str, Any]]
    adapt_delta: float = 0.8

    @property
    def key(self):
        return []

    def simulate(self, rng):
        parameters = {name: np.asarray(value) for name, value in self.prior(rng).items()}
        return parameters, dict(self.simulation(parameters, rng))

    def true_values(self, parameters, data):
        return self._values({name: value[None] for name, value in parameters.items()}, data, 1)

    def fit(self, data, settings, iter_sampling, seed):
        with tempfile.TemporaryDirectory(dir=home.temporary_folder()) as folder:
            fitted = interface.run(
                self.executable,
                "sample",
                data=data,
                chains=1,
                iter_warmup=settings.iter_warmup,
                iter_sampling=iter_sampling,
                adapt_delta=self.adapt_delta,
                max_treedepth=MAX_TREEDEPTH,
                seed=seed,
                sig_figs=17,
                output_dir=folder,
            )
            draws, stats = fitted.stan_variables(), fitted.method_variables()
        return Fitted(
            self._values(draws, data, iter_sampling),
            int(stats["divergent__"].sum()),
            int((stats["treedepth__"] >= MAX_TREEDEPTH).sum()),
            "random",
        )

    def _values(self, parameters, data, n):
        found = {
            k: np.asarray(v, dtype=float) for k, v in self.quantities(parameters, data).items()
        }
        if not found:
            raise ValueError("quantities must be at least one, got none")
        for name, value in found.items():
            if value.shape != (n,) or not np.isfinite(value).all():
                what = "nan or infinity" if value.shape == (n,) else f"shape {value.shape}"
                raise ValueError(f"the quantity {name} must be finite of shape ({n},), got {what}")
        columns = np.stack(list(found.values()), axis=-1)[None]
        dims = ("chain", "draw", "quantity")
        return xr.DataArray(columns, dims=dims, coords={"quantity": list(found)})


@dataclass(frozen=True, eq=False)
class Replicate:
    """One replicate: simulated data, a fit, and one rank for each quantity.

    Attributes
    ----------
    model : Model
    settings : RankSettings
    index : int
        Number of the replicate. With ``seed`` it determines all random numbers.
    seed : int
    result : str
        Path of the JSON file with the ranks.
    """

    model: Model
    settings: RankSettings
    index: int
    seed: int
    result: str


def run_replicate(unit: Replicate) -> list[Path]:
    """Draw parameters, simulate data, fit them, and write the ranks to a JSON file.

    Parameters
    ----------
    unit : Replicate

    Returns
    -------
    list of pathlib.Path
        That file.

    Raises
    ------
    RuntimeError
        If the fit fails.
    """
    start = time.perf_counter()
    model, settings = unit.model, unit.settings
    rng = np.random.default_rng([unit.seed, *model.key, unit.index])
    parameters, data = model.simulate(rng)
    fitted = _fit_until_long_enough(model, settings, data, int(rng.integers(2**32)))
    true_value = model.true_values(parameters, data)
    draws = fitted.quantities
    names = [str(name) for name in draws["quantity"].values]
    ranks = _ranks(true_value.values[0, 0], draws.values[0], settings.n_ranked, rng)
    sizes = ess(draws)["ess_bulk"].values
    result = {
        "rank": dict(zip(names, ranks.tolist(), strict=True)),
        "ess": dict(zip(names, np.round(sizes, 1).tolist(), strict=True)),
        "n_draws": draws.sizes["draw"],
        "divergences": fitted.divergences,
        "max_treedepth_hits": fitted.max_treedepth_hits,
        "init": fitted.init,
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(Path(unit.result), result)
    return [Path(unit.result)]


def _fit_until_long_enough(model, settings, data, seed):
    """Fit until all ranked quantities have an ESS of ``n_ranked``, or the chain is longest."""
    for doubling in range(settings.max_doublings + 1):
        fitted = model.fit(data, settings, settings.iter_sampling * 2**doubling, seed)
        sizes = ess(fitted.quantities)["ess_bulk"].values
        if np.nanmin(sizes) >= settings.n_ranked:  # nan for a constant
            break
    return fitted


def _ranks(true_value, draws, n_ranked, rng):
    """Ranks among evenly spaced draws; ties are broken at random."""
    thinned = draws[np.arange(n_ranked) * len(draws) // n_ranked]  # (n_ranked, quantity)
    tied = np.isclose(thinned, true_value, rtol=TIE_TOLERANCE, atol=TIE_TOLERANCE)
    below = ((thinned < true_value) & ~tied).sum(axis=0)
    return below + rng.integers(tied.sum(axis=0) + 1)


def _as_posterior(problem, weights):
    dims = {p.name: ("chain", "draw", *p.dims) for p in problem.stage.parameters}
    return xr.Dataset({name: (dims[name], value[None, None]) for name, value in weights.items()})
