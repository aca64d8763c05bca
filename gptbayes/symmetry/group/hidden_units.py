"""The scales of the hidden units of the feed-forward layer."""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import has_free_hidden_units, hidden_reader
from gptbayes.symmetry.group.families import Generator, scalings


def scale_hidden(stage: Stage, parameters: Parameters, scale: np.ndarray) -> dict[str, np.ndarray]:
    """Multiply the input weights and offset of each hidden unit, and divide its output weights.

    Parameters
    ----------
    stage : Stage
        06, or from 08 on.
    parameters : mapping of str to ndarray
    scale : ndarray, (..., layer, hidden)
        Positive: the ReLU commutes with positive factors only.

    Returns
    -------
    dict of str to ndarray
    """
    name = hidden_reader(stage)
    columns = scale[..., 0, None, :] if name == "lm_head_multiplier" else scale[..., None, :]
    return {
        **parameters,
        name: parameters[name] / columns,
        "feed_forward_multiplier": parameters["feed_forward_multiplier"] * scale[..., None],
        "feed_forward_offset": parameters["feed_forward_offset"] * scale,
    }


def hidden_unit_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    if not has_free_hidden_units(stage):
        return []
    return [scalings("scale_hidden", scale_hidden, lambda n: (n["layer"], n["hidden"]))]
