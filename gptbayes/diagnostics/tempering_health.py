"""Diagnostics of the levels of sequential Monte Carlo."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import Finding
from gptbayes.groups import group, group_names
from gptbayes.inference import settings_of

BETWEEN_LIMIT = 0.5
"""Largest share of the variance of the log likelihood that may be between segments."""
WEIGHTS_LIMIT = 0.1
"""Smallest effective sample size of a level's weights, as a share of the particles."""
ACCEPTANCE_LIMITS = (0.5, 0.98)
"""Smallest and largest mean acceptance statistic of a suitable step size."""
SPREAD_LIMIT = 1.0
"""Largest standard deviation of log Z over replicates, in nats. If it is larger, the mean of Z is
dominated by the largest of them."""


def path_findings(idata: az.InferenceData) -> list[Finding]:
    """State whether the path from prior to posterior is reliable, the most serious problem first.

    Parameters
    ----------
    idata : InferenceData
        Of `gptbayes.fit.smc`.

    Returns
    -------
    list of Finding
        On surviving first particles, kernels that did not move, levels too far apart, step sizes,
        divergent transitions, and the spread of the replicates.

    Raises
    ------
    ValueError
        If the fit has no path.
    """
    path = path_of(idata)
    settings = settings_of(idata)
    return [
        _ancestors(path, settings),
        _moving(path, settings),
        _distances(path),
        *_step_sizes(path),
        _divergences(path),
        _replicates(path),
    ]


def path_of(idata: az.InferenceData) -> xr.Dataset:
    """The group ``path`` of a fit by sequential Monte Carlo.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    Dataset (chain, level)
        As of `gptbayes.inference.smc_path`.

    Raises
    ------
    ValueError
        If the fit is of another method.
    """
    if "path" not in group_names(idata):
        raise ValueError(f"a path is that of smc, got a fit by {idata.attrs['method']}")
    return group(idata, "path")


def last_level(values: xr.DataArray) -> np.ndarray:
    """Values of each replicate at its last level.

    Parameters
    ----------
    values : DataArray (chain, level)
        Nan beyond the last level of a replicate.

    Returns
    -------
    ndarray, (chain,)
    """
    table = values.transpose("chain", "level").values
    last = (~np.isnan(table)).sum(axis=1) - 1
    return table[np.arange(len(table)), last]


def _ancestors(path, settings):
    survivors = last_level(path["n_ancestors"]).astype(int)
    n = settings["draws"]
    if survivors.min() > 1:
        return Finding(
            True,
            f"the draws of a replicate descend from {_range(survivors)} of its {n} first particles",
        )
    alone = [str(k + 1) for k in np.flatnonzero(survivors == 1)]
    which = "every replicate" if len(alone) == len(survivors) else f"replicate {', '.join(alone)}"
    return Finding(
        False,
        f"all draws of {which} descend from one of {n} first particles: masses of modes that NUTS "
        "does not move between are not estimated; run more "
        f"chains (now {settings['chains']})",
    )


def _moving(path, settings):
    share = path["between_share"].isel(level=slice(1, None))
    bad, n = int((share > BETWEEN_LIMIT).sum()), int(share.notnull().sum())
    worst = float(share.max()) if n else 0.0
    if not bad:
        text = f"at most {worst:.0%} of the variance of the log likelihood is between segments"
        return Finding(True, text)
    return Finding(
        False,
        f"at {bad} of {n} levels more than {BETWEEN_LIMIT:.0%} of the variance of the log "
        f"likelihood is between segments, {_where(path, share)}: draws of a segment are "
        f"nearly copies of the particle that it started from; run more moves (now "
        f"{settings['moves']})",
    )


def _distances(path):
    ess = path["ess"].isel(level=slice(1, None))
    bad, n = int((ess < WEIGHTS_LIMIT).sum()), int(ess.notnull().sum())
    smallest = float(ess.min()) if n else 1.0
    text = f"smallest effective sample size of a level's weights: {smallest:.0%} of the particles"
    if not bad:
        return Finding(True, text)
    return Finding(
        False,
        f"{text}, {_where(path, -ess)}, below {WEIGHTS_LIMIT:.0%} at {bad} of {n}: levels are too "
        "far apart, the evidence rests on a few particles; add levels",
    )


def _step_sizes(path):
    acceptance = path["acceptance_rate"].isel(level=slice(1, None))
    low, high = ACCEPTANCE_LIMITS
    n = int(acceptance.notnull().sum())
    too_large, too_small = int((acceptance < low).sum()), int((acceptance > high).sum())
    found = []
    if too_large:
        found.append(
            Finding(
                False,
                f"mean acceptance below {low} at {too_large} of {n} levels, "
                f"{_where(path, -acceptance)}: the step size was too large there, and "
                "particles hardly moved",
            )
        )
    if too_small:
        found.append(
            Finding(
                False,
                f"mean acceptance above {high} at {too_small} of {n} levels, "
                f"{_where(path, acceptance)}: the step size was too small there, which "
                "costs time, and distance where trajectories end at max_treedepth",
            )
        )
    if not found:
        smallest, largest = float(acceptance.min()), float(acceptance.max())
        found.append(Finding(True, f"mean acceptance of a level {smallest:.2f} to {largest:.2f}"))
    return found


def _divergences(path):
    count = int(path["n_divergent"].sum())
    text = f"{count} divergent transitions on the way"
    if not count:
        return Finding(True, text)
    return Finding(False, f"{text}: parts of the levels' distributions were not explored")


def _replicates(path):
    log_z = last_level(path["log_evidence"])
    if len(log_z) < 2:
        return Finding(
            False,
            "one replicate: evidence and masses of modes have no standard error; run more",
        )
    sd = float(log_z.std(ddof=1))
    text = f"log evidence of {len(log_z)} replicates: standard deviation {sd:.2f} nats"
    if sd <= SPREAD_LIMIT:
        return Finding(True, text)
    return Finding(
        False,
        f"{text}, above {SPREAD_LIMIT:g}: their mean rests on the largest, and is "
        "probably too small; run more chains or moves",
    )


def _where(path, badness):
    """The level at which something is worst, in words."""
    flat = badness.fillna(-np.inf).transpose("chain", "level").values
    chain, level = np.unravel_index(flat.argmax(), flat.shape)
    level += path.sizes["level"] - flat.shape[1]
    weight = float(path["likelihood_weight"][chain, level])
    value = abs(float(flat.max()))
    return f"worst {value:.2g} at likelihood weight {weight:.2g} of replicate {chain + 1}"


def _range(values):
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
