"""Compare fits of the same text: LOO with exact refits, held-out text, WBIC, model evidence.

`compare_runs` does a whole comparison. `exact_loo` and `wbic` are its parts for one run.
`compare_evidence_of_runs` compares fits by sequential Monte Carlo; `model_evidence` is its part for
one fit.

Imports everything up to `gptbayes.diagnostics`.
"""

from gptbayes.compare.evidence import (
    Evidence,
    EvidenceComparison,
    compare_evidence,
    compare_evidence_of_runs,
    counting_evidence,
    model_evidence,
)
from gptbayes.compare.evidence_sensitivity import refit_with_scale, scale_sensitivity
from gptbayes.compare.refit_plan import FittedRun, RefitPlan, estimated_seconds, plan_refits
from gptbayes.compare.refits import ExactLoo, exact_loo, refit_density, without_sequence
from gptbayes.compare.runs import RunComparison, compare_runs, open_runs
from gptbayes.compare.table import differences, token_loo
from gptbayes.compare.tempered import Wbic, tempered_problem, wbic
from gptbayes.compare.thermodynamic import discretisation_error, thermodynamic_integration

__all__ = [
    "Evidence",
    "EvidenceComparison",
    "ExactLoo",
    "FittedRun",
    "RefitPlan",
    "RunComparison",
    "Wbic",
    "compare_evidence",
    "compare_evidence_of_runs",
    "compare_runs",
    "counting_evidence",
    "differences",
    "discretisation_error",
    "estimated_seconds",
    "exact_loo",
    "model_evidence",
    "open_runs",
    "plan_refits",
    "refit_density",
    "refit_with_scale",
    "scale_sensitivity",
    "tempered_problem",
    "thermodynamic_integration",
    "token_loo",
    "wbic",
    "without_sequence",
]
