"""What the model says next: posterior predictive text and predictive density."""

from gptbayes.predict.calibration import (
    EDGES,
    Reliability,
    forecast_reliability,
    held_out_reliability,
    ordered_pit,
    proper_scores,
)
from gptbayes.predict.chain_stacking import ChainStacking, stack_chains
from gptbayes.predict.draw_weights import (
    chain_weights,
    effective_draws,
    psis_weights,
    weights_warning,
)
from gptbayes.predict.generated_text import KINDS, Written, coherent, generate, marginal, score_text
from gptbayes.predict.held_out import (
    Comparison,
    compare_held_out,
    fixed_contexts,
    held_out_log_prob,
    held_out_predictive,
    unigram_log_density,
)
from gptbayes.predict.leave_one_out import loo, loo_finding, n_bad_pareto_k, stacked
from gptbayes.predict.next_token import encode_prompt, entropy_split, next_character
from gptbayes.predict.scored_text import (
    PROBABILITY_LEVELS,
    WIDE_INTERVAL,
    has_wide_interval,
    probability_level,
    text_sentence,
)
from gptbayes.predict.text_checks import CHECKS, TextChecks, check, check_text, frequencies

__all__ = [
    "CHECKS",
    "EDGES",
    "KINDS",
    "PROBABILITY_LEVELS",
    "WIDE_INTERVAL",
    "ChainStacking",
    "Comparison",
    "Reliability",
    "TextChecks",
    "Written",
    "chain_weights",
    "check",
    "check_text",
    "coherent",
    "compare_held_out",
    "effective_draws",
    "encode_prompt",
    "entropy_split",
    "fixed_contexts",
    "forecast_reliability",
    "frequencies",
    "generate",
    "has_wide_interval",
    "held_out_log_prob",
    "held_out_predictive",
    "held_out_reliability",
    "loo",
    "loo_finding",
    "marginal",
    "n_bad_pareto_k",
    "next_character",
    "ordered_pit",
    "probability_level",
    "proper_scores",
    "psis_weights",
    "score_text",
    "stack_chains",
    "stacked",
    "text_sentence",
    "unigram_log_density",
    "weights_warning",
]
