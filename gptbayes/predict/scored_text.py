"""Display of scored text: levels of probability, wide intervals, average entropy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

PROBABILITY_LEVELS = (0.05, 0.15, 0.35, 0.6)
"""Boundaries between the five shades of a scored character."""
WIDE_INTERVAL = 0.4
"""Characters whose probability has a wider interval are marked."""


def probability_level(probability: float) -> int:
    """Return the shade of a probability.

    Parameters
    ----------
    probability : float

    Returns
    -------
    int
        From 0, the least probable, to 4.
    """
    return int(np.searchsorted(PROBABILITY_LEVELS, probability))


def has_wide_interval(row: xr.Dataset | Mapping[str, float]) -> bool:
    """Return whether the interval of a character's probability is wider than `WIDE_INTERVAL`.

    Parameters
    ----------
    row : Dataset () or mapping
        One character of `gptbayes.predict.score_text`.

    Returns
    -------
    bool
    """
    return bool(row["upper"] - row["lower"] > WIDE_INTERVAL)


def entropy_sentence(scored: xr.Dataset) -> str:
    """State the average entropy of the characters of a text in a sentence.

    Parameters
    ----------
    scored : Dataset (new_position)
        As of `gptbayes.predict.score_text`.

    Returns
    -------
    str
    """
    total, within = (float(scored[name].mean()) for name in ("total", "mutual_information"))
    text = f"Entropy of the next character: {total:.2f} nats on average"
    if np.isnan(scored["mcse_mean"]).all():
        return f"{text}, for one set of weights."
    error = float(xr.concat([scored["total_mcse"], scored["mutual_information_mcse"]], "x").max())
    n_wide = int((scored["upper"] - scored["lower"] > WIDE_INTERVAL).sum())
    return (
        f"{text}, of which {within:.2f} is due to uncertainty about the weights (Monte Carlo "
        f"errors at most {error:.2f}); the interval of the probability is wider than "
        f"{WIDE_INTERVAL} for {n_wide} of {scored.sizes['new_position']} characters."
    )
