"""The levels of sequential Monte Carlo as a group of InferenceData."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.fit import Level, levels_of, n_units
from gptbayes.fit.tempering import between_share
from gptbayes.groups import add_group


def tempering_path(levels: Sequence[Sequence[Level]]) -> xr.Dataset:
    """The levels of sequential Monte Carlo, from the prior to the posterior.

    Parameters
    ----------
    levels : sequence of sequence of gptbayes.fit.Level
        Of each replicate; they may have different numbers of levels.

    Returns
    -------
    Dataset (chain, level)
        ``likelihood_weight``; ``log_lik`` (chain, level, draw) of all particles with its
        ``log_lik_mean`` and ``log_lik_var``; ``log_evidence``; ``ess`` of the weights that led
        here, as a share of the particles; ``step_size``, ``acceptance_rate``, ``n_steps``,
        ``n_divergent``; ``n_ancestors``, how many particles of level 0 have descendants;
        ``between_share``, the share of the variance of ``log_lik`` that is between the segments,
        see `gptbayes.fit.tempering.between_share`; ``seconds`` and of these ``stan_seconds``.
        Nan beyond the last level of a replicate. Nats.
    """
    n_level = max(map(len, levels))
    columns = {name: np.full((len(levels), n_level), np.nan) for name in _LEVEL_COLUMNS}
    log_lik = np.full((len(levels), n_level, levels[0][0].log_lik.size), np.nan)
    for k, replicate in enumerate(levels):
        for i, level in enumerate(replicate):
            log_lik[k, i] = level.log_lik.ravel()
            for name, of in _LEVEL_COLUMNS.items():
                columns[name][k, i] = of(level)
    variables = {name: (("chain", "level"), values) for name, values in columns.items()}
    return xr.Dataset(
        {**variables, "log_lik": (("chain", "level", "draw"), log_lik)},
        {"chain": range(len(levels)), "level": range(n_level), "draw": range(log_lik.shape[-1])},
    )


def add_path(idata: az.InferenceData, config: dict, folder: Path) -> None:
    """Add the group ``path``, and the segment and the ancestor of each draw, in place.

    Parameters
    ----------
    idata : InferenceData
        A fit by sequential Monte Carlo.
    config : dict
        As `gptbayes.fit.read_config` returns it.
    folder : pathlib.Path
        Where its levels are.
    """
    levels = [levels_of(folder, k + 1) for k in range(n_units(config))]
    path = tempering_path(levels)
    n_chain, n_move = levels[0][-1].log_lik.shape
    segment = np.tile(np.repeat(np.arange(n_chain), n_move), (len(levels), 1))
    ancestor = np.stack([each[-1].ancestor.ravel() for each in levels])
    for name, values in {"segment": segment, "ancestor": ancestor}.items():
        idata.sample_stats[name] = xr.DataArray(values, dims=("chain", "draw"))
    add_group(idata, "path", path)
    idata.attrs["seconds"] = json.dumps(path["seconds"].sum("level").values.tolist())


_LEVEL_COLUMNS = {
    "likelihood_weight": lambda level: level.likelihood_weight,
    "log_lik_mean": lambda level: level.log_lik.mean(),
    "log_lik_var": lambda level: level.log_lik.var(ddof=1),
    "log_evidence": lambda level: level.log_evidence,
    "ess": lambda level: level.ess,
    "step_size": lambda level: level.step_size,
    "acceptance_rate": lambda level: level.acceptance,
    "n_steps": lambda level: level.n_steps,
    "n_divergent": lambda level: level.n_divergent,
    "n_ancestors": lambda level: len(np.unique(level.ancestor)),
    "between_share": lambda level: between_share(level.log_lik) if level.start.size else 0.0,
    "seconds": lambda level: level.seconds,
    "stan_seconds": lambda level: level.stan_seconds,
}
