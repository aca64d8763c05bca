"""A stage with its sizes and priors, and the text that it is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gptbayes.corpus import Vocabulary, Windows, real_number, split, whole_number
from gptbayes.model.design import Design, draw_masks, mask_shapes
from gptbayes.model.priors import Priors
from gptbayes.model.stages import STAGES, Masks, Stage

DEFAULT_BATCH_SIZE = 64
"""Largest number of training sequences that is used by default: NUTS fits them in minutes."""


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
        shapes = mask_shapes(self.stage, self.design)
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
