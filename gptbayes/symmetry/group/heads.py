"""Symmetries of attention heads: invertible bases of queries with keys and of values.

Scores are products of queries and keys, so that a matrix on the queries and its inverse on the keys
cancel. The same holds for the values and the parameter that reads the output of the head, except in
stages 07 to 11, where heads write to the residual stream without a projection.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import heads_write_stream
from gptbayes.symmetry.group.axes import concatenate_heads, split_heads
from gptbayes.symmetry.group.families import Generator, tangents_of, without_stage
from gptbayes.symmetry.matrices import GENERAL_LINEAR, one_for_each


def transform_query_key(parameters: Parameters, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Change the basis in which each head compares queries with keys.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    matrix : ndarray, (..., layer, head, head_dim, head_dim)
        Invertible, one per head. Queries are multiplied by it, keys by its inverse transpose.

    Returns
    -------
    dict of str to ndarray
    """
    inverse = np.swapaxes(np.linalg.inv(matrix), -1, -2)
    return {
        **parameters,
        "key": parameters["key"] @ inverse,
        "query": parameters["query"] @ matrix,
    }


def transform_value(parameters: Parameters, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Change the basis of the values of each head.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Of stages 04, 05, 06 or 12, where a matrix reads the output of the heads.
    matrix : ndarray, (..., layer, head, head_dim, head_dim)
        Invertible, one per head. Values are multiplied by it, their reader by its inverse
        transpose.

    Returns
    -------
    dict of str to ndarray
    """
    inverse = np.swapaxes(np.linalg.inv(matrix), -1, -2)
    moved = with_head_readers(parameters, head_readers(parameters) @ inverse)
    return {**moved, "value": parameters["value"] @ matrix}


def head_readers(parameters: Parameters) -> np.ndarray:
    """The weights that read the output of each head.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Of stages 04, 05, 06 or 12.

    Returns
    -------
    ndarray, (..., layer, head, row, head_dim)
        Rows are those of the projection of the heads in stage 12, of the feed-forward layer in 06,
        of the LM head in 04 and 05.
    """
    if "sa_proj_multiplier" in parameters:
        return np.moveaxis(parameters["sa_proj_multiplier"], -2, -3)
    name = _head_reader(parameters)
    rows = parameters[name] if name != "lm_head_multiplier" else parameters[name][..., None, :, :]
    return split_heads(rows, *parameters["value"].shape[-3::2])  # (..., L, H, rows, h)


def with_head_readers(parameters: Parameters, readers: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters with the weights that read their heads replaced.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    readers : ndarray, (..., layer, head, row, head_dim)
        As `head_readers` returns them.

    Returns
    -------
    dict of str to ndarray
    """
    if "sa_proj_multiplier" in parameters:
        return {**parameters, "sa_proj_multiplier": np.moveaxis(readers, -3, -2)}
    name = _head_reader(parameters)
    rows = concatenate_heads(readers)
    return {**parameters, name: rows[..., 0, :, :] if name == "lm_head_multiplier" else rows}


def head_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    if "attention" not in stage.features:
        return []
    found = [_matrix_generator("transform_query_key", transform_query_key)]
    if not heads_write_stream(stage):
        found.append(_matrix_generator("transform_value", transform_value))
    return found


def _head_reader(parameters):
    if "feed_forward_multiplier" in parameters:
        return "feed_forward_multiplier"
    return "lm_head_multiplier"


def _matrix_generator(name, action):
    """One invertible matrix per head."""
    act = without_stage(action)

    def random(stage, design, batch, rng):
        n = stage.sizes(design)
        return GENERAL_LINEAR.random(n["head_dim"], (*batch, n["layer"], n["head"]), rng)

    def directions(stage, n):
        basis = GENERAL_LINEAR.algebra(n["head_dim"])
        return np.eye(n["head_dim"]), one_for_each(basis, (n["layer"], n["head"]))

    return Generator(name, True, False, random, act, tangents_of(act, directions))
