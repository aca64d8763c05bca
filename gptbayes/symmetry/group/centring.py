"""Symmetries that exist because layer norms centre their input, and the softmax its scores.

Before a layer norm, a constant added to all coordinates of the residual stream is removed. Behind
it, weights proportional to the inverse gain respond to the bias alone and so add a constant: keys
may carry one because the softmax removes it from the scores, values because it passes through
attention unchanged, the feed-forward layer and the LM head because their offsets absorb it.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import stream_writers
from gptbayes.symmetry.group.families import Generator, translations
from gptbayes.symmetry.group.layer_norms import inverse_gain_of_ln1
from gptbayes.symmetry.group.masks import (
    any_allowed,
    attention_row_sums,
    heads_with_constant_mask,
    layers_with_constant_output_mask,
    layers_with_equal_heads,
)


def shift_along_inverse_gain(
    parameters: Parameters, name: str, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """Add a constant to all keys, or to all values.

    The softmax removes a constant that all keys share. A constant that all values share is added
    to the output of the head, see `shift_value`.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    name : {"key", "value"}
    shift : ndarray, (..., layer, head, head_dim)
        Multiples of the inverse gain that are added to the columns of the weights.

    Returns
    -------
    dict of str to ndarray
    """
    inverse_gain, _ = inverse_gain_of_ln1(parameters)
    return {**parameters, name: parameters[name] + inverse_gain * shift[..., None, :]}


def shift_value(stage: Stage, parameters: Parameters, shift: np.ndarray) -> dict[str, np.ndarray]:
    """Add a constant to all values and compensate for it in the output of attention.

    Parameters
    ----------
    stage : Stage
        From 09 on. In 12 the offset of the projection absorbs the constant. In 09 to 11 the
        constant must be the same in all coordinates, so that layer norms remove it; in 09, where
        the LM head has none, the last offset absorbs it.
    parameters : mapping of str to ndarray
    shift : ndarray, (..., layer, head, head_dim)
        As for `shift_along_inverse_gain`.

    Returns
    -------
    dict of str to ndarray
    """
    moved = shift_along_inverse_gain(parameters, "value", shift)
    _, response = inverse_gain_of_ln1(parameters)  # (..., L, 1, 1, 1)
    if "projection" in stage.features:
        row_sums = attention_row_sums(stage)
        total = 1.0 if row_sums is None else np.nan_to_num(row_sums)[:, :, None]
        constant = shift * response[..., 0] * total  # in the output of each head, (..., L, H, h)
        change = np.einsum("...lchd,...lhd->...lc", parameters["sa_proj_multiplier"], constant)
        moved["sa_proj_offset"] = parameters["sa_proj_offset"] - change
    elif "blocks" not in stage.features:
        change = shift[..., 0, :1] * response[..., 0, 0]
        offset = parameters["feed_forward_proj_offset"]
        moved["feed_forward_proj_offset"] = offset - change
    return moved


def shift_norm_readers(
    parameters: Parameters, norm: str, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """Add multiples of the inverse gain to the weights that read ``ln2`` or ``ln_f``.

    Their offsets absorb the constant that results.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    norm : {"ln2", "ln_f"}
    shift : ndarray, (..., layer, hidden) or, for the final layer norm, (..., token)
        Multiples of the inverse gain that are added to the rows of the weights.

    Returns
    -------
    dict of str to ndarray
    """
    layer = {"ln2": "feed_forward", "ln_f": "lm_head"}[norm]
    weight, offset = parameters[f"{layer}_multiplier"], parameters[f"{layer}_offset"]
    gain, bias = parameters[f"{norm}_weight"], parameters[f"{norm}_bias"]
    return {
        **parameters,
        f"{layer}_multiplier": weight + shift[..., None] / gain[..., None, :],
        f"{layer}_offset": offset - shift * (bias / gain).sum(axis=-1, keepdims=True),
    }


def shift_along_ones(
    stage: Stage, parameters: Parameters, name: str, shift: np.ndarray
) -> dict[str, np.ndarray]:
    """Write a constant to all coordinates of the residual stream, which layer norms remove.

    Parameters
    ----------
    stage : Stage
        From 09 on. In 09 the LM head has no layer norm: only a constant that all token embeddings
        share can be added, and the last offset absorbs it.
    parameters : mapping of str to ndarray
    name : str
        A parameter that writes to the residual stream.
    shift : ndarray, (..., shape of the parameter without the axis that writes)

    Returns
    -------
    dict of str to ndarray
    """
    axis = dict(stream_writers(stage))[name]
    if "blocks" in stage.features:
        return {**parameters, name: parameters[name] + np.expand_dims(shift, axis)}
    offset = parameters["feed_forward_proj_offset"]
    return {
        **parameters,
        name: parameters[name] + shift[..., None, None],
        "feed_forward_proj_offset": offset - shift[..., None, None],
    }


def centring_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    if "layer_norm" not in stage.features:
        return []

    def act_key(stage, parameters, element):
        return shift_along_inverse_gain(parameters, "key", element)

    def act_readers(norm):
        return lambda stage, p, element: shift_norm_readers(p, norm, element)

    found = [
        translations("shift_key", act_key, _head_shape),
        translations("shift_feed_forward", act_readers("ln2"), lambda n: (n["layer"], n["hidden"])),
    ]
    if "blocks" in stage.features:
        found.append(translations("shift_lm_head", act_readers("ln_f"), lambda n: (n["token"],)))
    if "projection" in stage.features:
        parts = shift_value, _head_shape, heads_with_constant_mask
    else:
        parts = _shift_all_values, lambda n: (n["layer"],), layers_with_equal_heads
    if any_allowed(stage, parts[-1]):
        found.append(translations("shift_value", *parts))
    return found + _along_ones(stage)


def _head_shape(sizes):
    return (sizes["layer"], sizes["head"], sizes["head_dim"])


def _shift_all_values(stage, parameters, element):
    """The same constant in all heads of a layer."""
    n_head, _, head_dim = parameters["value"].shape[-3:]
    shift = np.broadcast_to(element[..., None, None], (*element.shape, n_head, head_dim))
    return shift_value(stage, parameters, shift)


def _along_ones(stage):
    if "blocks" in stage.features:
        found = [_writer_along_ones(stage, name, axis) for name, axis in stream_writers(stage)]
        return [each for each in found if each is not None]

    def act(stage, parameters, element):
        return shift_along_ones(stage, parameters, "token_embedding", element[..., 0])

    return [translations("shift_token_embedding_along_ones", act, lambda n: (1,))]


def _writer_along_ones(stage, name, axis):
    """The generator of one parameter that writes to the residual stream; None if masks forbid."""
    dims = list(stage.parameter(name).dims)
    del dims[axis]

    def act(stage, parameters, element):
        return shift_along_ones(stage, parameters, name, element)

    def shape(sizes):
        return tuple(sizes[dim] for dim in dims)

    def allowed(stage, sizes):
        full = shape(sizes)
        if dims[0] != "layer":
            return np.ones(full, dtype=bool)
        constant = layers_with_constant_output_mask(stage, name, sizes["layer"])
        return np.broadcast_to(constant.reshape(-1, *(1,) * (len(full) - 1)), full)

    if dims[0] == "layer" and not any_allowed(stage, allowed):
        return None
    return translations(f"shift_{name}_along_ones", act, shape, allowed)
