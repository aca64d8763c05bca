"""Symmetries of the embeddings and of the LM head: translations.

A constant added to all logits of a context drops out of the softmax. What is added to all token
embeddings can be subtracted from all position embeddings. A constant in the input of the LM head
can be absorbed by its offset.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.families import Generator, translations, without_stage


def embedding_rows(parameters: Parameters) -> np.ndarray:
    """The embeddings of all tokens and, from stage 03 on, of all positions.

    Parameters
    ----------
    parameters : mapping of str to ndarray

    Returns
    -------
    ndarray, (..., row, embed)
    """
    names = ("token_embedding", "position_embedding")
    return np.concatenate([parameters[name] for name in names if name in parameters], axis=-2)


def shift_logits(parameters: Parameters, shift: np.ndarray) -> dict[str, np.ndarray]:
    """Add a constant to all logits of a context.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    shift : ndarray, (..., embed + 1), or (..., token) in stage 01
        One constant per input coordinate of the LM head and one for its offset; in stage 01 one
        per row of logits.

    Returns
    -------
    dict of str to ndarray
    """
    if "lm_head_multiplier" not in parameters:
        return {"token_embedding": parameters["token_embedding"] + shift[..., None]}
    return {
        **parameters,
        "lm_head_multiplier": parameters["lm_head_multiplier"] + shift[..., None, :-1],
        "lm_head_offset": parameters["lm_head_offset"] + shift[..., -1:],
    }


def shift_embeddings(parameters: Parameters, shift: np.ndarray) -> dict[str, np.ndarray]:
    """Add a vector to all token embeddings and subtract it from all position embeddings.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    shift : ndarray, (..., embed)

    Returns
    -------
    dict of str to ndarray
    """
    return {
        **parameters,
        "token_embedding": parameters["token_embedding"] + shift[..., None, :],
        "position_embedding": parameters["position_embedding"] - shift[..., None, :],
    }


def shift_stream(stage: Stage, parameters: Parameters, shift: np.ndarray) -> dict[str, np.ndarray]:
    """Add a constant vector to the input of the LM head and absorb it in the offset of the LM head.

    Parameters
    ----------
    stage : Stage
        02, 03, 08 or 09, where the LM head reads the residual stream directly and the last
        parameter that writes to it can hold a constant.
    parameters : mapping of str to ndarray
    shift : ndarray, (..., embed)

    Returns
    -------
    dict of str to ndarray
    """
    name = "feed_forward_proj_offset" if "attention" in stage.features else "token_embedding"
    change = (parameters["lm_head_multiplier"] @ shift[..., None])[..., 0]
    return {
        **parameters,
        name: parameters[name] + shift[..., None, :],
        "lm_head_offset": parameters["lm_head_offset"] - change,
    }


def embedding_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    has = stage.features.__contains__
    act_logits = without_stage(shift_logits)
    if not has("lm_head"):
        return [translations("shift_logits", act_logits, lambda n: (n["token"],))]
    found = [translations("shift_logits", act_logits, lambda n: (n["embed"] + 1,))]
    if has("position"):
        act = without_stage(shift_embeddings)
        found.append(translations("shift_embeddings", act, lambda n: (n["embed"],)))
    if not has("attention") or (has("wide_feed_forward") and not has("blocks")):
        found.append(translations("shift_stream", shift_stream, lambda n: (n["embed"],)))
    return found
