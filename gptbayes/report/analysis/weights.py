"""Symmetries, mode connectivity and contraction: quantities of an `Analysis`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from gptbayes.diagnostics.contraction import Contraction, posterior_contraction
from gptbayes.diagnostics.examination import save_examination
from gptbayes.diagnostics.mode_connectivity import connect_chains
from gptbayes.symmetry import generators, symmetry_dimension

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis

MAX_TANGENTS = 20_000_000
"""Numbers in the tangents of one draw, beyond which the dimension of its orbit is not computed."""


def symmetries(analysis: Analysis) -> tuple[tuple[str, bool, bool], ...]:
    """Name of each symmetry, whether it is continuous, whether the prior keeps it."""
    return tuple(
        (each.name, each.continuous, each.keeps_prior)
        for each in generators(analysis.problem.stage)
    )


def n_parameters(analysis: Analysis) -> int:
    return analysis.problem.stage.n_parameters(analysis.problem.design)


def n_redundant(analysis: Analysis) -> int | None:
    """The number of directions of weight space that change no prediction.

    It is the dimension of the orbit of the last draw; None for models too large to compute it.
    """
    if analysis.n_parameters**2 > MAX_TANGENTS:
        return None
    analysis.on_step("counting redundant directions")
    last = {name: values[-1, -1] for name, values in analysis.parameters.items()}
    return symmetry_dimension(analysis.problem.stage, last)


def connectivity(analysis: Analysis) -> xr.Dataset | None:
    """The log posterior along paths between chains; None for a single chain.

    It takes minutes, unless it was saved.
    """
    if analysis.saved is not None and analysis.saved.connections is not None:
        return analysis.saved.connections
    if analysis.n_chain < 2:
        return None
    analysis.on_step("paths between chains")
    rng = np.random.default_rng(analysis.idata.attrs["seed"])
    return connect_chains(analysis.problem, analysis.parameters, rng=rng)


def contraction(analysis: Analysis) -> Contraction:
    """What the text taught about each kind of weight; it takes minutes."""
    analysis.on_step("comparing posterior and prior")
    n_local = 6 if analysis.n_parameters <= 500 else 2 if analysis.n_parameters <= 1500 else 1
    return posterior_contraction(analysis.idata, n_local=n_local)


def save(analysis: Analysis, folder: str | Path) -> None:
    """Save in a run directory what took minutes and has been computed.

    Parameters
    ----------
    folder : path
    """
    connectivity, learned = (analysis.__dict__.get(n) for n in ("connectivity", "contraction"))
    if connectivity is not None or learned is not None:
        save_examination(folder, connectivity, learned)
