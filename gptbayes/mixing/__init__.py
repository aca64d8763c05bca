"""Have the chains mixed? Numbers for each kind of quantity, and a verdict in words.

Chains of a transformer's posterior never agree in raw weights, and that is no fault: the posterior
is invariant under a large group. They may also be trapped in modes, which may or may not matter
for prediction. `mixing_table` has the numbers, `verdict` says which of these it is.
"""

from gptbayes.mixing.table import RStar, convergence, mixing_table, nested_r_hat, r_star
from gptbayes.mixing.verdict import (
    TOO_SHORT,
    VERDICTS,
    WRONG_IF,
    Verdict,
    stuck_chains,
    verdict,
)

__all__ = [
    "TOO_SHORT",
    "VERDICTS",
    "WRONG_IF",
    "RStar",
    "Verdict",
    "convergence",
    "mixing_table",
    "nested_r_hat",
    "r_star",
    "stuck_chains",
    "verdict",
]
