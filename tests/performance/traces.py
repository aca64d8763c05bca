"""Log probabilities of training sequences and of held-out passages over the draws of a sampler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from gptbayes.corpus import Windows
from gptbayes.stats.summary import OVER


class Traces(NamedTuple):
    """What one sampler came to.

    Attributes
    ----------
    sequences, passages : DataArray (chain, draw, sequence), (chain, draw, passage)
        Log probabilities of training sequences and of held-out passages, in nats.
    seconds : float
        Of the processor.
    """

    sequences: xr.DataArray
    passages: xr.DataArray
    seconds: float


def traces(sequences: np.ndarray, passages: np.ndarray, seconds: float) -> Traces:
    """From arrays ``(chain, draw, sequence)`` and ``(chain, draw, passage)``."""
    return Traces(
        xr.DataArray(sequences, dims=(*OVER, "sequence")),
        xr.DataArray(passages, dims=(*OVER, "passage")),
        seconds,
    )


def passages(problem) -> Windows:
    """As many held-out windows as there are training sequences: devinterp has one batch size."""
    return Windows(*(part[: len(problem.training.x)] for part in problem.held_out))
