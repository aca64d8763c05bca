"""The parameters of each part of a stage, with their dims, shapes in Stan and priors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptbayes.model.arguments import Item


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
        Where its prior is set, a field of `gptbayes.model.priors.Priors`.
    prior : {"normal", "log_gamma"}
        The distribution of each of its elements: normal around `prior_mean` with the sd that
        ``family`` names, or the logarithm of a gamma variable of rate 1 with the shape that
        ``family`` names. Mean and sd of either: `gptbayes.model.priors.Priors.mean` and ``scale``.
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


def parameters_of(features: frozenset[str]) -> tuple[Parameter, ...]:
    """List the parameters of a stage with some features.

    Parameters
    ----------
    features : frozenset of str
        Of `gptbayes.model.stages.FEATURES`.

    Returns
    -------
    tuple of Parameter
        In the order of the Stan program.
    """
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
