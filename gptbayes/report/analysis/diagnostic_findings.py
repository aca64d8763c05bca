"""How far the draws can be relied on: quantities of an `Analysis`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from gptbayes import predict
from gptbayes.compare.evidence_summary import TemperingSummary, summarise_tempering
from gptbayes.diagnostics import sampler
from gptbayes.diagnostics.convergence import convergence
from gptbayes.diagnostics.quantities import predicted_quantities
from gptbayes.diagnostics.sensitivity import key_quantities, prior_sensitivity
from gptbayes.findings import Finding
from gptbayes.report.analysis.methods import CHAINS
from gptbayes.validate.exact_marginals import check_exact_marginals

if TYPE_CHECKING:
    from gptbayes.report.analysis.analysis import Analysis


def findings(analysis: Analysis) -> list[Finding]:
    """Whether the draws can be relied on: one sentence for each diagnostic.

    Computed in a few seconds for a fit of any method, without alignment of weights.
    """
    found = [] if analysis.target_finding is None else [analysis.target_finding]
    infinite = sampler.log_lik_finding(analysis.idata)
    found += [] if infinite is None else [infinite]
    if analysis.method == "prior":
        found.append(sampler.PRIOR)
    elif analysis.method == "optimize":
        found += sampler.mode_findings(analysis.idata)
    elif analysis.sampler_health is None:
        found.append(sampler.pareto_finding(analysis.idata))
    else:
        found += analysis.tempering.findings if analysis.tempering else []
        found += sampler.sampler_findings(analysis.idata, analysis.sampler_health)
        found += _mixing_findings(analysis)
    if analysis.exact_marginals is not None:
        found.append(sampler.exact_marginals_finding(analysis.exact_marginals))
    return found


def _mixing_findings(analysis: Analysis):
    if analysis.n_chain < 2:
        return [sampler.ONE_CHAIN]
    table = convergence(predicted_quantities(analysis.idata), analysis.predictions_diagnosed)
    return [sampler.mixing_finding(table, name) for name in table["quantity"].values]


def target_finding(analysis: Analysis) -> Finding | None:
    """A warning if the target of the fit is not the posterior."""
    target = analysis.idata.attrs["target"]
    if target == "posterior":
        return None
    read = ", and what is called posterior here is the prior" if target == "prior" else ""
    return Finding(False, f"the target is not the posterior: {target}{read}")


def sampler_health(analysis: Analysis) -> xr.Dataset | None:
    """What NUTS reports of itself, chain by chain; None for methods without chains.

    Of sequential Monte Carlo it is that of the last level.
    """
    return sampler.sampler_health(analysis.idata) if analysis.method in CHAINS else None


def tempering(analysis: Analysis) -> TemperingSummary | None:
    """The path, the evidence and the modes of sequential Monte Carlo; None for others."""
    return summarise_tempering(analysis.idata) if analysis.method == "smc" else None


def exact_marginals(analysis: Analysis) -> xr.Dataset | None:
    """Tests against exact marginals of the posterior; None for a mode."""
    return None if analysis.method == "optimize" else check_exact_marginals(analysis.idata)


def loo(analysis: Analysis) -> xr.Dataset | None:
    """PSIS leave-one-sequence-out; None unless the draws are chains."""
    return predict.loo(analysis.idata) if analysis.method in CHAINS else None


def loo_finding(analysis: Analysis) -> Finding | None:
    """The estimate of `loo`, a warning where Pareto k is large."""
    return None if analysis.loo is None else predict.loo_finding(analysis.loo)


def sensitivity(analysis: Analysis) -> xr.Dataset | None:
    """Power-scaling sensitivity to prior and likelihood; None unless the draws are chains."""
    if analysis.method not in CHAINS or analysis.n_draw < 4:
        return None
    quantities = key_quantities(analysis.idata, analysis.held_out_log_prob)
    return prior_sensitivity(analysis.idata, quantities)
