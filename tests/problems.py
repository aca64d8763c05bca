"""Small real problems, with sizes that are all different so that a transposed axis fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gptbayes.corpus import Vocabulary, Windows, split
from gptbayes.model.design import Design, draw_masks
from gptbayes.model.priors import Priors
from gptbayes.model.problem import Problem
from gptbayes.model.stages import STAGES, VARIANTS

TEXT = "the cat sat on the mat, that cat. " * 4
UNEQUAL_PRIORS = Priors(  # so that a scale in the wrong place is seen
    token_embedding=0.8,
    position_embedding=0.7,
    attention=0.6,
    attention_proj=0.5,
    feed_forward=0.3,
    lm_head=0.4,
    offset=0.9,
    layer_norm=0.35,
)


def small_problem(number: str, text: str = TEXT, batch_size: int = 11, **changes) -> Problem:
    """Stage ``number`` on a small text: T=5, B=11, C=6 as 3 heads of 2."""
    vocabulary = Vocabulary.of(text)
    windows = split(vocabulary.encode(text), 5, batch_size=batch_size)
    design = Design(len(vocabulary), 5, batch_size, n_embed=6, n_head=3)
    settings = {"prompt": vocabulary.encode(text[:3]), "n_new_tokens": 4, **changes}
    stage = {**STAGES, **VARIANTS}[number]
    if "dropout" in stage.features:
        masks = draw_masks(stage, design, 0.3, np.random.default_rng(4))
        stage = replace(stage, masks=masks)
    priors = settings.pop("priors", Priors.default(stage, design))
    return Problem(stage, design, priors, vocabulary, *windows, **settings)


def bigram_of_two_characters() -> Problem:
    """Two rows of two logits, whose posterior is a two-dimensional integral each."""
    vocabulary = Vocabulary(("a", "b"))
    tokens = vocabulary.encode("aababaabbbaabaaaabab")
    windows = Windows(tokens[None, :-1], tokens[None, 1:])
    priors = Priors(token_embedding=1.3)
    return Problem(STAGES["01"], Design(2, 19, 1), priors, vocabulary, windows, windows)
