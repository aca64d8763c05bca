"""Compare fits of the same text: LOO with exact refits, held-out text, WBIC.

`compare_runs` does a whole comparison. `exact_loo` and `wbic` are its parts for one run.

Imports everything up to `gptbayes.diagnostics`.
"""

from gptbayes.compare.refits import (
    ExactLoo,
    FittedRun,
    RefitPlan,
    estimated_seconds,
    exact_loo,
    plan_refits,
    refit_density,
    without_sequence,
)
from gptbayes.compare.runs import RunComparison, compare_runs, open_runs
from gptbayes.compare.table import differences, token_loo
from gptbayes.compare.tempered import Wbic, tempered_problem, wbic

__all__ = [
    "ExactLoo",
    "FittedRun",
    "RefitPlan",
    "RunComparison",
    "Wbic",
    "compare_runs",
    "differences",
    "estimated_seconds",
    "exact_loo",
    "open_runs",
    "plan_refits",
    "refit_density",
    "tempered_problem",
    "token_loo",
    "wbic",
    "without_sequence",
]
