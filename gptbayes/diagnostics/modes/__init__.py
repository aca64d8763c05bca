"""Modes across chains: how far apart chains are, and what their modes predict.

Segments of chains are compared by their predictions at fixed contexts (`function_space`) and by
their aligned weights (`weight_space`), relative to distances within chains. `find_modes` describes
the modes that this shows. Separate chains do not estimate the posterior mass of a mode.
"""

from gptbayes.diagnostics.modes.description import Modes, find_modes
from gptbayes.diagnostics.modes.spaces import (
    Space,
    context_log_prob,
    function_space,
    weight_space,
)

__all__ = ["Modes", "Space", "context_log_prob", "find_modes", "function_space", "weight_space"]
