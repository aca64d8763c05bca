"""Weight symmetry: transformations of the weights that leave every prediction unchanged.

`group` holds the symmetry group of each stage; the other modules use it: `alignment`,
`gauge_fixing`, `invariants`, and `dimension`, the null space of the logits.
"""

from gptbayes.symmetry.alignment import Alignment, align
from gptbayes.symmetry.dimension import (
    NullDimension,
    generic_null_dimension,
    logit_jacobian,
    null_dimension,
    numerical_rank,
)
from gptbayes.symmetry.gauge_fixing import canonical_form
from gptbayes.symmetry.group import Generator, generators, symmetries, symmetry_dimension
from gptbayes.symmetry.group.heads import permute_heads, rotate_query_key, rotate_value
from gptbayes.symmetry.group.stream import rotate_stream
from gptbayes.symmetry.invariants import invariant_scalars

__all__ = [
    "Alignment",
    "Generator",
    "NullDimension",
    "align",
    "canonical_form",
    "generators",
    "generic_null_dimension",
    "invariant_scalars",
    "logit_jacobian",
    "null_dimension",
    "numerical_rank",
    "permute_heads",
    "rotate_query_key",
    "rotate_stream",
    "rotate_value",
    "symmetries",
    "symmetry_dimension",
]
