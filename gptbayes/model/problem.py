"""What a model is fitted to and how, and Stan's view of it.

`Design` and `Priors` are the user's choices, `Problem` adds the text. `stan_data` turns a problem
into the data block of the Stan programs and is the only place where tokens become 1-based.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
from scipy.special import digamma, polygamma

from gptbayes.corpus import Vocabulary, Windows, split
from gptbayes.model.stages import Masks, Parameter, Stage, stage

USUAL_BATCH_SIZE = 64


@dataclass(frozen=True)
class Design:
    """Sizes of a model, under the tutorial's names.

    Attributes
    ----------
    vocab_size : int
        Number of characters, V.
    block_size : int
        Length of the context, T.
    batch_size : int
        Number of training sequences, B.
    n_embed : int
        Width of the residual stream, C. Stage 01 has none: its embedding is as wide as V.
    n_head : int
        Number of heads from stage 05 on, H; divides ``n_embed``.
    n_layer : int
        Number of blocks from stage 10 on, L.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or ``n_head`` does not divide ``n_embed``.
    """

    vocab_size: int
    block_size: int = 8
    batch_size: int = 64
    n_embed: int = 8
    n_head: int = 2
    n_layer: int = 2

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{each.name} must be a positive integer, got {value!r}")
        if self.n_embed % self.n_head:
            raise ValueError(
                f"n_embed must be divisible by n_head, got {self.n_embed} and {self.n_head}"
            )


@dataclass(frozen=True)
class Priors:
    """Standard deviations of the independent normal priors, one per family of parameters.

    All are centred at 0, except layer-norm weights, which are centred at 1. The one that is no
    standard deviation is ``concentration``, of the log-gamma variant of stage 01: its logits are
    logs of gamma(concentration, 1) variables, which makes each row of probabilities
    Dirichlet(concentration, …, concentration); 1 is uniform on the simplex.

    Raises
    ------
    ValueError
        If a scale is not a positive number.
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
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the prior scale {each.name} must be positive, got {value!r}")

    @classmethod
    def default(cls, stage: Stage, design: Design) -> Priors:
        """Scales that give prior logits an sd of order one at every stage and size.

        A sum over C products of unit-scale terms has sd √C, so that weights have scale 1/√C
        (Neal 1996, section 2.1). Token and position embeddings share the unit variance of the
        stream. Averaging over the context shrinks what attention passes on, which the scale of
        the head makes up for; with skip connections the stream grows instead. The two maps of
        the larger feed-forward layer share one scale, between those of fan-in C and 4C.
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
        """The prior sd of every element of a parameter."""
        value = getattr(self, parameter.family)
        return math.sqrt(polygamma(1, value)) if parameter.prior == "log_gamma" else value

    def mean(self, parameter: Parameter) -> float:
        """The prior mean of every element of a parameter."""
        if parameter.prior == "log_gamma":
            return float(digamma(getattr(self, parameter.family)))
        return parameter.prior_mean

    def replace(self, **scales: float) -> Priors:
        """These priors with some scales changed.

        Raises
        ------
        ValueError
            If a name is not a family of parameters; the message lists the valid ones.
        """
        valid = [each.name for each in fields(self)]
        unknown = sorted(set(scales) - set(valid))
        if unknown:
            raise ValueError(f"unknown prior scale {unknown[0]!r}, valid ones: {', '.join(valid)}")
        return replace(self, **scales)


def draw_masks(stage: Stage, design: Design, dropout: float, rng: np.random.Generator) -> Masks:
    """Draw the masks of a stage with dropout, once and for all.

    Parameters
    ----------
    stage : Stage
    design : Design
    dropout : float
        Probability that an entry is 0; the others are 1 / (1 - dropout).
    rng : numpy.random.Generator

    Returns
    -------
    Masks

    Raises
    ------
    ValueError
        If ``dropout`` is not in [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and less than 1, got {dropout}")
    return Masks(
        *((rng.random(shape) >= dropout) / (1 - dropout) for shape in _mask_shapes(stage, design))
    )


@dataclass(frozen=True, eq=False)
class Problem:
    """A stage, its sizes and priors, and the text that it is fitted to.

    Attributes
    ----------
    stage : Stage
    design : Design
    priors : Priors
    vocabulary : Vocabulary
    training, held_out : Windows
        0-based tokens, each ``(sequence, position)``.
    likelihood_weight : float
        Power of the likelihood: 1 for the posterior, 0 for the prior, 1/(B·T) for the tutorial's
        objective. Anything but 1 is named in every output.
    prompt : ndarray of int
        0-based tokens that Stan's ``new_tokens`` go on from.
    n_new_tokens : int
        How many characters Stan generates per draw; 0 for none.
    source : str
        Where the text came from, for the reader.

    Raises
    ------
    ValueError
        If sizes, tokens or weight do not fit together.
    """

    stage: Stage
    design: Design
    priors: Priors
    vocabulary: Vocabulary
    training: Windows
    held_out: Windows
    likelihood_weight: float = 1.0
    prompt: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    n_new_tokens: int = 0
    source: str = "text"

    def __post_init__(self):
        wanted = (self.design.batch_size, self.design.block_size)
        if self.training.x.shape != wanted or self.training.y.shape != wanted:
            raise ValueError(
                f"training windows must have shape (batch_size, block_size) = {wanted}, "
                f"got {self.training.x.shape} and {self.training.y.shape}"
            )
        if len(self.vocabulary) != self.design.vocab_size:
            raise ValueError(
                f"vocab_size must be the size of the vocabulary, {len(self.vocabulary)}, "
                f"got {self.design.vocab_size}"
            )
        if not (math.isfinite(self.likelihood_weight) and self.likelihood_weight >= 0):
            raise ValueError(f"likelihood_weight must be 0 or more, got {self.likelihood_weight!r}")
        if len(self.prompt) < 1 or self.n_new_tokens < 0:
            raise ValueError(
                "a prompt needs at least one character and n_new_tokens must be 0 or more, "
                f"got {len(self.prompt)} and {self.n_new_tokens}"
            )
        self._check_masks()
        for tokens in (*self.training, *self.held_out, self.prompt):
            if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.design.vocab_size:
                raise ValueError(f"tokens must be in 0..{self.design.vocab_size - 1}")

    def _check_masks(self):
        if "dropout" not in self.stage.features:
            return
        if self.stage.masks is None:
            raise ValueError(f"stage {self.stage.number} needs masks, see draw_masks")
        shapes = _mask_shapes(self.stage, self.design)
        for name, mask, wanted in zip(Masks._fields, self.stage.masks, shapes, strict=True):
            if np.shape(mask) != wanted:
                raise ValueError(f"the {name} mask must have shape {wanted}, got {np.shape(mask)}")
            if not (np.isfinite(mask) & (np.asarray(mask) >= 0)).all():
                raise ValueError(f"the {name} mask must have entries of 0 or more")

    @property
    def n_targets(self) -> int:
        """Number of characters that the likelihood counts, B·T."""
        return self.design.batch_size * self.design.block_size


def make_problem(
    stage: Stage,
    text: str,
    *,
    source: str = "text",
    block_size: int = 8,
    batch_size: int | None = None,
    stride: int | None = None,
    held_out_fraction: float = 0.2,
    n_embed: int = 8,
    n_head: int = 2,
    n_layer: int = 2,
    scales: Mapping[str, float] | None = None,
    likelihood_weight: float = 1.0,
    n_new_tokens: int = 0,
    dropout: float = 0.1,
    mask_seed: int = 1,
) -> Problem:
    """Pose the problem of fitting a stage to a text.

    Parameters
    ----------
    stage : Stage
    text : str
        Its characters are the vocabulary, those of the held-out part included.
    source : str
        Where the text came from, for the reader.
    block_size, stride, held_out_fraction
        As in `gptbayes.corpus.split`.
    batch_size : int, optional
        Number of training sequences; by default all there are, but no more than 64, which is
        what NUTS does in minutes.
    n_embed, n_head, n_layer : int
        As in `Design`.
    scales : mapping of str to float, optional
        Prior scales that differ from `Priors.default`.
    likelihood_weight : float
    n_new_tokens : int
        How many characters Stan goes on from the first held-out context, per draw.
    dropout : float
        Of stages 11 and 12, in [0, 1).
    mask_seed : int
        Of their masks.

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If sizes, scales or text do not fit together.
    """
    vocabulary = Vocabulary.of(text)
    tokens = vocabulary.encode(text)
    training, held_out = split(
        tokens,
        block_size,
        batch_size=batch_size,
        held_out_fraction=held_out_fraction,
        stride=stride,
    )
    if batch_size is None:
        training = Windows(*(part[:USUAL_BATCH_SIZE] for part in training))
    if stride is not None and stride < block_size:
        source = f"{source}, overlapping windows: characters count several times"
    design = Design(len(vocabulary), block_size, len(training.x), n_embed, n_head, n_layer)
    if "dropout" in stage.features:
        masks = draw_masks(stage, design, dropout, np.random.default_rng(mask_seed))
        stage = replace(stage, masks=masks)
    return Problem(
        stage=stage,
        design=design,
        priors=Priors.default(stage, design).replace(**(scales or {})),
        vocabulary=vocabulary,
        training=training,
        held_out=held_out,
        likelihood_weight=likelihood_weight,
        prompt=held_out.x[0],
        n_new_tokens=n_new_tokens,
        source=source,
    )


def stan_data(problem: Problem) -> dict:
    """The data of the Stan programs, JSON-ready, tokens 1-based.

    Every stage gets the same dict; a program declares what it needs and Stan leaves the rest
    unread, as it does with the held-out windows, which are kept here for the analysis.
    """
    windows = {"x": problem.training.x, "y": problem.training.y}
    held_out = {"held_out_x": problem.held_out.x, "held_out_y": problem.held_out.y}
    tokens = {**windows, **held_out, "prompt": problem.prompt}
    masks = problem.stage.masks._asdict() if problem.stage.masks else {}
    return {
        **{f"{name}_mask": np.asarray(mask).tolist() for name, mask in masks.items()},
        **{name: int(size) for name, size in asdict(problem.design).items()},
        **{data_name(family): value for family, value in asdict(problem.priors).items()},
        **{name: (np.asarray(value) + 1).tolist() for name, value in tokens.items()},
        "prompt_size": len(problem.prompt),
        "n_new_tokens": int(problem.n_new_tokens),
        "likelihood_weight": float(problem.likelihood_weight),
    }


def data_name(family: str) -> str:
    """What a field of `Priors` is called in the data of the Stan programs."""
    return family if family == "concentration" else f"{family}_scale"


def from_stan_data(
    data: dict, *, stage_number: str, characters: tuple[str, ...], source: str
) -> Problem:
    """The inverse of `stan_data`: the problem that a run directory describes."""

    def tokens(name, ndim):
        value = np.asarray(data[name], dtype=np.int64) - 1
        return value if value.size else value.reshape((0,) * (ndim - 1) + (data["block_size"],))

    climbed = stage(stage_number)
    if "dropout" in climbed.features:
        masks = Masks(*(np.asarray(data[f"{name}_mask"]) for name in Masks._fields))
        climbed = replace(climbed, masks=masks)
    return Problem(
        stage=climbed,
        design=Design(**{each.name: data[each.name] for each in fields(Design)}),
        priors=_priors(data),
        vocabulary=Vocabulary(tuple(characters)),
        training=Windows(tokens("x", 2), tokens("y", 2)),
        held_out=Windows(tokens("held_out_x", 2), tokens("held_out_y", 2)),
        likelihood_weight=data["likelihood_weight"],
        prompt=tokens("prompt", 1),
        n_new_tokens=data["n_new_tokens"],
        source=source,
    )


def _priors(data):
    names = {each.name: data_name(each.name) for each in fields(Priors)}
    if "concentration" not in data:  # a run from before there was a stage that has one
        del names["concentration"]
    return Priors(**{family: data[name] for family, name in names.items()})


def _mask_shapes(stage, design):
    sizes = stage.sizes(design)
    layer, head, position, embed = (sizes[dim] for dim in ("layer", "head", "position", "embed"))
    return (layer, head, position, position), (layer, embed), (layer, embed)
