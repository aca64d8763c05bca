"""The contraction of a fit in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from gptbayes.findings import EFFECTIVE_DRAWS_LIMIT, ESS_LIMIT

LEARNED_LIMIT = 0.5
"""In a direction with a larger contraction the text has more information than the prior."""
MAX_Z = 4
"""In directions that must not contract, a larger deviation in standard errors is an error."""


class Contraction(NamedTuple):
    """Contraction of a fit, from several points of view.

    Attributes
    ----------
    gauge : Dataset (direction), or None
        As `gauge_contraction`; None where no direction is known.
    local : Dataset (block, direction), or None
        As `local_contraction`; None for a model that is too large or has no normal prior.
    weights : Dataset (block)
        As `weight_contraction`.
    predictions : Dataset (position)
        As `prediction_contraction`.
    parts : dict of str to Dataset (layer, rank)
        As `compare_with_prior`, for each of `part_summaries`.
    sentences : list of str
        The results in words.
    """

    gauge: xr.Dataset | None
    local: xr.Dataset | None
    weights: xr.Dataset
    predictions: xr.Dataset
    parts: dict[str, xr.Dataset]
    sentences: list[str]


def contraction_sentences(found: Contraction) -> list[str]:
    """The contraction of a fit in words.

    Parameters
    ----------
    found : Contraction

    Returns
    -------
    list of str
        Without a capital at the beginning or a full stop at the end.
    """
    sentences = []
    if found.gauge is not None:
        sentences.append(gauge_sentence(found.gauge))
    if found.local is not None:
        sentences += _local_sentences(found.local)
    if found.predictions["contraction"].notnull().all():  # not with a vocabulary of one
        sentences.append(_prediction_sentence(found.predictions))
    for name, table in found.parts.items():
        sentences += _part_sentences(name, table)
    smallest = min(float(t["ess_bulk"].min()) for t in (found.predictions, found.weights))
    if smallest < ESS_LIMIT:
        sentences.append(
            f"the smallest ESS of a variance is {smallest:.0f}, below {ESS_LIMIT}: contraction is "
            "known only roughly"
        )
    return sentences


def gauge_sentence(gauge: xr.Dataset) -> str:
    """State whether directions that no prediction depends on keep their prior.

    Parameters
    ----------
    gauge : Dataset (direction)
        As of `gptbayes.diagnostics.contraction.gauge_contraction`.

    Returns
    -------
    str
    """
    t = (gauge["contraction"] / gauge["mcse"].where(gauge["mcse"] > 0)).fillna(0)
    worst = gauge.isel(direction=int(np.abs(t.values).argmax()))
    text = (
        f"contraction must be 0 in {int(gauge['n'].sum())} directions that no prediction depends "
        f"on; it deviates most for the {worst['direction'].item()}, "
        f"{100 * float(worst['contraction']):+.1f} % ± {100 * float(worst['mcse']):.1f} %"
    )
    if not float(gauge["ess_bulk"].min()) >= ESS_LIMIT:  # the errors themselves are unknown
        return f"{text}, too few effective draws to test that"
    if float(np.abs(t).max()) > MAX_Z:
        text += (
            f", more than {MAX_Z} Monte Carlo standard errors: these are not draws from the "
            "posterior"
        )
    return text


def _local_sentences(local):
    total, gauge = int(local["n"].sum()), float(local["gauge"].sum())
    learned, n_draws = float(local["learned"].sum()), local.attrs["n_draws"]
    settled = int((local["spectrum"] > LEARNED_LIMIT).sum())
    first = (
        f"{gauge:.0f} of {total} directions of weight space change no prediction for the text; in "
        f"the other {total - gauge:.0f} the effective number of parameters is {learned:.0f}, and "
        f"the text is more informative than the prior in {settled} of them (local normal "
        f"approximation at {n_draws} draw{'s' if n_draws > 1 else ''})"
    )
    some = local.isel(block=local["contraction"].notnull().values)
    if some.sizes["block"] < 2:
        return [first]
    ordered = some.sortby("contraction", ascending=False)
    most, least = (
        f"{ordered['block'].values[k]} ({100 * float(ordered['contraction'][k]):.0f} %)"
        for k in (0, -1)
    )
    return [first, f"contraction is largest for {most} and smallest for {least}"]


def _prediction_sentence(at):
    values = 100 * at["contraction"].values
    low, high = int(values.argmin()), int(values.argmax())
    text = (
        "the contraction of predictions (centred logits at the contexts of the text) is between "
        f"{values[low]:.0f} % at position {low + 1} and {values[high]:.0f} % at position "
        f"{high + 1}, with Monte Carlo standard errors of at most "
        f"{100 * float(at['mcse'].max()):.1f} %"
    )
    if values[low] >= 0:
        return text
    return f"{text}; it is negative where large weights make predictions vary more than a priori"


def _part_sentences(name, table):
    n = table.sizes["rank"]
    sentences = []
    for layer in range(table.sizes["layer"]):
        n_differ = int(table["differs"].isel(layer=layer).sum())
        where = f" in layer {layer + 1}" if table.sizes["layer"] > 1 else ""
        text = f"{name}{where}: {n_differ} of {n} ranks differ from the prior"
        few = table["ess_bulk"].isel(layer=layer) <= EFFECTIVE_DRAWS_LIMIT
        if bool(few.any()):
            text += f"; too few effective draws to tell for {int(few.sum())}"
        elif n_differ < n:
            text += "; the others are consistent with it"
        sentences.append(text)
    return sentences
