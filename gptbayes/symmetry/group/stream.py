"""Symmetries of the residual stream that change the prior: changes of its basis.

A matrix that multiplies the residual stream multiplies every parameter that writes to it, and its
inverse multiplies every parameter that reads it. Which matrices are allowed depends on what acts
on single coordinates: ReLUs, heads that write to coordinates of their own, and layer norms.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.architecture import (
    heads_write_stream,
    layer_norms,
    stream_readers,
    stream_writers,
)
from gptbayes.symmetry.group.axes import concatenate_heads, gain_on_axis, split_heads
from gptbayes.symmetry.group.families import Generator, scalings, tangents_of
from gptbayes.symmetry.group.masks import stream_classes
from gptbayes.symmetry.matrices import (
    GENERAL_LINEAR,
    ORTHOGONAL_FIXING_ONES,
    MatrixGroup,
    multiply_axis,
)


def transform_stream(
    stage: Stage, parameters: Parameters, matrix: np.ndarray
) -> dict[str, np.ndarray]:
    """Change the basis of the residual stream.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    matrix : ndarray, (..., embed, embed)
        The residual stream x becomes x times it. Any invertible matrix in stages 02 to 06, a
        positive diagonal one in 07, one that is block-diagonal by heads in 08; from 09 on, where
        every reader follows a layer norm, a multiple of an orthogonal matrix that leaves the
        vector of ones unchanged (block-diagonal by heads up to 11).

    Returns
    -------
    dict of str to ndarray
    """
    moved = dict(parameters)
    for name, axis in stream_writers(stage):
        moved[name] = multiply_axis(moved[name], matrix, axis, len(stage.parameter(name).dims))
    if heads_write_stream(stage):
        moved["value"] = _transform_head_outputs(parameters["value"], matrix)
    if "layer_norm" in stage.features:
        return _rotate_readers(stage, moved, matrix)
    inverse = np.swapaxes(np.linalg.inv(matrix), -1, -2)
    for name, axis, _ in stream_readers(stage):
        moved[name] = multiply_axis(moved[name], inverse, axis, len(stage.parameter(name).dims))
    return moved


def stream_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    has = stage.features.__contains__
    if not has("lm_head"):
        return []
    if has("layer_norm"):
        found = [
            _matrix_generator("rotate_centred_stream", ORTHOGONAL_FIXING_ONES),
            scalings("scale_stream", _scale_stream, lambda n: (1,)),
        ]
    elif has("wide_feed_forward") or not has("residual"):
        found = [_matrix_generator("transform_stream", GENERAL_LINEAR)]
    else:
        found = [scalings("scale_stream", _scale_stream, lambda n: (n["embed"],))]
    return found


def _rotate_readers(stage, moved, matrix):
    """Rotate what the readers make of the normalised stream; gains of layer norms stay."""
    size = np.sqrt((matrix[..., :1, :] ** 2).sum(axis=-1, keepdims=True))
    rotation = matrix / size
    for name, axis, norm in stream_readers(stage):
        n_dims = len(stage.parameter(name).dims)
        if norm is None:  # the LM head of stage 09
            moved[name] = multiply_axis(moved[name], rotation / size, axis, n_dims)
            continue
        gain = gain_on_axis(moved[f"{norm}_weight"], axis, n_dims, stage, norm)
        moved[name] = multiply_axis(moved[name] * gain, rotation, axis, n_dims) / gain
    for norm in layer_norms(stage):
        gain, bias = moved[f"{norm}_weight"], moved[f"{norm}_bias"]
        n_dims = len(stage.parameter(f"{norm}_bias").dims)
        moved[f"{norm}_bias"] = multiply_axis(bias / gain, rotation, -1, n_dims) * gain
    return moved


def _transform_head_outputs(value, matrix):
    """Values (..., layer, head, embed, head_dim) with their output multiplied by a matrix."""
    outputs = multiply_axis(concatenate_heads(value), matrix, -1, 3)
    return split_heads(outputs, *value.shape[-3::2])


def _scale_stream(stage, parameters, element):
    n_embed = parameters["token_embedding"].shape[-1]
    diagonal = np.broadcast_to(element, (*element.shape[:-1], n_embed))
    return transform_stream(stage, parameters, diagonal[..., None] * np.eye(n_embed))


def _matrix_generator(name: str, group: MatrixGroup) -> Generator:
    """Matrices of a group on each set of coordinates that may be mixed."""

    def random(stage, design, batch, rng):
        sizes = stage.sizes(design)
        matrix = np.zeros((*batch, sizes["embed"], sizes["embed"]))
        for at in _mixable_coordinates(stage, sizes):
            matrix[(..., *np.ix_(at, at))] = group.random(len(at), batch, rng)
        return matrix

    def directions(stage, sizes):
        n_embed, found = sizes["embed"], []
        for at in _mixable_coordinates(stage, sizes):
            basis = group.algebra(len(at))
            full = np.zeros((len(basis), n_embed, n_embed))
            full[(slice(None), *np.ix_(at, at))] = basis
            found.append(full)
        return np.eye(n_embed), np.concatenate(found)

    act = transform_stream
    return Generator(name, True, False, random, act, tangents_of(act, directions))


def _mixable_coordinates(stage, sizes):
    """Index arrays of the coordinates that a matrix may mix: of one head, with equal masks."""
    blocks = np.arange(sizes["embed"]) // sizes.get("head_dim", sizes["embed"])
    if not heads_write_stream(stage):
        blocks[:] = 0
    labels = np.stack([blocks, stream_classes(stage, sizes["embed"])])
    which = np.unique(labels, axis=1, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(which == label) for label in np.unique(which)]
