"""Where the model looks: the posterior of attention weights at real contexts.

The posterior does not tell heads apart: every draw may list them in another order. Weights are
averaged over draws only after the heads have been matched by what they do on the same contexts.
"""

from gptbayes.attention.matching import AMBIGUOUS, Matched, match_heads
from gptbayes.attention.roles import attention_back
from gptbayes.attention.weights import attention_draws, summarise_attention

__all__ = [
    "AMBIGUOUS",
    "Matched",
    "attention_back",
    "attention_draws",
    "match_heads",
    "summarise_attention",
]
