"""Sizes of a model, and its dropout masks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from gptbayes.corpus import real_number, whole_number
from gptbayes.model.stages import Masks, Stage

_LARGEST = {"n_layer": 1000, "n_embed": 2**16}
_MASK_ENTRIES = 10**8


@dataclass(frozen=True)
class Design:
    """Sizes of a model, with the tutorial's names.

    Attributes
    ----------
    vocab_size : int
        Number of characters, V.
    block_size : int
        Length of the context, T.
    batch_size : int
        Number of training sequences, B.
    n_embed : int
        Width of the residual stream, C. Stage 01 does not use it: its embedding has width V.
    n_head : int
        Number of heads, H, from stage 05 on. Divides ``n_embed``.
    n_layer : int
        Number of blocks, L, from stage 10 on.

    Raises
    ------
    ValueError
        If a size is not a positive integer or above its bound (1,000 layers, a width of 65,536,
        else 1,048,576), or ``n_head`` does not divide ``n_embed``.
    """

    vocab_size: int
    block_size: int = 8
    batch_size: int = 64
    n_embed: int = 8
    n_head: int = 2
    n_layer: int = 2

    def __post_init__(self):
        for each in fields(self):
            most = _LARGEST.get(each.name, 2**20)
            size = whole_number(each.name, getattr(self, each.name), most=most)
            object.__setattr__(self, each.name, size)
        if self.n_embed % self.n_head:
            raise ValueError(
                f"n_embed must be divisible by n_head, got {self.n_embed} and {self.n_head}"
            )


def draw_masks(stage: Stage, design: Design, dropout: float, rng: np.random.Generator) -> Masks:
    """Draw the fixed dropout masks of a stage.

    Parameters
    ----------
    stage : Stage
        One with dropout, 11 or 12.
    design : Design
    dropout : float
        Probability that an entry is 0, in [0, 1). The other entries are 1 / (1 - dropout).
    rng : numpy.random.Generator

    Returns
    -------
    Masks

    Raises
    ------
    ValueError
        If ``dropout`` is not in [0, 1), or the masks are too large to be saved as text.
    """
    n_entries = sum(math.prod(shape) for shape in mask_shapes(stage, design))
    if n_entries > _MASK_ENTRIES:
        raise ValueError(
            f"dropout masks must have at most {_MASK_ENTRIES:,} entries, got {n_entries:,}: layers "
            "times heads times the square of block_size"
        )
    wanted = "at least 0 and less than 1"
    dropout = real_number("dropout", dropout, wanted)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be {wanted}, got {dropout!r}")
    return Masks(
        *((rng.random(shape) >= dropout) / (1 - dropout) for shape in mask_shapes(stage, design))
    )


def mask_shapes(stage: Stage, design: Design) -> tuple[tuple[int, ...], ...]:
    """The shapes of the dropout masks of a stage.

    Parameters
    ----------
    stage : Stage
    design : Design

    Returns
    -------
    tuple of tuple of int
        In the order of `gptbayes.model.stages.Masks`.
    """
    sizes = stage.sizes(design)
    layer, head, position, embed = (sizes[dim] for dim in ("layer", "head", "position", "embed"))
    return (layer, head, position, position), (layer, embed), (layer, embed)
