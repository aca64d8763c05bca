"""Numbers and names as the report and the commands show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from gptbayes.findings import probability_words


def percent(share: float) -> str:
    """A share as per cent."""
    return f"{100 * share:.0f} %"


def interval(one: xr.Dataset, *, digits: int = 2, sign: str = "+") -> str:
    """A mean with its interval; a single draw has none."""
    mean, lower, upper = (float(one[name]) for name in ("mean", "lower", "upper"))
    shown = f"{mean:{sign}.{digits}f}"
    if np.isnan(lower):
        return shown
    return f"{shown} ({lower:{sign}.{digits}f} to {upper:{sign}.{digits}f})"


def effective_positions(one: xr.Dataset) -> str:
    """The effective number of positions of a row of attention weights, with its interval."""
    names = {f"effective_positions_{end}": end for end in ("lower", "upper")}
    names["effective_positions"] = "mean"
    return interval(one[[*names]].rename(names), sign="")


def p_value(p: float) -> str:
    """A p-value with two digits."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def named_heads(sizes: Mapping[Any, int]) -> Iterator[tuple[int, int, str]]:
    """Layer, head and name of each head."""
    for layer, head in np.ndindex(sizes["layer"], sizes["head"]):
        name = f"head {head + 1}" + (f", layer {layer + 1}" if sizes["layer"] > 1 else "")
        yield layer, head, name


def ablation_cells(one: xr.Dataset) -> tuple[str, str, str]:
    """The cost of an ablation: posterior, prior, and the probability that it is positive."""
    ours = one.sel(source="posterior")
    posterior, prior = (
        interval(one.sel(source=source), digits=3) for source in ("posterior", "prior")
    )
    probability = probability_words(ours["prob_positive"], ours["prob_positive_mcse"])
    return posterior, prior, probability


def sentence(text: str) -> str:
    """A clause as a sentence: a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
