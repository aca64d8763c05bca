"""What a fit contains: its problem, the draws as arrays, the starting points of its chains."""

from __future__ import annotations

import functools
import json
from typing import Any

import arviz as az
import numpy as np

from gptbayes.fit import start_of_chain
from gptbayes.groups import group, group_names, make_groups
from gptbayes.model.problem import Problem
from gptbayes.model.stan_data import from_stan_data


def problem_of(idata: az.InferenceData) -> Problem:
    """Rebuild the problem that was fitted from the attributes of InferenceData.

    Parameters
    ----------
    idata : InferenceData
        As `open_run` returns it.

    Returns
    -------
    Problem

    See Also
    --------
    gptbayes.fit.read_problem : The same from a run directory.
    """
    return _problem(*(idata.attrs[name] for name in ("stan_data", "stage", "characters", "source")))


def parameters_of(idata: az.InferenceData, group: str = "posterior") -> dict[str, np.ndarray]:
    """Get the draws of a group as arrays for `gptbayes.model.forward.forward`.

    Parameters
    ----------
    idata : InferenceData
    group : {"posterior", "prior"}

    Returns
    -------
    dict of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    """
    return {
        name: variable.transpose("chain", "draw", ...).values
        for name, variable in idata[group].data_vars.items()
    }


def settings_of(idata: az.InferenceData) -> dict[str, Any]:
    """Get the settings that a fit was run with.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    dict of str
        Those of its method, as in ``config.json``.
    """
    return json.loads(idata.attrs["settings"])


def superchains_of(idata: az.InferenceData) -> list[int] | None:
    """Get the superchain of each chain: the chains of a superchain have the same starting point.

    Parameters
    ----------
    idata : InferenceData
        Of NUTS or HMC, with all of its chains or some of them.

    Returns
    -------
    list of int, (chain,), or None
        None if the fit has no superchains.
    """
    settings = settings_of(idata)
    if settings.get("superchains") is None:
        return None
    starts = start_of_chain(settings["chains"], settings["superchains"])
    return [starts[chain] for chain in idata.posterior["chain"].values]


def ensemble_of(idata: az.InferenceData) -> az.InferenceData | None:
    """Get the modes of all starts of an optimizer as a fit of their own, a deep ensemble.

    Parameters
    ----------
    idata : InferenceData

    Returns
    -------
    InferenceData or None
        ``posterior`` has one chain, whose draws are the modes with equal weights (Lakshminarayanan
        et al. 2017). None for a single mode and for other methods.
    """
    if idata.attrs["method"] != "optimize" or "modes" not in group_names(idata):
        return None
    modes = group(idata, "modes")
    if modes.sizes["draw"] < 2:
        return None
    return make_groups({"posterior": modes}, {**idata.attrs, "method": "ensemble"})


@functools.lru_cache(maxsize=16)
def _problem(data, stage_number, characters, source):
    """A pure function of four strings, which many callers ask of the same fit."""
    return from_stan_data(
        json.loads(data),
        stage_number=stage_number,
        characters=tuple(json.loads(characters)),
        source=source,
    )
