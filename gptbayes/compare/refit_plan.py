"""Finished runs, and the refits of them that leave-one-out needs: which, and at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.corpus import whole_number
from gptbayes.inference import settings_of
from gptbayes.processes import n_cores


class FittedRun(NamedTuple):
    """A finished run.

    Attributes
    ----------
    name : str
        Its name in the comparison.
    folder : pathlib.Path
    idata : InferenceData
    """

    name: str
    folder: Path
    idata: az.InferenceData


class RefitPlan(NamedTuple):
    """The refits of a run, with estimates of their cost.

    Attributes
    ----------
    name : str
        Name of the run.
    n_sequences, n_bad : int
        Number of sequences, and number of those with a Pareto k above its limit.
    sequences : tuple of int
        Sequences to leave out and refit, by decreasing k.
    n_finished : int
        Number of these refits that are finished.
    seconds : float
        Estimated time of the others, from the time that the run took; nan if that is unknown.
    n_bytes : float
        Estimated disk space of the others, in bytes.
    """

    name: str
    n_sequences: int
    n_bad: int
    sequences: tuple[int, ...]
    n_finished: int
    seconds: float
    n_bytes: float


def plan_refits(
    run: FittedRun,
    psis: xr.Dataset,
    *,
    refits: str | int = "all",
    settings: Mapping[str, object] | None = None,
) -> RefitPlan:
    """Choose the sequences to leave out and refit, and estimate the cost.

    Parameters
    ----------
    run : FittedRun
        Of NUTS or HMC.
    psis : Dataset
        `gptbayes.predict.loo` of the run.
    refits : {"all", "none"} or int
        All sequences with a Pareto k above its limit, none, or at most this many, by decreasing k.
    settings : mapping, optional
        Settings of `gptbayes.fit.nuts`, where they differ from those of the run.

    Returns
    -------
    RefitPlan

    Raises
    ------
    ValueError
        If ``refits`` is anything else.
    """
    if refits not in ("all", "none"):
        try:
            refits = whole_number("refits", refits, least=0)
        except ValueError:
            raise ValueError(f"refits must be all, none or a number, got {refits!r}") from None
    k = psis.pareto_k.values
    too_large = k > float(psis.pareto_k_limit)
    worst_first = [int(i) for i in np.argsort(-k, kind="stable") if too_large[i]]
    limit = refits if isinstance(refits, int) else {"all": len(worst_first), "none": 0}[refits]
    sequences = tuple(worst_first[:limit])
    wanted = refit_settings(run, settings)
    finished = sum(_is_finished(refit_folder(run, sequence), wanted) for sequence in sequences)
    left = len(sequences) - finished
    files = [*(run.folder / "csv").glob("chain-*.csv"), run.folder / "posterior.nc"]
    on_disk = sum(path.stat().st_size for path in files if path.exists())
    own = refit_settings(run, None)
    draws = _product(wanted, "iter_sampling") / _product(own, "iter_sampling")
    return RefitPlan(
        name=run.name,
        n_sequences=len(k),
        n_bad=len(worst_first),
        sequences=sequences,
        n_finished=finished,
        seconds=left * estimated_seconds(run, settings) if left else 0.0,
        n_bytes=left * on_disk * draws,
    )


def estimated_seconds(run: FittedRun, settings: Mapping[str, object] | None = None) -> float:
    """Estimate the time of a fit with other settings from the time that the chains of a run took.

    Parameters
    ----------
    run : FittedRun
    settings : mapping, optional
        As for `plan_refits`.

    Returns
    -------
    float
        In seconds, on this machine; nan if the time of the run is unknown.
    """
    own, wanted = refit_settings(run, None), refit_settings(run, settings)
    per_chain = float(np.mean(json.loads(run.idata.attrs["seconds"])))
    longer = _iterations(wanted) / _iterations(own)
    at_once = min(wanted["chains"], n_cores())
    return per_chain * longer * math.ceil(wanted["chains"] / at_once)


def refit_settings(run: FittedRun, settings: Mapping[str, object] | None = None) -> dict:
    """The settings of `gptbayes.fit.nuts` or `gptbayes.fit.hmc` for a refit of a run.

    Parameters
    ----------
    run : FittedRun
    settings : mapping, optional
        Where they differ from those of the run.

    Returns
    -------
    dict
    """
    own = settings_of(run.idata)
    own.pop("continued_after", None)  # of its iterations, which a refit runs at once
    if "chains" in (settings or {}):  # the run's number of superchains may not divide it
        own = {**own, "superchains": None}
    return {**own, **(settings or {})}


def refit_folder(run: FittedRun, sequence: int) -> Path:
    """The run directory of the refit without a sequence.

    Parameters
    ----------
    run : FittedRun
    sequence : int
        0-based.

    Returns
    -------
    pathlib.Path
    """
    return run.folder / "refits" / f"sequence-{sequence:03d}"


def _iterations(settings):
    return settings["iter_warmup"] + settings["iter_sampling"]


def _product(settings, name):
    return settings["chains"] * settings[name]


def _is_finished(folder, settings):
    names = [f"chain-{k}.csv" for k in range(1, settings["chains"] + 1)]
    return all((folder / "csv" / name).exists() for name in names)
