"""Weight symmetry: transformations of the weights that leave every prediction as it is."""

from gptbayes.symmetry.actions import (
    permute_heads,
    rotate_query_key,
    rotate_stream,
    rotate_value,
    symmetries,
)
from gptbayes.symmetry.align import Alignment, align
from gptbayes.symmetry.dimension import NullDimension, generic_null_dimension, null_dimension

__all__ = [
    "Alignment",
    "NullDimension",
    "align",
    "generic_null_dimension",
    "null_dimension",
    "permute_heads",
    "rotate_query_key",
    "rotate_stream",
    "rotate_value",
    "symmetries",
]
