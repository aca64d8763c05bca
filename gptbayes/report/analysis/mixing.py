"""Chains and modes: quantities of an `Analysis`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from gptbayes import predict
from gptbayes.diagnostics.convergence import convergence, diagnose_scalars, mixing_table
from gptbayes.diagnostics.mode_masses import (
    ModeMasses,
    masses_of_modes,
    weigh_by_mass,
    with_masses,
)
from gptbayes.diagnostics.modes import (
    Modes,
    Space,
    context_log_prob,
    find_modes,
    function_space,
    weight_space,
)
from gptbayes.diagnostics.quantities import predicted_quantities, quantities
from gptbayes.diagnostics.segments import Groups
from gptbayes.diagnostics.verdict import Verdict, mixing_verdict
from gptbayes.inference import superchains_of
from gptbayes.report.analysis.methods import CHAINS
from gptbayes.stats.summary import summarise

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis


def chain_quantities(analysis: Analysis) -> dict[str, xr.DataArray]:
    """Raw and aligned weights, invariants and predictions, each ``(chain, draw, scalar)``."""
    analysis.on_step("aligning weights")
    return quantities(analysis.idata)


def predictions_diagnosed(analysis: Analysis) -> dict[str, xr.Dataset]:
    """R-hat and ESS of every scalar of the predicted quantities, for which nothing is aligned."""
    return diagnose_scalars(predicted_quantities(analysis.idata))


def diagnosed(analysis: Analysis) -> dict[str, xr.Dataset]:
    """R-hat and ESS of every scalar of each kind of quantity, each ``(scalar,)``."""
    known, kinds = analysis.predictions_diagnosed, analysis.quantities
    others = diagnose_scalars({name: each for name, each in kinds.items() if name not in known})
    return {name: known[name] if name in known else others[name] for name in kinds}


def r_hats(analysis: Analysis) -> dict[str, xr.DataArray]:
    """R-hat of every scalar of each kind of quantity, each ``(scalar,)``."""
    return {name: each["r_hat"] for name, each in analysis.diagnosed.items()}


def convergence_table(analysis: Analysis) -> xr.Dataset:
    """R-hat and ESS of each kind of quantity, one row each."""
    return convergence(analysis.quantities, analysis.diagnosed)


def verdict(analysis: Analysis) -> Verdict:
    """Whether the chains have mixed, and if not, in what way; in words.

    Raises
    ------
    ValueError
        If the draws are not chains, or these are too short.
    """
    return with_masses(analysis.chains_verdict, analysis.masses)


def chains_verdict(analysis: Analysis) -> Verdict:
    """What the chains alone say."""
    if analysis.method not in CHAINS:
        raise ValueError(
            f"chains must be those of nuts, hmc or smc, got a fit by {analysis.method}"
        )
    superchains, seed = superchains_of(analysis.idata), analysis.idata.attrs["seed"]
    kinds = analysis.quantities
    analysis.on_step("diagnosing mixing")
    table = mixing_table(kinds, superchains, diagnosed=analysis.diagnosed, seed=seed)
    return mixing_verdict(kinds, superchains, r_hats=analysis.r_hats, table=table)


def masses(analysis: Analysis) -> ModeMasses | None:
    """Posterior masses of the modes; None without a fit by sequential Monte Carlo."""
    if analysis.tempering is not None:
        return analysis.tempering.masses
    if analysis.smc is None:
        return None
    return masses_of_modes(analysis.idata, analysis.modes.label, analysis.smc)


def weighted_by_mass(analysis: Analysis) -> xr.Dataset | None:
    """Held-out density of chains in several modes, weighted by the masses of these."""
    masses = analysis.masses
    if analysis.smc is None or analysis.stacking is None or masses is None:
        return None
    if masses.table.sizes["mode"] < 2 or float(masses.table["mass"].sum()) == 0:
        return None
    per_chain = analysis.stacking.chains["weight"].values
    return weigh_by_mass(analysis.idata, analysis.modes.label, masses, per_chain)


def function_segments(analysis: Analysis) -> Space:
    """Segments of the chains by what they predict."""
    return function_space(context_log_prob(analysis.idata))


def weight_segments(analysis: Analysis) -> Space:
    """Segments of the chains by their aligned weights."""
    kinds = analysis.quantities
    return weight_space(kinds.get("aligned weights", kinds["raw weights"]))


def mode_groups(analysis: Analysis) -> Groups | None:
    """The modes of the verdict, or else those in function space; None if there is one."""
    return analysis.chains_verdict.groups or analysis.function_space.groups


def modes(analysis: Analysis) -> Modes:
    """The modes, or the one that there is, described."""
    label = None if analysis.mode_groups is None else analysis.mode_groups.label
    analysis.on_step("describing modes")
    return find_modes(analysis.idata, label, seed=analysis.idata.attrs["seed"])


def stacking(analysis: Analysis) -> predict.ChainStacking | None:
    """Chains weighted for prediction; None for other methods, one chain or too few draws."""
    if analysis.method not in CHAINS or analysis.n_chain < 2 or analysis.n_draw < 20:
        return None
    density = analysis.held_out_log_prob.sum("position")
    return predict.stack_chains(analysis.idata, log_density=density)


def per_chain(analysis: Analysis) -> dict[str, xr.Dataset]:
    """Log posterior and held-out log likelihood of each chain, in nats."""
    draws = {
        "log posterior": analysis.idata.sample_stats["lp"],
        "held-out log likelihood": analysis.held_out_log_prob.sum(
            ("held_out_sequence", "position")
        ),
    }
    chains = range(analysis.n_chain)
    return {
        name: xr.concat([summarise(each.isel(chain=[k])) for k in chains], "chain")
        for name, each in draws.items()
    }
