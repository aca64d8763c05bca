"""Figures. Each function draws a summary that was computed elsewhere and returns the axes.

Colours are told apart by the colour-blind and in grey; what they say is also in words.
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
from gptbayes.plots.chains import (
    plot_dendrogram,
    plot_mixing,
    plot_mode_map,
    plot_path,
    plot_r_hat,
    plot_trace,
)
from gptbayes.plots.learned import plot_beside_prior, plot_contraction, plot_rank_ecdf
from gptbayes.plots.predictions import (
    plot_held_out,
    plot_ladder,
    plot_next_character,
    plot_pareto_k,
)
from gptbayes.plots.reliability import (
    plot_by_position,
    plot_gain,
    plot_pit,
    plot_reliability,
)
from gptbayes.plots.style import COLOURS, close, drawable, figure, visible
from gptbayes.plots.texts import plot_frequencies, plot_text_checks

__all__ = [
    "COLOURS",
    "close",
    "drawable",
    "figure",
    "plot_agreement",
    "plot_attention",
    "plot_attention_contexts",
    "plot_attention_key",
    "plot_beside_prior",
    "plot_by_position",
    "plot_contraction",
    "plot_dendrogram",
    "plot_frequencies",
    "plot_gain",
    "plot_held_out",
    "plot_ladder",
    "plot_mixing",
    "plot_mode_map",
    "plot_next_character",
    "plot_pareto_k",
    "plot_path",
    "plot_pit",
    "plot_r_hat",
    "plot_rank_ecdf",
    "plot_reliability",
    "plot_ablation",
    "plot_role_excess",
    "plot_roles",
    "plot_text_checks",
    "plot_trace",
    "plot_weights",
    "visible",
]
