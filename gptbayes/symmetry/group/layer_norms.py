"""Symmetries of the gain and bias of layer norms.

The linear map that follows a layer norm can absorb its gain, and, with its offset, its bias.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import QUERY_KEY_VALUE, layer_norms, stream_readers
from gptbayes.symmetry.group.axes import gain_on_axis
from gptbayes.symmetry.group.families import Generator, scalings, sign_flips, translations


def scale_gain(
    stage: Stage, parameters: Parameters, norm: str, scale: np.ndarray
) -> dict[str, np.ndarray]:
    """Multiply gain and bias of a layer norm and divide the weights that read it.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    norm : {"ln1", "ln2", "ln_f"}
    scale : ndarray, (..., layer, embed) or, for the final layer norm, (..., embed)
        Not 0.

    Returns
    -------
    dict of str to ndarray
    """
    moved = dict(parameters)
    for part in ("weight", "bias"):
        moved[f"{norm}_{part}"] = parameters[f"{norm}_{part}"] * scale
    for name, axis, through in stream_readers(stage):
        if through == norm:
            n_dims = len(stage.parameter(name).dims)
            moved[name] = parameters[name] / gain_on_axis(scale, axis, n_dims, stage, norm)
    return moved


def shift_bias(
    stage: Stage, parameters: Parameters, norm: str, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """Add to the bias of a layer norm and compensate in the parameters that read it.

    The offsets of the feed-forward layer and of the LM head compensate for a shift of ``ln2`` and
    ``ln_f``. Keys, queries and values have no offset. They are shifted along the inverse gain, the
    direction in which they respond to the bias alone.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    norm : {"ln1", "ln2", "ln_f"}
    shift : ndarray, (..., layer, embed) or, for the final layer norm, (..., embed)

    Returns
    -------
    dict of str to ndarray
    """
    moved = {**parameters, f"{norm}_bias": parameters[f"{norm}_bias"] + shift}
    if norm == "ln2":
        change = (parameters["feed_forward_multiplier"] @ shift[..., None])[..., 0]
        moved["feed_forward_offset"] = parameters["feed_forward_offset"] - change
    elif norm == "ln_f":
        change = (parameters["lm_head_multiplier"] @ shift[..., None])[..., 0]
        moved["lm_head_offset"] = parameters["lm_head_offset"] - change
    else:
        inverse_gain, response = inverse_gain_of_ln1(moved)
        for name in QUERY_KEY_VALUE:
            change = shift[..., None, None, :] @ parameters[name]  # (..., L, H, 1, h)
            moved[name] = parameters[name] - inverse_gain * change / response
    return moved


def inverse_gain_of_ln1(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """The direction in which keys, queries and values respond to the bias of ``ln1`` alone.

    Normalised inputs sum to zero. The inner product of the inverse gain with the output of the
    layer norm, gain times normalised input plus bias, is therefore the same for all inputs.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Of stages 09 to 12.

    Returns
    -------
    inverse_gain : ndarray, (..., layer, 1, embed, 1)
    response : ndarray, (..., layer, 1, 1, 1)
        Inner product of the inverse gain with the bias.
    """
    gain, bias = parameters["ln1_weight"], parameters["ln1_bias"]
    response = (bias / gain).sum(axis=-1)
    return 1 / gain[..., None, :, None], response[..., None, None, None]


def layer_norm_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    return [each for norm in layer_norms(stage) for each in _of_layer_norm(norm)]


def _of_layer_norm(norm):
    def shape(sizes):
        return (sizes["embed"],) if norm == "ln_f" else (sizes["layer"], sizes["embed"])

    def act_scale(stage, parameters, element):
        return scale_gain(stage, parameters, norm, element)

    def act_shift(stage, parameters, element):
        return shift_bias(stage, parameters, norm, element)

    return [
        scalings(f"scale_{norm}", act_scale, shape),
        translations(f"shift_{norm}", act_shift, shape),
        sign_flips(f"flip_{norm}", act_scale, shape),
    ]
