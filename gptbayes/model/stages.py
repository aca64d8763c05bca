"""The ladder: twelve GPTs, from the bigram to the transformer, as one table.

Stage numbers, file names and parameter names are those of Daniel Lee's tutorial "Building a GPT
in Stan". This module is the only list of stages; `gptbayes.model.parameters` has the parameters of
their parts.

A variant is a stage with another prior, kept beside the ladder because its posterior is known.

Every parameter has the same dims at every stage that has it: a stage without layers or without
several heads has axes of length one, so that one forward pass and one alignment serve all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptbayes.model.arguments import MASKS, Argument
from gptbayes.model.parameters import Parameter, parameters_of


class Masks(NamedTuple):
    """Fixed dropout masks: entries are 0 or 1 / (1 - dropout), the same for all sequences.

    Attributes
    ----------
    attention : ndarray, (layer, head, query_position, key_position)
        Of the attention weights, after the softmax.
    attention_output, feed_forward : ndarray, (layer, embed)
        Of what attention and feed-forward add to the stream.
    """

    attention: np.ndarray
    attention_output: np.ndarray
    feed_forward: np.ndarray


@dataclass(frozen=True)
class Stage:
    """One rung of the ladder, or a variant of one.

    Attributes
    ----------
    number : str
        "01" to "12", or what a variant is called, which begins with the number of its stage.
    title : str
        What the stage is called, in words.
    parameters : tuple of Parameter
        In the order of the Stan program.
    features : frozenset of str
        What the forward pass does: a subset of `FEATURES`.
    masks : Masks, optional
        Of stages 11 and 12, once they have been drawn: see `gptbayes.model.design.draw_masks`.
    folder : pathlib.Path, optional
        Where its Stan program and ``functions/`` are, by default the package's own: for a
        program that was changed.
    """

    number: str
    title: str
    parameters: tuple[Parameter, ...]
    features: frozenset[str]
    masks: Masks | None = field(default=None, compare=False, repr=False)
    folder: Path | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """File name without suffix, e.g. ``05-multi-headed-self-attention``."""
        return f"{self.number.split('-')[0]}-{self.title.lower().replace(' ', '-')}"

    @property
    def program(self) -> Path:
        """The Stan program of this stage."""
        return (self.folder or stan_folder()) / f"{self.name}.stan"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Arguments of the forward pass after the tokens: the masks, then the parameters.

        This order is the one of ``gpt_logits`` in the Stan program and of the C++ kernels.
        """
        parameters = (Argument(p.name, "parameter", p.stan_dims, p.item) for p in self.parameters)
        return (*(MASKS if "dropout" in self.features else ()), *parameters)

    def has(self, setting: str) -> bool:
        """Whether a setting of `gptbayes.model.problem.make_problem` has an effect at this stage.

        Parameters
        ----------
        setting : str
            One of `SETTINGS`.

        Returns
        -------
        bool
        """
        return SETTINGS[setting] in self.features

    def applicable(self, **settings: Any) -> dict[str, Any]:
        """Select the settings that this stage has, of settings for several stages.

        Parameters
        ----------
        **settings
            By the names of `SETTINGS`.

        Returns
        -------
        dict

        Examples
        --------
        >>> stage("05").applicable(n_embed=6, n_head=3, n_layer=2)
        {'n_embed': 6, 'n_head': 3}
        """
        return {name: value for name, value in settings.items() if self.has(name)}

    def parameter(self, name: str) -> Parameter:
        """Look up a parameter by its name.

        Parameters
        ----------
        name : str

        Returns
        -------
        Parameter

        Raises
        ------
        ValueError
            If the stage has no such parameter; the message lists its parameters.
        """
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        names = ", ".join(p.name for p in self.parameters)
        raise ValueError(f"stage {self.number} has no parameter {name!r}, its parameters: {names}")

    def sizes(self, design) -> dict[str, int]:
        """Length of every dim of this stage's parameters.

        Parameters
        ----------
        design : gptbayes.model.design.Design

        Returns
        -------
        dict
            Keys: token, position, embed, layer, head, head_dim, hidden.
        """
        n_embed = design.n_embed if "lm_head" in self.features else design.vocab_size
        n_head = design.n_head if "multi_head" in self.features else 1
        return {
            "token": design.vocab_size,
            "position": design.block_size,
            "embed": n_embed,
            "layer": design.n_layer if "blocks" in self.features else 1,
            "head": n_head,
            "head_dim": n_embed // n_head,
            "hidden": 4 * n_embed if "wide_feed_forward" in self.features else n_embed,
        }

    def shape(self, parameter: Parameter, design) -> tuple[int, ...]:
        """The shape of a parameter in the order of its dims.

        Parameters
        ----------
        parameter : Parameter
        design : gptbayes.model.design.Design

        Returns
        -------
        tuple of int
        """
        sizes = self.sizes(design)
        return tuple(sizes[dim] for dim in parameter.dims)

    def stan_shape(self, parameter: Parameter, design) -> tuple[int, ...]:
        """The shape of a parameter in the Stan program.

        Parameters
        ----------
        parameter : Parameter
        design : gptbayes.model.design.Design

        Returns
        -------
        tuple of int
        """
        sizes = self.sizes(design)
        return tuple(sizes[dim] for dim in parameter.stan_dims)

    def n_parameters(self, design) -> int:
        """The number of scalar parameters of a draw.

        Parameters
        ----------
        design : gptbayes.model.design.Design

        Returns
        -------
        int
        """
        return sum(int(np.prod(self.shape(p, design))) for p in self.parameters)

    def from_stan(self, values: Mapping[str, np.ndarray], design) -> dict[str, np.ndarray]:
        """Stan's arrays, with any leading batch dims, as arrays with this package's dims.

        Parameters
        ----------
        values : mapping of str to ndarray
            Each ``(..., stan_shape)``. Other names than those of parameters are ignored.
        design : gptbayes.model.design.Design

        Returns
        -------
        dict of str to ndarray
            Each ``(..., shape)``.

        Raises
        ------
        ValueError
            If a parameter is missing or does not have the shape of the design.
        """
        return {
            p.name: _reshaped(p.name, values, self.stan_shape(p, design), self.shape(p, design))
            for p in self.parameters
        }

    def to_stan(self, values: Mapping[str, np.ndarray], design) -> dict[str, np.ndarray]:
        """Convert arrays with this package's dims to Stan's, the inverse of `from_stan`.

        Parameters
        ----------
        values : mapping of str to ndarray
            Each ``(..., shape)``.
        design : gptbayes.model.design.Design

        Returns
        -------
        dict of str to ndarray
            Each ``(..., stan_shape)``.

        Raises
        ------
        ValueError
            If a parameter is missing or does not have the shape of the design.
        """
        return {
            p.name: _reshaped(p.name, values, self.shape(p, design), self.stan_shape(p, design))
            for p in self.parameters
        }


def stage(number: str | int) -> Stage:
    """Look up a stage.

    Parameters
    ----------
    number : str or int
        Its number, such as ``"05"``, ``"5"`` or ``5``, that of a variant, such as
        ``"01-log-gamma"``, or its name.

    Returns
    -------
    Stage

    Raises
    ------
    ValueError
        For an unknown stage; the message lists the valid ones.
    """
    key = str(number).strip()
    key = key.zfill(2) if key.isdecimal() else key
    known = {**STAGES, **VARIANTS}
    for found in known.values():
        if key in (found.number, found.name):
            return found
    raise ValueError(f"unknown stage {str(number)!r}, valid stages: {', '.join(known)}")


def stan_folder() -> Path:
    """Find the Stan programs, in the installed package or beside it in a checkout.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If they are missing.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "stan", package.parent / "stan"):
        if (folder / "01-bigram.stan").is_file():
            return folder
    raise FileNotFoundError(f"the Stan programs are missing from the installation at {package}")


FEATURES = (
    "lm_head",
    "position",
    "attention",
    "multi_head",
    "feed_forward",
    "residual",
    "wide_feed_forward",
    "layer_norm",
    "blocks",
    "dropout",
    "projection",
)
SETTINGS = {
    "n_embed": "lm_head",
    "n_head": "multi_head",
    "n_layer": "blocks",
    "dropout": "dropout",
    "mask_seed": "dropout",
}
"""The feature of a stage that each of these settings of a problem is for."""


def _reshaped(name, values, wanted, target):
    if name not in values:
        raise ValueError(f"parameter {name} is missing, got: {', '.join(sorted(values))}")
    value = np.asarray(values[name])
    batch = value.shape[: value.ndim - len(wanted)]
    if value.ndim < len(wanted) or value.shape[len(batch) :] != wanted:
        raise ValueError(f"{name} must have shape (..., {wanted}), got {value.shape}")
    return value.reshape(*batch, *target)


_TITLES_AND_NEWS = (
    ("Bigram", ()),
    ("Different embedding size", ("lm_head",)),
    ("Positional encoding", ("position",)),
    ("Self-attention", ("attention",)),
    ("Multi-headed self-attention", ("multi_head",)),
    ("Feed-forward", ("feed_forward",)),
    ("Skip connections", ("residual",)),
    ("Larger feed-forward layer", ("wide_feed_forward",)),
    ("Layer norm", ("layer_norm",)),
    ("Blocks", ("blocks",)),
    ("Dropout", ("dropout",)),
    ("Final", ("projection",)),
)


def _ladder() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    features: frozenset[str] = frozenset()
    for number, (title, news) in enumerate(_TITLES_AND_NEWS, start=1):
        features |= frozenset(news)
        key = f"{number:02d}"
        stages[key] = Stage(key, title, parameters_of(features), features)
    return stages


STAGES: dict[str, Stage] = _ladder()


def _log_gamma_bigram() -> Stage:
    """The bigram whose rows of probabilities are Dirichlet, a priori and a posteriori."""
    (logits,) = STAGES["01"].parameters
    logits = replace(logits, family="concentration", prior="log_gamma")
    return replace(
        STAGES["01"], number="01-log-gamma", title="Bigram log-gamma", parameters=(logits,)
    )


VARIANTS: dict[str, Stage] = {"01-log-gamma": _log_gamma_bigram()}
