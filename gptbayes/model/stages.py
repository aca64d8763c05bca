"""The ladder: twelve GPTs, from the bigram to the transformer, as one table.

Stage numbers, file names and parameter names are those of Daniel Lee's tutorial "Building a GPT
in Stan". This module is the only list of stages, of their parameters and of their dims.

A variant is a stage with another prior, kept beside the ladder because its posterior is known.

Every parameter has the same dims at every stage that has it: a stage without layers or without
several heads has axes of length one, so that one forward pass and one alignment serve all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gptbayes.model.arguments import MASKS, Argument, Item


@dataclass(frozen=True)
class Parameter:
    """One parameter of a Stan program, and where its axes stand in the analysis.

    Attributes
    ----------
    name : str
        The name in the Stan program.
    dims : tuple of str
        Dims of the parameter everywhere outside Stan.
    stan_dims : tuple of str
        Dims of the parameter in the Stan program; axes of length one may be missing and
        ``head, head_dim`` may be one axis, ``embed``. Element order is the same.
    item : {"matrix", "vector"}
        What the Stan program declares: one of these, or an array of them.
    family : str
        Where its prior is set, a field of `gptbayes.model.problem.Priors`.
    prior : {"normal", "log_gamma"}
        The distribution of each of its elements: normal around `prior_mean` with the sd that
        ``family`` names, or the logarithm of a gamma variable of rate 1 with the shape that
        ``family`` names. Mean and sd of either: `gptbayes.model.problem.Priors.mean` and ``scale``.
    """

    name: str
    dims: tuple[str, ...]
    stan_dims: tuple[str, ...]
    item: Item
    family: str
    prior: Literal["normal", "log_gamma"] = "normal"

    @property
    def prior_mean(self) -> float:
        """Centre of a normal prior: 1 for layer-norm weights, 0 for everything else."""
        return 1.0 if self.family == "layer_norm" and self.name.endswith("weight") else 0.0


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
        Of stages 11 and 12, once they have been drawn: see `gptbayes.model.problem.draw_masks`.
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
        """
        return SETTINGS[setting] in self.features

    def applicable(self, **settings: Any) -> dict[str, Any]:
        """Of settings that several stages share, those that this stage has.

        Examples
        --------
        >>> stage("05").applicable(n_embed=6, n_head=3, n_layer=2)
        {'n_embed': 6, 'n_head': 3}
        """
        return {name: value for name, value in settings.items() if self.has(name)}

    def parameter(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        names = ", ".join(p.name for p in self.parameters)
        raise ValueError(f"stage {self.number} has no parameter {name!r}, its parameters: {names}")

    def sizes(self, design) -> dict[str, int]:
        """Length of every dim of this stage's parameters.

        Parameters
        ----------
        design : gptbayes.model.problem.Design

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
        """Shape of a parameter outside Stan, in the order of its dims."""
        sizes = self.sizes(design)
        return tuple(sizes[dim] for dim in parameter.dims)

    def stan_shape(self, parameter: Parameter, design) -> tuple[int, ...]:
        """Shape of a parameter inside Stan."""
        sizes = self.sizes(design)
        return tuple(sizes[dim] for dim in parameter.stan_dims)

    def n_parameters(self, design) -> int:
        """How many real numbers a draw has."""
        return sum(int(np.prod(self.shape(p, design))) for p in self.parameters)

    def from_stan(self, values: Mapping[str, np.ndarray], design) -> dict[str, np.ndarray]:
        """Stan's arrays, with any leading batch dims, as arrays with this package's dims.

        Parameters
        ----------
        values : mapping of str to ndarray
            Each ``(..., stan_shape)``. Names that are no parameters of the stage are left out.
        design : gptbayes.model.problem.Design

        Returns
        -------
        dict of str to ndarray
            Each ``(..., shape)``.

        Raises
        ------
        ValueError
            If a parameter is missing or has another shape than the design says.
        """
        return {
            p.name: _reshaped(p.name, values, self.stan_shape(p, design), self.shape(p, design))
            for p in self.parameters
        }

    def to_stan(self, values: Mapping[str, np.ndarray], design) -> dict[str, np.ndarray]:
        """The inverse of `from_stan`."""
        return {
            p.name: _reshaped(p.name, values, self.shape(p, design), self.stan_shape(p, design))
            for p in self.parameters
        }


def stage(number: str | int) -> Stage:
    """Look a stage up by its number, ``"05"``, ``"5"`` or ``5``, or by its name.

    Variants are found too, ``"01-log-gamma"``.

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
    """Where the Stan programs are: inside the installed package, or beside it in a checkout."""
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


# The table. Each function below gives the parameters of one brick; `_ladder` climbs.


def _position() -> list[Parameter]:
    dims = ("position", "embed")
    return [Parameter("position_embedding", dims, dims, "vector", "position_embedding")]


def _attention(prefix: tuple[str, ...]) -> list[Parameter]:
    dims = ("layer", "head", "embed", "head_dim")
    stan_dims = (*prefix, "embed", "head_dim")
    names = ("key", "query", "value")
    return [Parameter(name, dims, stan_dims, "matrix", "attention") for name in names]


def _projection() -> list[Parameter]:
    return [
        Parameter(
            "sa_proj_multiplier",
            ("layer", "embed", "head", "head_dim"),
            ("layer", "embed", "embed"),
            "matrix",
            "attention_proj",
        ),
        Parameter("sa_proj_offset", ("layer", "embed"), ("layer", "embed"), "vector", "offset"),
    ]


def _feed_forward(prefix: tuple[str, ...], wide: bool) -> list[Parameter]:
    def linear(name, rows, columns):
        def parameter(suffix, dims, item, family):
            return Parameter(f"{name}_{suffix}", ("layer", *dims), (*prefix, *dims), item, family)

        yield parameter("multiplier", (rows, columns), "matrix", "feed_forward")
        yield parameter("offset", (rows,), "vector", "offset")

    parameters = [*linear("feed_forward", "hidden", "embed")]
    if wide:
        parameters += linear("feed_forward_proj", "embed", "hidden")
    return parameters


def _layer_norm(prefix: tuple[str, ...]) -> list[Parameter]:
    names = ("ln1_weight", "ln1_bias", "ln2_weight", "ln2_bias")
    dims, stan_dims = ("layer", "embed"), (*prefix, "embed")
    return [Parameter(name, dims, stan_dims, "vector", "layer_norm") for name in names]


def _final_layer_norm() -> list[Parameter]:
    names = ("ln_f_weight", "ln_f_bias")
    return [Parameter(name, ("embed",), ("embed",), "vector", "layer_norm") for name in names]


def _lm_head() -> list[Parameter]:
    dims = ("token", "embed")
    return [
        Parameter("lm_head_multiplier", dims, dims, "matrix", "lm_head"),
        Parameter("lm_head_offset", dims[:1], dims[:1], "vector", "offset"),
    ]


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


def _parameters(features: frozenset[str]) -> tuple[Parameter, ...]:
    layer = ("layer",) if "blocks" in features else ()
    head = ("head",) if "multi_head" in features else ()
    token = ("token", "embed")
    parameters = [Parameter("token_embedding", token, token, "vector", "token_embedding")]
    if "position" in features:
        parameters += _position()
    if "attention" in features:
        parameters += _attention(layer + head)
    if "projection" in features:
        parameters += _projection()
    if "feed_forward" in features:
        parameters += _feed_forward(layer, "wide_feed_forward" in features)
    if "layer_norm" in features:
        parameters += _layer_norm(layer)
    if "blocks" in features:
        parameters += _final_layer_norm()
    if "lm_head" in features:
        parameters += _lm_head()
    return tuple(parameters)


def _ladder() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    features: frozenset[str] = frozenset()
    for number, (title, news) in enumerate(_TITLES_AND_NEWS, start=1):
        features |= frozenset(news)
        key = f"{number:02d}"
        stages[key] = Stage(key, title, _parameters(features), features)
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
