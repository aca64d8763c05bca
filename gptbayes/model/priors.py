"""Prior scales of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from scipy.special import digamma, polygamma

from gptbayes.corpus import real_number
from gptbayes.model.design import Design
from gptbayes.model.parameters import Parameter
from gptbayes.model.stages import Stage


@dataclass(frozen=True)
class Priors:
    """Prior standard deviations, one per family of parameters.

    Priors are independent normals with mean 0, except layer-norm weights, which have mean 1.

    Attributes
    ----------
    token_embedding, position_embedding : float
        Standard deviations of the embeddings.
    attention : float
        Of keys, queries and values.
    attention_proj : float
        Of the multiplier of the attention projection.
    feed_forward : float
        Of both multipliers of the feed-forward layers.
    lm_head : float
        Of the multiplier of the language-model head.
    offset : float
        Of all offsets.
    layer_norm : float
        Of the weights and biases of the layer norms.
    concentration : float
        Not a standard deviation: in the log-gamma variant of stage 01 each logit is the log of a
        gamma(concentration, 1) variable, so that each row of probabilities is Dirichlet with all
        parameters equal to ``concentration``; 1 is uniform on the simplex.

    Raises
    ------
    ValueError
        If a scale is not a positive number.

    Examples
    --------
    >>> Priors(attention=0.5).replace(lm_head=2.0).lm_head
    2.0
    """

    token_embedding: float = 1.0
    position_embedding: float = 1.0
    attention: float = 1.0
    attention_proj: float = 1.0
    feed_forward: float = 1.0
    lm_head: float = 1.0
    offset: float = 1.0
    layer_norm: float = 1.0
    concentration: float = 1.0

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            name = f"the prior scale {each.name}"
            number = real_number(name, value, "positive")
            if not number > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
            object.__setattr__(self, each.name, number)

    @classmethod
    def default(cls, stage: Stage, design: Design) -> Priors:
        """Scales with which prior logits have an sd of order one at every stage and size.

        A sum of C products of unit-scale terms has sd √C, so that weights have scale 1/√C
        (Neal 1996, section 2.1). Token and position embeddings share the unit variance of the
        residual stream. Attention averages over the context, which reduces the variance; a larger
        scale of the head compensates for it. With skip connections the residual stream grows
        instead. The two multipliers of the larger feed-forward layer have one scale, between
        those for fan-in C and 4C.

        Parameters
        ----------
        stage : Stage
        design : Design

        Returns
        -------
        Priors
        """
        n_embed = stage.sizes(design)["embed"]
        embedding = math.sqrt(0.5) if "position" in stage.features else 1.0
        fan_in = 1 / math.sqrt(n_embed)
        return cls(
            token_embedding=embedding,
            position_embedding=embedding,
            attention=fan_in,
            attention_proj=fan_in,
            feed_forward=fan_in * (math.sqrt(0.5) if "wide_feed_forward" in stage.features else 1),
            lm_head=fan_in * (0.75 if "residual" in stage.features else 1.5),
            offset=1.0,
            layer_norm=0.5,
        )

    def scale(self, parameter: Parameter) -> float:
        """The prior sd of every element of a parameter.

        Parameters
        ----------
        parameter : Parameter

        Returns
        -------
        float
        """
        value = getattr(self, parameter.family)
        return math.sqrt(polygamma(1, value)) if parameter.prior == "log_gamma" else value

    def mean(self, parameter: Parameter) -> float:
        """The prior mean of every element of a parameter.

        Parameters
        ----------
        parameter : Parameter

        Returns
        -------
        float
        """
        if parameter.prior == "log_gamma":
            return float(digamma(getattr(self, parameter.family)))
        return parameter.prior_mean

    def replace(self, **scales: float) -> Priors:
        """Return these priors with some scales changed.

        Parameters
        ----------
        **scales : float
            By family of parameters.

        Returns
        -------
        Priors

        Raises
        ------
        ValueError
            If a name is not a family of parameters (the message lists the valid ones), or if a
            scale is not positive.
        """
        valid = [each.name for each in fields(self)]
        unknown = sorted(set(scales) - set(valid))
        if unknown:
            raise ValueError(f"unknown prior scale {unknown[0]!r}, valid ones: {', '.join(valid)}")
        return replace(self, **scales)
