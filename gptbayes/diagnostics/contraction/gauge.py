"""Contraction in directions that no prediction depends on: a test of any sampler."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gptbayes.diagnostics.contraction.blocks import zero_if_constant
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise
from gptbayes.validate.exact_marginals import known_marginals

CONSTANT = 1e-9
"""Squares with a smaller standard deviation are constant by construction."""


def gauge_contraction(problem: Problem, posterior: xr.Dataset) -> xr.Dataset | None:
    """Contraction in directions whose posterior is exactly their prior. It must be zero.

    Parameters
    ----------
    problem : Problem
    posterior : Dataset (chain, draw, ...)
        As sampled, not aligned.

    Returns
    -------
    Dataset (direction), or None if there is none
        For each kind of direction ``n``, the number of scalars; their pooled ``contraction`` about
        the exact mean; its Monte Carlo standard error ``mcse``; and the effective sample size
        ``ess_bulk`` of the squares that are averaged.
    """
    rows = {}
    for name, known in known_marginals(problem, posterior).items():
        if np.isfinite(known.sd):
            squares = (((known.draws - known.mean) / known.sd) ** 2).mean("scalar")
            if float(squares.std()) < CONSTANT:  # of an orientation the squares sum to one
                continue
            share = summarise(squares)
            rows[name] = xr.Dataset(
                {
                    "n": known.draws.sizes["scalar"],
                    "contraction": 1 - share["mean"],
                    "mcse": zero_if_constant(share["mcse_mean"]),
                    "ess_bulk": share["ess_bulk"],
                }
            )
    if not rows:
        return None
    return xr.concat(rows.values(), xr.DataArray(list(rows), dims="direction", name="direction"))
