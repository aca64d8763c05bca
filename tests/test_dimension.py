"""The null space of the logits: the table of symmetries, counted generator by generator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import small_problem

from gptbayes.corpus import Vocabulary, Windows
from gptbayes.model.design import Design, draw_masks
from gptbayes.model.forward import forward
from gptbayes.model.priors import Priors
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES
from gptbayes.symmetry import generic_null_dimension, null_dimension
from gptbayes.symmetry.dimension import MAX_PARAMETERS, _jacobian

V, T, C, H = 7, 5, 6, 3
h = C // H
SOFTMAX = C + 1  # A + 1 wᵀ, b + c 1
EP = C  # e + u, p - u
QK = H * h**2
TABLE = {
    "01": [V],
    "02": [C**2, C, SOFTMAX],  # and e + u, b - A u
    "03": [C**2, C, SOFTMAX, EP],
    "04": [C**2, C**2, C**2, SOFTMAX, EP],  # stream, query-key, value-head
    "05": [C**2, QK, H * h**2, SOFTMAX, EP],
    "06": [C**2, QK, H * h**2, C, SOFTMAX, EP],  # value-feed-forward, scale of each ReLU
    "07": [QK, C, SOFTMAX, EP],  # scale of each coordinate of the stream
    # Block-diagonal basis of the stream, scale of each ReLU, c + u with b - A u.
    "08": [QK, H * h**2, 4 * C, C, SOFTMAX, EP],
    # LN1 gain and bias, K along the inverse gain, LN2 gain and bias, W likewise, scale of the
    # stream; along 1, each against c: embeddings, and what attention adds at every place.
    "09": [QK, 4 * C, 2 * C, C, 2 * C, 4 * C, C, SOFTMAX, EP, 1, 1, 1],
    # The final layer norm sees nothing along 1: no e_i, p_t, nor what attention, P and c add. Its
    # gain, its bias and A along the inverse gain (less the one that the softmax shift has too).
    "10": [QK, 4 * C, 2 * C, C, 2 * C, 4 * C, 1, SOFTMAX, EP, V + T - 1, 1, 4 * C, 1, 2 * C, V - 1],
}
# The projection P of the heads: its value-projection basis; its columns and offset along 1; the
# constant that values pass on, against that offset (one of them was there); rotations that fix 1.
TABLE["12"] = [*TABLE["10"], H * h**2, C, 1, C - 1, (C - 1) * (C - 2) // 2]


def posed(number):
    characters = Vocabulary(tuple("abcdefg"))
    windows = Windows(*(np.zeros((1, T), dtype=np.int64) for _ in range(2)))
    stage, design = STAGES[number], Design(V, T, 1, C, H, n_layer=1)
    if "dropout" in stage.features:
        stage = replace(stage, masks=draw_masks(stage, design, 0.0, np.random.default_rng(0)))
    return Problem(stage, design, Priors.default(stage, design), characters, windows, windows)


@pytest.mark.parametrize("number", TABLE)
def test_the_null_space_has_the_dimension_of_the_symmetries(number, rng):
    found = generic_null_dimension(posed(number), rng)
    assert found.null == sum(TABLE[number])
    assert found.n_parameters == found.rank + found.null
    assert found.clear


def test_the_jacobian_is_that_of_central_differences(rng):
    """Through every brick: layer norms, masks, projection."""
    problem = small_problem("12")
    stage, tokens = problem.stage, problem.training.x[:2]
    point = {name: value[0] for name, value in prior_draws(problem, 1, rng).items()}
    ours = _jacobian(stage, point, tokens, stage.n_parameters(problem.design), 10**7)
    start = 0
    for name, value in point.items():
        index = int(rng.integers(value.size))
        logits = []
        for step in (1e-6, -1e-6):
            moved = {n: v.copy() for n, v in point.items()}
            moved[name].ravel()[index] += step
            logits.append(forward(stage, moved, tokens).logits)
        slope = (logits[0] - logits[1]) / 2e-6
        slope -= slope.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(ours[:, start + index], slope.ravel(), atol=1e-7, err_msg=name)
        start += value.size


def test_a_silent_unit_adds_null_directions(rng):
    """Its row of W (less the scale that was null already) and its column of A."""
    problem = posed("06")
    tokens = rng.integers(V, size=(60, T))
    draws = prior_draws(problem, 1, rng)
    alive = {name: value[0] for name, value in draws.items()}
    alive["feed_forward_offset"] *= 0.1
    silent = {**alive, "feed_forward_offset": alive["feed_forward_offset"] - 100.0 * np.eye(C)[0]}
    both = [null_dimension(problem.stage, each, tokens) for each in (alive, silent)]
    assert both[1].null > both[0].null >= sum(TABLE["06"])


def test_few_contexts_see_few_directions(rng):
    problem = posed("05")
    point = {name: value[0] for name, value in prior_draws(problem, 1, rng).items()}
    one = null_dimension(problem.stage, point, np.zeros((1, 1), dtype=np.int64))
    assert one.rank == V - 1


def test_too_many_parameters_are_refused(rng):
    problem = posed("10")
    large = replace(problem, design=replace(problem.design, n_embed=24, n_layer=2))
    with pytest.raises(ValueError, match=f"at most {MAX_PARAMETERS} parameters, got"):
        generic_null_dimension(large, rng)
