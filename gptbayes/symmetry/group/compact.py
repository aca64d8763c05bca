"""The compact group of each stage as data: what leaves likelihood and prior unchanged.

The prior is normal and independent, with one scale per family of parameters. It keeps rotations and
permutations within a family, and the sign of the residual stream, which changes the sign of
parameters with mean zero only. Scales, translations and folds of layer norms change the prior: they
are in `gptbayes.symmetry.group`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.compact_group import Group, Orthogonal, Part, Permutation, SignFlip
from gptbayes.symmetry.elements import Element, random_element, transform
from gptbayes.symmetry.group.architecture import (
    QUERY_KEY,
    has_free_hidden_units,
    heads_write_stream,
    hidden_reader,
    layer_norms,
    stream_readers,
    stream_writers,
)
from gptbayes.symmetry.group.axes import sizes_of
from gptbayes.symmetry.group.families import Generator, tangents_of
from gptbayes.symmetry.group.masks import (
    has_head_permutations,
    has_stream_permutations,
    head_classes,
    stream_blocks,
)
from gptbayes.symmetry.layout import Layout, lay_out
from gptbayes.symmetry.matrices import ORTHOGONAL, one_for_each


def stage_group(stage: Stage) -> Group | None:
    """The compact group of a stage.

    Parameters
    ----------
    stage : Stage
        In stages 11 and 12 with its masks: only parts with equal masks are exchanged. Without
        masks nothing is dropped.

    Returns
    -------
    Group or None
        None for the bigram, which has no such symmetry. The names of parts are those of
        `gptbayes.symmetry.symmetries`.
    """
    if "lm_head" not in stage.features:
        return None
    parts, blocks = _stream(stage)
    more = _heads(stage)
    for name, split in more[1].items():
        blocks[name] = {**blocks.get(name, {}), **split}
    return Group(*parts, *more[0], *_hidden_units(stage), blocks=blocks)


def stage_layout(stage: Stage, sizes: Mapping[str, int]) -> Layout:
    """The compact group of a stage on parameters of given sizes.

    Parameters
    ----------
    stage : Stage
    sizes : mapping of str to int
        Length of every dim.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        For the bigram, which has no such group.
    """
    group = stage_group(stage)
    if group is None:
        raise ValueError(f"stage {stage.number} has no compact group of symmetries")
    dims = {p.name: p.dims for p in stage.parameters}
    shapes = {name: tuple(sizes[dim] for dim in each) for name, each in dims.items()}
    return lay_out(group, dims, shapes)


def transform_stage(
    stage: Stage, name: str, parameters: Parameters, *elements: np.ndarray
) -> dict[str, np.ndarray]:
    """Apply an element of one symmetry of a stage to its parameters.

    Parameters
    ----------
    stage : Stage
    name : str
        A part of the compact group of the stage: "rotate_stream", "permute_stream",
        "flip_stream", "permute_heads", "rotate_query_key", "rotate_value" or "permute_hidden".
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    *elements : ndarray
        As in `gptbayes.symmetry.elements.Element`. In stages 07 to 11 "permute_stream" takes two:
        the order of the heads ``(..., head)``, and of the coordinates within each
        ``(..., head, head_dim)``; the second is not needed in stage 08.

    Returns
    -------
    dict of str to ndarray
        With the same logits if the elements are symmetries, which is not checked.

    Raises
    ------
    ValueError
        If the stage has no such symmetry.
    """
    layout = stage_layout(stage, sizes_of(stage, parameters))
    names = [placed.part.name for placed in layout.parts]
    if name not in names:
        known = ", ".join(n for n in names if n != WITHIN_HEADS) or "none"
        raise ValueError(f"stage {stage.number} has no {name!r}, its compact symmetries: {known}")
    k = names.index(name)
    numbers = [k, *(j for j, other in enumerate(names) if other == WITHIN_HEADS)]
    return transform(
        layout, parameters, [Element(j, e) for j, e in zip(numbers, elements, strict=False)]
    )


def compact_generators(stage: Stage) -> list[Generator]:
    """The generators of a stage that keep the prior.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    list of Generator
    """
    group = stage_group(stage)
    names = [part.name for part in group.parts] if group else []
    within = names.index(WITHIN_HEADS) if WITHIN_HEADS in names else None
    return [
        _generator(name, part, (k, within) if name == "permute_stream" else (k,))
        for k, (name, part) in enumerate(zip(names, group.parts if group else (), strict=True))
        if name != WITHIN_HEADS
    ]


def _generator(name, part, numbers):
    """A generator of some parts of the compact group."""

    def random(stage, design, batch, rng):
        elements = random_element(stage_layout(stage, stage.sizes(design)), batch, rng)
        return [each for each in elements if each.part in numbers]

    def act(stage, parameters, elements):
        return transform(stage_layout(stage, sizes_of(stage, parameters)), parameters, elements)

    if not isinstance(part, Orthogonal):
        return Generator(name, False, True, random, act, lambda stage, parameters: {})

    def act_by_matrix(stage, parameters, matrix):
        return act(stage, parameters, [Element(numbers[0], matrix)])

    def directions(stage, sizes):
        placed = stage_layout(stage, sizes).parts[numbers[0]]
        return np.eye(placed.n), one_for_each(ORTHOGONAL.algebra(placed.n), placed.each)

    return Generator(name, True, True, random, act, tangents_of(act_by_matrix, directions))


WITHIN_HEADS = "permute_stream_within_heads"
"""The name of permutations of coordinates that stay within a head of the residual stream."""


def _stream(stage):
    """Order, sign and basis of the residual stream."""
    blocks, paths = _stream_axes(stage)
    parts: list[Part] = []
    if "layer_norm" in stage.features:
        parts.append(SignFlip({n: "" for n in _flipped(stage)}, name="flip_stream"))
    rotates = "layer_norm" not in stage.features and (
        "wide_feed_forward" in stage.features or "residual" not in stage.features
    )
    if "residual" in stage.features and has_stream_permutations(stage):
        labels, within = _stream_labels(stage)
        if heads_write_stream(stage):
            outer = {name: tuple(p[0] for p in each) for name, each in paths.items()}
            outer |= {name: (*outer[name], "head") for name in QUERY_KEY}
            parts.append(Permutation(outer, labels, name="permute_stream"))
            if not rotates:
                inner = {name: tuple("/".join(p) for p in each) for name, each in paths.items()}
                parts.append(Permutation(inner, within, name=WITHIN_HEADS))
        else:
            axes = {name: tuple(p[-1] for p in each) for name, each in paths.items()}
            parts.append(Permutation(axes, within, name="permute_stream"))
    if rotates:
        axes = {name: tuple("/".join(p) for p in each) for name, each in paths.items()}
        parts.append(Orthogonal(axes, name="rotate_stream"))
    acts_on_blocks = any(not isinstance(part, SignFlip) for part in parts)
    return parts, blocks if acts_on_blocks else {}


def _stream_axes(stage):
    """Blocks, and the paths of every axis that is a coordinate of the residual stream.

    Where heads write to the stream, its coordinates are blocks of the coordinates of the heads.
    """
    split = heads_write_stream(stage)
    axes = [*stream_writers(stage), *((name, axis) for name, axis, _ in stream_readers(stage))]
    axes += [(f"{n}_{part}", -1) for n in layer_norms(stage) for part in ("weight", "bias")]
    blocks: dict = {}
    paths: dict = {}
    for name, axis in axes:
        dim = stage.parameter(name).dims[axis]
        path = (f"{dim}_block", f"{dim}_in_block") if split else (dim,)
        paths.setdefault(name, []).append(path)
        if split:
            blocks.setdefault(name, {})[dim] = path
    if split:
        paths["value"].append(("head", "head_dim"))
    return blocks, paths


def _stream_labels(stage):
    if stage.masks is None:
        return None, None
    n_head, n_embed = np.shape(stage.masks.attention)[1], np.shape(stage.masks.feed_forward)[1]
    labels, within = stream_blocks(stage, n_embed, n_head)
    return labels, within if heads_write_stream(stage) else within[0]


def _flipped(stage):
    """The parameters whose sign changes with that of the residual stream.

    Gains of layer norms are unchanged and their biases change sign, so that all that attention
    reads changes sign. Scores are products of queries and keys and do not change. Values change
    sign without a change of their weights.
    """
    names = ["token_embedding", "position_embedding", "feed_forward_multiplier"]
    names += ["feed_forward_proj_multiplier", "feed_forward_proj_offset", "lm_head_multiplier"]
    names += [f"{norm}_bias" for norm in layer_norms(stage)]
    return (*names, "sa_proj_offset") if "projection" in stage.features else tuple(names)


def _heads(stage):
    """Order of the heads, and the bases of their queries with keys and of their values."""
    if "attention" not in stage.features:
        return [], {}
    matrix = "layer/head/head_dim"
    rotations = [Orthogonal(dict.fromkeys(QUERY_KEY, matrix), name="rotate_query_key")]
    if heads_write_stream(stage):
        return rotations, {}
    blocks, reader, prefix = {}, "sa_proj_multiplier", "layer/"
    if "projection" not in stage.features:
        has_hidden = "feed_forward" in stage.features
        reader = "feed_forward_multiplier" if has_hidden else "lm_head_multiplier"
        blocks[reader] = {"embed": ("head", "head_dim")}
        prefix = "layer/" if has_hidden else ""
    axes = {"value": matrix, reader: f"{prefix}head/head_dim"}
    rotations.append(Orthogonal(axes, name="rotate_value"))
    if "multi_head" not in stage.features or not has_head_permutations(stage):
        return rotations, blocks
    axes = {**dict.fromkeys((*QUERY_KEY, "value"), "layer/head"), reader: f"{prefix}head"}
    labels = None
    if stage.masks is not None:
        labels = head_classes(stage, *np.shape(stage.masks.attention)[:2])
    return [Permutation(axes, labels, name="permute_heads"), *rotations], blocks


def _hidden_units(stage):
    if not has_free_hidden_units(stage):
        return []
    reader = hidden_reader(stage)
    axes = {
        "feed_forward_multiplier": "layer/hidden",
        "feed_forward_offset": "layer/hidden",
        reader: "embed" if reader == "lm_head_multiplier" else "layer/hidden",
    }
    return [Permutation(axes, name="permute_hidden")]
