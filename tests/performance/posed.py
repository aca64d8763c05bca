"""Problems of any size, for measuring: the text is random, which costs as much as a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gptbayes.corpus import Vocabulary, Windows
from gptbayes.model.design import Design, draw_masks
from gptbayes.model.priors import Priors
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import stage


class Size(NamedTuple):
    """Sizes under their letters, see `gptbayes.model.design.Design`."""

    V: int = 28
    C: int = 8
    H: int = 2
    L: int = 2
    T: int = 8
    B: int = 32

    def __str__(self):
        return " ".join(f"{letter}={size}" for letter, size in self._asdict().items())


def posed(number: str | int, size: Size, dropout: float = 0.1) -> Problem:
    """A stage with a random text; stages 11 and 12 with masks of which some entries are 0."""
    rng = np.random.default_rng(1)
    V, C, H, L, T, B = size
    design = Design(V, T, B, C, H, L)
    climbed = stage(number)
    if "dropout" in climbed.features:
        climbed = replace(climbed, masks=draw_masks(climbed, design, dropout, rng))
    tokens = rng.integers(V, size=(B, T + 1))
    windows = Windows(tokens[:, :-1], tokens[:, 1:])
    characters = tuple(chr(ord("0") + token) for token in range(V))
    priors = Priors.default(climbed, design)
    return Problem(climbed, design, priors, Vocabulary(characters), windows, windows)


def prior_draw(problem: Problem, seed: int = 2) -> dict[str, np.ndarray]:
    """One draw from the prior, each parameter with the shape it has in the Stan program."""
    draw = prior_draws(problem, 1, np.random.default_rng(seed))
    return {name: v[0] for name, v in problem.stage.to_stan(draw, problem.design).items()}
