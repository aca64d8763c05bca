"""Symmetry: transformations of the parameters that leave every prediction unchanged.

`compact_group` holds groups as data, for any model; `alignment`, `elements` and `invariance` use
them, and `posterior` for InferenceData. `group` holds the symmetry group of each stage, of which
the compact part is such data too. `gauge_fixing`, `invariants` and `dimension`, the null space of
the logits, are of the stages.
"""

from gptbayes.symmetry.alignment import Alignment, align, align_draws, match_draws
from gptbayes.symmetry.compact_group import Group, Orthogonal, Permutation, SignFlip, read_group
from gptbayes.symmetry.dimension import (
    NullDimension,
    generic_null_dimension,
    logit_jacobian,
    null_dimension,
    numerical_rank,
)
from gptbayes.symmetry.elements import Element, all_elements, group_order, random_element, transform
from gptbayes.symmetry.gauge_fixing import canonical_form
from gptbayes.symmetry.group import Generator, generators, symmetries, symmetry_dimension
from gptbayes.symmetry.group.compact import stage_group, stage_layout, transform_stage
from gptbayes.symmetry.invariance import Invariance, check_invariance
from gptbayes.symmetry.invariants import invariant_scalars
from gptbayes.symmetry.layout import Layout, lay_out

__all__ = [
    "Alignment",
    "Element",
    "Generator",
    "Group",
    "Invariance",
    "Layout",
    "NullDimension",
    "Orthogonal",
    "Permutation",
    "SignFlip",
    "align",
    "align_draws",
    "all_elements",
    "canonical_form",
    "check_invariance",
    "generators",
    "generic_null_dimension",
    "group_order",
    "invariant_scalars",
    "lay_out",
    "logit_jacobian",
    "match_draws",
    "null_dimension",
    "numerical_rank",
    "random_element",
    "read_group",
    "stage_group",
    "stage_layout",
    "symmetries",
    "symmetry_dimension",
    "transform",
    "transform_stage",
]
