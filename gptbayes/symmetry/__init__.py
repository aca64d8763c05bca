"""Weight symmetry: transformations of the weights that leave every prediction as it is."""

from gptbayes.symmetry.actions import (
    permute_heads,
    rotate_query_key,
    rotate_stream,
    rotate_value,
    symmetries,
)
from gptbayes.symmetry.align import Alignment, align

__all__ = [
    "Alignment",
    "align",
    "permute_heads",
    "rotate_query_key",
    "rotate_stream",
    "rotate_value",
    "symmetries",
]
