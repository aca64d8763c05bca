"""What the model says next: posterior predictive text and predictive density."""

from gptbayes.predict.characters import encode_prompt, entropy_split, next_character
from gptbayes.predict.checks import CHECKS, TextChecks, check, check_text, frequencies
from gptbayes.predict.held_out import (
    Comparison,
    compare_held_out,
    fixed_contexts,
    held_out_log_prob,
    unigram_log_density,
)
from gptbayes.predict.left_out import loo, n_bad_pareto_k, stacked
from gptbayes.predict.texts import KINDS, Written, coherent, marginal, score, write

__all__ = [
    "CHECKS",
    "KINDS",
    "Comparison",
    "TextChecks",
    "Written",
    "check",
    "check_text",
    "coherent",
    "compare_held_out",
    "encode_prompt",
    "entropy_split",
    "fixed_contexts",
    "frequencies",
    "held_out_log_prob",
    "loo",
    "marginal",
    "n_bad_pareto_k",
    "next_character",
    "score",
    "stacked",
    "unigram_log_density",
    "write",
]
