"""Weight symmetry: transformations of the weights that leave every prediction as it is."""

from gptbayes.symmetry.actions import permute_heads, rotate_query_key, rotate_stream, rotate_value
from gptbayes.symmetry.align import Alignment, align
from gptbayes.symmetry.canonical import canonical
from gptbayes.symmetry.dimension import (
    NullDimension,
    generic_null_dimension,
    logit_jacobian,
    null_dimension,
    numerical_rank,
)
from gptbayes.symmetry.generators import Generator, generators, symmetries, symmetry_dimension
from gptbayes.symmetry.invariants import invariants

__all__ = [
    "Alignment",
    "Generator",
    "NullDimension",
    "align",
    "canonical",
    "generators",
    "generic_null_dimension",
    "invariants",
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
