"""Jensen-Shannon divergence between predictions, corrected for Monte Carlo error."""

from __future__ import annotations

import numpy as np
from scipy.special import entr


def jensen_shannon(halves: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence between all pairs of units, corrected for Monte Carlo error.

    Parameters
    ----------
    halves : ndarray, (unit, half, context, token)
        Mean probabilities over each half of the draws of a unit, see `half_means`.

    Returns
    -------
    ndarray, (unit, unit)
        In nats, averaged over contexts; at least 0.
    """
    whole = halves.mean(axis=1)  # (unit, context, token)
    own = entr(whole).sum(axis=-1)  # (unit, context)
    between = np.stack(
        [
            (entr((row + whole) / 2).sum(axis=-1) - (h + own) / 2).mean(axis=-1)
            for row, h in zip(whole, own, strict=True)
        ]
    )
    noise = (entr(whole).sum(axis=-1) - entr(halves).sum(axis=-1).mean(axis=1)).mean(axis=-1) / 4
    corrected = np.maximum(between - noise[:, None] - noise, 0.0)
    np.fill_diagonal(corrected, 0.0)
    return (corrected + corrected.T) / 2


def half_means(p: np.ndarray) -> np.ndarray:
    """Means over the two halves of each segment.

    Parameters
    ----------
    p : ndarray, (segment, draw, context, token)
        Probabilities.

    Returns
    -------
    ndarray, (segment, half, context, token)
    """
    n = p.shape[1] // 2
    return np.stack([p[:, :n].mean(axis=1), p[:, n:].mean(axis=1)], axis=1)
