"""Everything that is asked of a fit, computed lazily and once.

`analysis` holds the frozen `Analysis`, whose attributes are the functions of the other modules:
`diagnostic_findings`, `posterior_predictive`, `accuracy`, `heads`, `mixing`, `weights`.
"""

from gptbayes.report.analysis.accuracy import HeldOut
from gptbayes.report.analysis.analysis import N_CONTEXTS, Analysis
from gptbayes.report.analysis.methods import CHAINS, METHOD_NAMES
from gptbayes.report.analysis.posterior_predictive import N_NEXT, ScoredText

__all__ = [
    "CHAINS",
    "METHOD_NAMES",
    "N_CONTEXTS",
    "N_NEXT",
    "Analysis",
    "HeldOut",
    "ScoredText",
]
