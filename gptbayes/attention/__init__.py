"""Where the model looks: the posterior of attention weights at real contexts.

The posterior does not tell heads apart: every draw may list them in another order. Heads are
matched once, by what they do on a fixed set of contexts (`head_order`), and everything that is said
of a head is said of matched heads: weights (`summarise_attention`), roles (`head_roles`), and what
predictions lose without one (`ablate_heads`). What needs no matching stands beside it: attention
through the layers (`attention_rollout`), the effect of removing a position (`ablate_positions`),
roles sorted over heads. The prior is shown beside the posterior everywhere: it has patterns too.
"""

from gptbayes.attention.ablation import (
    HeadAblation,
    PositionAblation,
    ablate_heads,
    ablate_positions,
    max_contexts,
)
from gptbayes.attention.detection_patterns import DETECTION_PATTERNS
from gptbayes.attention.matching import (
    AMBIGUOUS,
    Matched,
    Matching,
    head_order,
    match_heads,
    matched,
    matching_findings,
)
from gptbayes.attention.patterns import attention_draws, summarise_attention
from gptbayes.attention.roles import (
    Roles,
    RoleSentence,
    attention_back,
    head_roles,
    role_draws,
    role_sentences,
)
from gptbayes.attention.rollout import attention_rollout, rollout

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
    "attention_back",
    "attention_draws",
    "attention_rollout",
    "head_order",
    "head_roles",
    "match_heads",
    "matched",
    "matching_findings",
    "max_contexts",
    "role_draws",
    "role_sentences",
    "rollout",
    "summarise_attention",
]
