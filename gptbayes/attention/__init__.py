"""Posterior of attention weights, of the roles of heads, and of the effect of ablations.

The posterior is invariant under permutations of heads, so that each draw may have them in another
order. Heads are matched once, by their attention patterns on a fixed set of contexts:

- `head_order`: match heads across draws
- `summarise_attention`: attention weights of matched heads
- `attention_views`: the same in the form that BertViz and CircuitsVis read
- `head_roles`, `role_sentences`: detection patterns, such as previous-token and induction heads
- `ablate_heads`: cost of zero ablation of a head

These do not depend on matching:

- `attention_rollout`: attention through all layers
- `ablate_positions`: cost of attention knockout of a position

All summaries are also computed for the prior, since prior draws have patterns too.

Imports `gptbayes.findings`, `gptbayes.stats`, `gptbayes.model`, `gptbayes.inference` and
`gptbayes.predict`.
"""

from gptbayes.attention.ablation import (
    HeadAblation,
    PositionAblation,
    ablate_heads,
    ablate_positions,
    max_contexts,
)
from gptbayes.attention.assignment import AMBIGUOUS
from gptbayes.attention.detection_patterns import DETECTION_PATTERNS
from gptbayes.attention.exchange import attention_views
from gptbayes.attention.matching import (
    Matched,
    Matching,
    head_order,
    match_heads,
    matched,
    matching_findings,
)
from gptbayes.attention.patterns import attention_draws, summarise_attention
from gptbayes.attention.role_sentences import RoleSentence, learned_sentences, role_sentences
from gptbayes.attention.roles import Roles, attention_at_distance, head_roles, role_draws
from gptbayes.attention.rollout import attention_rollout, rollout_weights

__all__ = [
    "AMBIGUOUS",
    "DETECTION_PATTERNS",
    "HeadAblation",
    "Matched",
    "Matching",
    "PositionAblation",
    "RoleSentence",
    "Roles",
    "ablate_heads",
    "ablate_positions",
    "attention_at_distance",
    "attention_draws",
    "attention_rollout",
    "attention_views",
    "head_order",
    "head_roles",
    "learned_sentences",
    "match_heads",
    "matched",
    "matching_findings",
    "max_contexts",
    "role_draws",
    "role_sentences",
    "rollout_weights",
    "summarise_attention",
]
