"""The barriers between chains in words."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import mannwhitneyu

from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT

MIN_PAIRS = 5
"""Medians over fewer pairs of chains are imprecise."""
ALPHA = 0.01
"""Level of the test of arcs between chains against arcs within chains."""
_PATHS = {
    "straight": "straight paths",
    "arc": "arcs",
    "curve": "optimised curves",
}


def connection_sentences(found: xr.Dataset) -> list[str]:
    """The barriers between chains in words.

    Parameters
    ----------
    found : Dataset
        As `gptbayes.diagnostics.mode_connectivity.connect_chains` returns it.

    Returns
    -------
    list of str
        Without a capital at the beginning or a full stop at the end.
    """
    between = ~found["same_chain"].values
    sd, paths = found.attrs["sd"], [str(name) for name in found["path"].values]
    sentences = []
    if between.any():
        sentences += [_barrier_sentence(found, path, between) for path in paths]
        if "arc" in paths and not between.all():
            barriers = found["barrier"].sel(path="arc", alignment="aligned")
            effective = float(found.attrs.get("ess", np.inf))
            sentences.append(_excess_sentence(barriers, between, sd, effective))
    if np.isfinite(sd):
        sentences.append(
            f"the standard deviation of the log posterior over draws of one chain is {sd:.1f} nats"
        )
    n = int(between.sum())
    if n == 0:
        sentences.append("no draws of different chains were connected")
    elif n < MIN_PAIRS:
        sentences.append(f"a median over {n} pair{'s' * (n > 1)} of chains is imprecise")
    line = found["log_posterior"].sel(path="straight", alignment="aligned")
    rise = float((line.max("point") - line.isel(point=[0, -1]).max("point")).median())
    if rise > 2 * sd:
        sentences.append(
            f"straight paths rise {rise:.0f} nats above their ends, as paths between draws in many "
            "dimensions do, and hide any lower barrier; arcs do not"
        )
    return [*sentences, found.attrs["note"]] if found.attrs["note"] else sentences


def _barrier_sentence(found, path, between):
    one = found["barrier"].sel(path=path)
    drawn, aligned = (
        _median(one.sel(alignment=name).values[between]) for name in ("as drawn", "aligned")
    )
    text = (
        f"{_PATHS[path]} between {found.attrs['ends']} of different chains have a median barrier "
        f"of {drawn} before and {aligned} after alignment"
    )
    if between.all():
        return text
    same = one.sel(alignment="aligned").values[~between]
    return f"{text}; between draws of one chain it is {_median(same)} after alignment"


def _excess_sentence(barriers, between, sd, ess):
    """The excess barrier of arcs between chains over arcs within chains, with a test.

    Ranks of the pairs are compared (Mann & Whitney 1947): barriers are skewed and pairs are few.
    Draws half a chain apart are independent only if the chain has many effective draws.
    """
    apart, together = (barriers.values[which] for which in (between, ~between))
    excess = float(np.median(apart) - np.median(together))
    start = "after alignment the median barrier of arcs is"
    if excess <= 0:
        return f"{start} no higher between chains than within chains"
    if not ess >= EFFECTIVE_DRAWS_LIMIT:
        return (
            f"{start} {excess:.1f} nats higher between chains than within chains, but chains have "
            "too few effective draws to tell modes from slow mixing"
        )
    p = float(mannwhitneyu(apart, together, alternative="greater").pvalue)
    text = f"{start} {excess:.1f} nats higher between chains than within chains"
    if p > ALPHA:
        return f"{text}, which is within chance for this number of pairs (p = {p:.2g})"
    if excess <= sd:
        return (
            f"{text} (p = {p:.2g}), which is less than the standard deviation of the log posterior "
            "over draws"
        )
    return (
        f"{text} (p = {p:.2g}): the chains are in different modes, or they differ by a symmetry "
        "that alignment does not include"
    )


def _median(values):
    if not values.size:
        return "not available"
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.1f} nats ({low:.1f} to {high:.1f})"
