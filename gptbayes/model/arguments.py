"""Arguments of the forward pass in Stan and in C++, and their types.

The list of a stage is `gptbayes.model.stages.Stage.arguments`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Item = Literal["matrix", "vector"]


class Argument(NamedTuple):
    """One argument of a stage's forward pass in Stan and in C++, after the tokens.

    Attributes
    ----------
    name : str
        The name in the Stan program.
    kind : {"mask", "parameter"}
        A mask is data: it has no gradient.
    stan_dims : tuple of str
        Dims in the Stan program, see `gptbayes.model.parameters.Parameter`.
    item : {"matrix", "vector"}
        The argument is one of these, or an array of them.
    """

    name: str
    kind: Literal["mask", "parameter"]
    stan_dims: tuple[str, ...]
    item: Item

    @property
    def array_dims(self) -> tuple[str, ...]:
        """Dims of the array that holds the items; empty if the argument is a single item."""
        return self.stan_dims[: -1 if self.item == "vector" else -2]

    @property
    def stan_type(self) -> str:
        """Type in the signature of a Stan function, for example ``array[,] matrix``."""
        array = f"array[{',' * (len(self.array_dims) - 1)}] " if self.array_dims else ""
        return f"{'data ' if self.kind == 'mask' else ''}{array}{self.item}"


MASKS = (
    Argument("attention_mask", "mask", ("layer", "head", "position", "position"), "matrix"),
    Argument("attention_output_mask", "mask", ("layer", "embed"), "vector"),
    Argument("feed_forward_mask", "mask", ("layer", "embed"), "vector"),
)
"""Masks of stages with dropout: fields of `gptbayes.model.stages.Masks`, with ``_mask`` added."""
