"""A stage with its sizes, priors and data, and the same as data of the Stan programs.

`Design` and `Priors` hold the user's choices and `Problem` adds the text. `stan_data` converts a
problem to the data block of the Stan programs. It is the only place where tokens become 1-based.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
from scipy.special import digamma, polygamma

from gptbayes.corpus import Vocabulary, Windows, real_number, split, whole_number
from gptbayes.model.stages import STAGES, Masks, Parameter, Stage, stage

DEFAULT_BATCH_SIZE = 64
"""Largest number of training sequences that is used by default: NUTS fits them in minutes."""


_LARGEST = {"n_layer": 1000, "n_embed": 2**16}
_MASK_ENTRIES = 10**8


@dataclass(frozen=True)
class Design:
    """Sizes of a model, with the tutorial's names.

    Attributes
    ----------
    vocab_size : int
        Number of characters, V.
    block_size : int
        Length of the context, T.
    batch_size : int
        Number of training sequences, B.
    n_embed : int
        Width of the residual stream, C. Stage 01 does not use it: its embedding has width V.
    n_head : int
        Number of heads, H, from stage 05 on. Divides ``n_embed``.
    n_layer : int
        Number of blocks, L, from stage 10 on.

    Raises
    ------
    ValueError
        If a size is not a positive integer or above its bound (1,000 layers, a width of 65,536,
        else 1,048,576), or ``n_head`` does not divide ``n_embed``.
    """

    vocab_size: int
    block_size: int = 8
    batch_size: int = 64
    n_embed: int = 8
    n_head: int = 2
    n_layer: int = 2

    def __post_init__(self):
        for each in fields(self):
            most = _LARGEST.get(each.name, 2**20)
            _set(self, each.name, whole_number(each.name, getattr(self, each.name), most=most))
        if self.n_embed % self.n_head:
            raise ValueError(
                f"n_embed must be divisible by n_head, got {self.n_embed} and {self.n_head}"
            )


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
            _set(self, each.name, number)

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
        """The prior sd of every element of a parameter."""
        value = getattr(self, parameter.family)
        return math.sqrt(polygamma(1, value)) if parameter.prior == "log_gamma" else value

    def mean(self, parameter: Parameter) -> float:
        """The prior mean of every element of a parameter."""
        if parameter.prior == "log_gamma":
            return float(digamma(getattr(self, parameter.family)))
        return parameter.prior_mean

    def replace(self, **scales: float) -> Priors:
        """Return these priors with some scales changed.

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


def draw_masks(stage: Stage, design: Design, dropout: float, rng: np.random.Generator) -> Masks:
    """Draw the fixed dropout masks of a stage.

    Parameters
    ----------
    stage : Stage
        One with dropout, 11 or 12.
    design : Design
    dropout : float
        Probability that an entry is 0, in [0, 1). The other entries are 1 / (1 - dropout).
    rng : numpy.random.Generator

    Returns
    -------
    Masks

    Raises
    ------
    ValueError
        If ``dropout`` is not in [0, 1), or the masks are too large to be saved as text.
    """
    n_entries = sum(math.prod(shape) for shape in _mask_shapes(stage, design))
    if n_entries > _MASK_ENTRIES:
        raise ValueError(
            f"dropout masks must have at most {_MASK_ENTRIES:,} entries, got {n_entries:,}: layers "
            "times heads times the square of block_size"
        )
    wanted = "at least 0 and less than 1"
    dropout = real_number("dropout", dropout, wanted)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be {wanted}, got {dropout!r}")
    return Masks(
        *((rng.random(shape) >= dropout) / (1 - dropout) for shape in _mask_shapes(stage, design))
    )


@dataclass(frozen=True, eq=False)
class Problem:
    """A stage with its sizes and priors, and the text that it is fitted to.

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
        objective. Every output labels a power other than 1.
    prompt : ndarray of int, (prompt_position,)
        0-based tokens that Stan's ``new_tokens`` continue.
    n_new_tokens : int
        Number of characters that Stan generates for each draw; 0 for none.
    source : str
        Description of where the text is from. Reports print it.

    Raises
    ------
    ValueError
        If sizes, tokens, masks or weight are inconsistent or out of range.

    See Also
    --------
    make_problem : Make a problem from a text.
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
        _set(
            self,
            "n_new_tokens",
            whole_number("n_new_tokens", self.n_new_tokens, least=0, most=2**20),
        )
        weight = real_number("likelihood_weight", self.likelihood_weight, "0 or more")
        _set(self, "likelihood_weight", weight)
        # A name may be any bytes; what is saved is text, in which none ends a string.
        source = str(self.source).encode("utf-8", "backslashreplace").decode()
        _set(self, "source", source.replace("\0", "\\x00"))
        expected = (self.design.batch_size, self.design.block_size)
        if self.training.x.shape != expected or self.training.y.shape != expected:
            raise ValueError(
                f"training windows must have shape (batch_size, block_size) = {expected}, "
                f"got {self.training.x.shape} and {self.training.y.shape}"
            )
        if "layer_norm" in self.stage.features and self.design.n_embed < 2:
            raise ValueError(
                f"n_embed must be at least 2 at stage {self.stage.number}, whose layer norms "
                f"divide by a standard deviation over the embedding, got {self.design.n_embed}"
            )
        if len(self.vocabulary) != self.design.vocab_size:
            raise ValueError(
                f"vocab_size must be the size of the vocabulary, {len(self.vocabulary)}, "
                f"got {self.design.vocab_size}"
            )
        if weight < 0:
            raise ValueError(f"likelihood_weight must be 0 or more, got {self.likelihood_weight!r}")
        if len(self.prompt) < 1:
            raise ValueError("prompt must have at least one character, got an empty one")
        self._check_masks()
        last = self.design.vocab_size - 1
        for tokens in (*self.training, *self.held_out, self.prompt):
            if tokens.size and not 0 <= tokens.min() <= tokens.max() <= last:
                raise ValueError(
                    f"tokens must be from 0 to {last}, got {tokens.min()} to {tokens.max()}"
                )

    def _check_masks(self):
        if "dropout" not in self.stage.features:
            return
        if self.stage.masks is None:
            raise ValueError(f"stage {self.stage.number} needs masks, see draw_masks")
        shapes = _mask_shapes(self.stage, self.design)
        for name, mask, shape in zip(Masks._fields, self.stage.masks, shapes, strict=True):
            if np.shape(mask) != shape:
                raise ValueError(f"the {name} mask must have shape {shape}, got {np.shape(mask)}")
            if not (np.isfinite(mask) & (np.asarray(mask) >= 0)).all():
                raise ValueError(
                    f"the {name} mask must have entries of 0 or more, got {np.min(mask)}"
                )

    @property
    def n_targets(self) -> int:
        """Number of targets, the characters of which the likelihood is a product: B·T."""
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
    n_embed: int | None = None,
    n_head: int | None = None,
    n_layer: int | None = None,
    scales: Mapping[str, float] | None = None,
    likelihood_weight: float = 1.0,
    n_new_tokens: int = 0,
    dropout: float | None = None,
    mask_seed: int | None = None,
) -> Problem:
    """Make the problem of fitting a stage to a text.

    Parameters
    ----------
    stage : Stage
    text : str
        Its characters, those of the held-out part included, are the vocabulary.
    source : str
        Description of where the text is from. Reports print it.
    block_size, stride, held_out_fraction
        As in `gptbayes.corpus.split`.
    batch_size : int, optional
        Number of training sequences. By default all of them, but at most `DEFAULT_BATCH_SIZE`.
    n_embed, n_head, n_layer : int, optional
        As in `Design`; by default 8, 2 and 2. `gptbayes.model.stages.Stage.applicable` selects
        those that a stage has, for sizes that several stages are to share.
    scales : mapping of str to float, optional
        Prior scales that replace those of `Priors.default`, by the names of `Priors`.
    likelihood_weight : float
        Power of the likelihood, as in `Problem`.
    n_new_tokens : int
        Number of characters that Stan generates for each draw after the first held-out context.
    dropout : float, optional
        Dropout probability of stages 11 and 12, in [0, 1); by default 0.1.
    mask_seed : int, optional
        Seed of the dropout masks; by default 1.

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If sizes, scales and text are inconsistent or out of range, or if the stage does not have
        what a setting or scale is for.

    See Also
    --------
    gptbayes.model.stages.stage : Look up a stage.
    gptbayes.fit.nuts : Sample from the posterior of a problem.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("05"), zen_of_python(), scales={"lm_head": 0.5})
    >>> problem.design
    Design(vocab_size=45, block_size=8, batch_size=64, n_embed=8, n_head=2, n_layer=2)
    >>> problem.vocabulary.decode(problem.training.x[0])
    'The Zen '
    """
    sizes = {"n_embed": n_embed, "n_head": n_head, "n_layer": n_layer}
    _check_effect(stage, {**sizes, "dropout": dropout, "mask_seed": mask_seed}, scales or {})
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
        training = Windows(*(part[:DEFAULT_BATCH_SIZE] for part in training))
    if stride is not None and stride < block_size:
        source = f"{source}, overlapping windows: characters count several times"
    given = {name: size for name, size in sizes.items() if size is not None}
    if "multi_head" not in stage.features and n_embed is not None and n_embed % Design.n_head:
        given["n_head"] = 1  # of a stage without heads, whose width may be odd
    design = Design(len(vocabulary), block_size, len(training.x), **given)
    if "dropout" in stage.features:
        rng = np.random.default_rng(1 if mask_seed is None else mask_seed)
        masks = draw_masks(stage, design, 0.1 if dropout is None else dropout, rng)
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
    """Convert a problem to data of the Stan programs, ready for JSON, with 1-based tokens.

    All stages get the same entries. Stan reads those that a program declares and ignores the
    others, such as the held-out windows, which are stored for the analysis.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    dict

    See Also
    --------
    from_stan_data : The inverse.

    Examples
    --------
    >>> from gptbayes.model.stages import stage
    >>> data = stan_data(make_problem(stage("01"), "abracadabra", block_size=3))
    >>> data["x"], data["y"]
    ([[1, 2, 5], [1, 3, 1]], [[2, 5, 1], [3, 1, 4]])
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
    """The name of a field of `Priors` in the data of the Stan programs."""
    return family if family == "concentration" else f"{family}_scale"


def from_stan_data(
    data: dict, *, stage_number: str, characters: tuple[str, ...], source: str
) -> Problem:
    """Convert data of the Stan programs to a problem, the inverse of `stan_data`.

    Parameters
    ----------
    data : dict
        As `stan_data` returns it.
    stage_number : str
    characters : tuple of str
        The vocabulary.
    source : str

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        For an unknown stage, or values that `Problem` refuses.
    """

    def tokens(name, ndim):
        value = np.asarray(data[name], dtype=np.int64) - 1
        return value if value.size else value.reshape((0,) * (ndim - 1) + (data["block_size"],))

    model = stage(stage_number)
    if "dropout" in model.features:
        masks = Masks(*(np.asarray(data[f"{name}_mask"]) for name in Masks._fields))
        model = replace(model, masks=masks)
    return Problem(
        stage=model,
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


def _check_effect(stage, settings, scales):
    """Refuse what was given for something that the stage does not have."""
    for name in (name for name, value in settings.items() if value is not None):
        if not stage.has(name):
            having = [number for number, each in STAGES.items() if each.has(name)]
            raise ValueError(
                f"{name} has no effect at stage {stage.number}; stages {having[0]} to "
                f"{having[-1]} have it"
            )
    families = list(dict.fromkeys(parameter.family for parameter in stage.parameters))
    for name in scales:
        if name not in families and name in Priors.__dataclass_fields__:
            raise ValueError(
                f"the prior scale {name} has no effect at stage {stage.number}, which has: "
                f"{', '.join(families)}"
            )


def _set(frozen, name, value):
    """Give a field of a frozen dataclass its plain Python value, while it is made."""
    object.__setattr__(frozen, name, value)


def _priors(data):
    names = {each.name: data_name(each.name) for each in fields(Priors)}
    if "concentration" not in data:  # data of an older version, without the log-gamma variant
        del names["concentration"]
    return Priors(**{family: data[name] for family, name in names.items()})


def _mask_shapes(stage, design):
    sizes = stage.sizes(design)
    layer, head, position, embed = (sizes[dim] for dim in ("layer", "head", "position", "embed"))
    return (layer, head, position, position), (layer, embed), (layer, embed)
