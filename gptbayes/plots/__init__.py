"""Figures: each function plots a summary that is computed elsewhere, and returns the axes.

There is one module for each section of the report. The room imports only `gptbayes.corpus`, and is
the only importer of matplotlib and seaborn.

- `figure`, `show`, `close`: figures with several axes
- `plot_next_character`, `plot_held_out`, `plot_reliability`, `plot_text_checks`: predictions
- `plot_attention`, `plot_roles`, `plot_ablation`: attention
- `plot_trace`, `plot_r_hat`, `plot_mixing`, `plot_mode_map`, `plot_path`: chains and modes
- `plot_tempering`, `plot_evidence`, `plot_mode_masses`: sequential Monte Carlo and evidence
"""

from gptbayes.plots.attention import (
    plot_ablation,
    plot_agreement,
    plot_attention,
    plot_attention_contexts,
    plot_attention_key,
    plot_role_excess,
    plot_roles,
    plot_weights,
)
from gptbayes.plots.calibration import plot_by_position, plot_pit, plot_reliability
from gptbayes.plots.chains import (
    plot_contraction,
    plot_dendrogram,
    plot_mixing,
    plot_mode_map,
    plot_path,
    plot_posterior_and_prior,
)
from gptbayes.plots.comparison import plot_gain, plot_ladder
from gptbayes.plots.diagnostics import plot_r_hat, plot_trace
from gptbayes.plots.evidence import (
    plot_cost_by_size,
    plot_evidence,
    plot_evidence_by_size,
    plot_level_health,
    plot_mode_masses,
    plot_tempering,
)
from gptbayes.plots.predictions import plot_held_out, plot_next_character
from gptbayes.plots.style import (
    COLORS,
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    close,
    drawable,
    figure,
    figure_formats,
    image,
    literal,
    share_legend,
    show,
    wrapped,
)
from gptbayes.plots.text_checks import plot_frequencies, plot_text_checks
from gptbayes.plots.validation import plot_pareto_k, plot_rank_ecdf

__all__ = [
    "COLORS",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "Figure",
    "close",
    "drawable",
    "figure",
    "figure_formats",
    "image",
    "literal",
    "plot_ablation",
    "plot_agreement",
    "plot_attention",
    "plot_attention_contexts",
    "plot_attention_key",
    "plot_by_position",
    "plot_contraction",
    "plot_cost_by_size",
    "plot_dendrogram",
    "plot_evidence",
    "plot_evidence_by_size",
    "plot_frequencies",
    "plot_gain",
    "plot_held_out",
    "plot_ladder",
    "plot_level_health",
    "plot_mixing",
    "plot_mode_map",
    "plot_mode_masses",
    "plot_next_character",
    "plot_pareto_k",
    "plot_path",
    "plot_pit",
    "plot_posterior_and_prior",
    "plot_r_hat",
    "plot_rank_ecdf",
    "plot_reliability",
    "plot_role_excess",
    "plot_roles",
    "plot_tempering",
    "plot_text_checks",
    "plot_trace",
    "plot_weights",
    "share_legend",
    "show",
    "wrapped",
]
