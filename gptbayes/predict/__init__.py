"""Posterior predictive distributions: next characters, generated text, held-out text.

- `next_character`, `entropy_split`: probabilities of the next character, and their uncertainty
- `generate`, `score_text`, `generate_coherent`, `generate_marginal`: generated text
- `compare_held_out`, `loo`, `compare_loo`: expected log predictive density (elpd)
- `dirichlet_multinomial`: baselines in closed form
- `psis_weights`, `path_weights`, `stack_chains`, `chain_weights`: weights of draws
- `held_out_reliability`, `proper_scores`: calibration and scores
- `influence`, `because`: the observations on which a posterior mean rests
- `check_text`: posterior predictive checks with text statistics

Imports `gptbayes.corpus`, `gptbayes.findings`, `gptbayes.groups`, `gptbayes.stats`,
`gptbayes.model` and `gptbayes.inference`.
"""

from gptbayes.predict.baselines import Forecast, dirichlet_multinomial
from gptbayes.predict.calibration import (
    BIN_EDGES,
    Reliability,
    forecast_reliability,
    held_out_reliability,
)
from gptbayes.predict.chain_stacking import ChainStacking, stack_chains
from gptbayes.predict.draw_weights import (
    chain_weights,
    effective_draws,
    psis_weights,
    weights_warning,
)
from gptbayes.predict.forecast_calibration import ordered_pit
from gptbayes.predict.generated_text import (
    KINDS,
    GeneratedTexts,
    generate,
    generate_coherent,
    generate_marginal,
    score_text,
)
from gptbayes.predict.held_out import (
    Comparison,
    compare_held_out,
    fixed_contexts,
    held_out_log_prob,
    held_out_predictive,
    unigram_log_density,
)
from gptbayes.predict.influence import (
    because,
    because_sentences,
    compare_with_refits,
    influence,
    influence_finding,
)
from gptbayes.predict.leave_one_out import compare_loo, loo, loo_finding, n_bad_pareto_k
from gptbayes.predict.next_token import encode_prompt, entropy_split, next_character
from gptbayes.predict.path_stacking import path_weights
from gptbayes.predict.scored_text import (
    PROBABILITY_LEVELS,
    WIDE_INTERVAL,
    entropy_sentence,
    has_wide_interval,
    probability_level,
)
from gptbayes.predict.scores import proper_scores
from gptbayes.predict.text_checks import (
    TEXT_STATISTICS,
    TextChecks,
    check_statistics,
    check_text,
    relative_frequencies,
)

__all__ = [
    "BIN_EDGES",
    "KINDS",
    "PROBABILITY_LEVELS",
    "TEXT_STATISTICS",
    "WIDE_INTERVAL",
    "ChainStacking",
    "Comparison",
    "Forecast",
    "GeneratedTexts",
    "Reliability",
    "TextChecks",
    "because",
    "because_sentences",
    "chain_weights",
    "check_statistics",
    "check_text",
    "compare_held_out",
    "compare_loo",
    "compare_with_refits",
    "dirichlet_multinomial",
    "effective_draws",
    "encode_prompt",
    "entropy_sentence",
    "entropy_split",
    "fixed_contexts",
    "forecast_reliability",
    "generate",
    "generate_coherent",
    "generate_marginal",
    "has_wide_interval",
    "held_out_log_prob",
    "held_out_predictive",
    "held_out_reliability",
    "influence",
    "influence_finding",
    "loo",
    "loo_finding",
    "n_bad_pareto_k",
    "next_character",
    "ordered_pit",
    "path_weights",
    "probability_level",
    "proper_scores",
    "psis_weights",
    "relative_frequencies",
    "score_text",
    "stack_chains",
    "unigram_log_density",
    "weights_warning",
]
