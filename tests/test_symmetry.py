from __future__ import annotations

import numpy as np
import pytest
from problems import make_problem
from scipy.stats import ortho_group

from gptbayes.forward import forward
from gptbayes.simulate import log_prior, prior_draws
from gptbayes.symmetry import (
    align,
    permute_heads,
    rotate_query_key,
    rotate_stream,
    rotate_value,
    symmetries,
)

N = 17


def rotations(k, shape, seed):
    n = int(np.prod(shape))
    return ortho_group.rvs(k, size=n, random_state=seed).reshape(*shape, k, k)


def elements(problem, draws, seed=0):
    """For each symmetry of the stage, the draws under a random element per draw."""
    rng = np.random.default_rng(seed)
    found = {"rotate_stream": lambda d: rotate_stream(problem.stage, d, rotations(6, (N,), seed))}
    if "attention" in problem.stage.features:
        n_layer, n_head, _, head_dim = draws["key"].shape[-4:]
        per_head = rotations(head_dim, (2, N, n_layer, n_head), seed)
        found["rotate_query_key"] = lambda d: rotate_query_key(d, per_head[0])
        found["rotate_value"] = lambda d: rotate_value(d, per_head[1])
        order = rng.permuted(np.tile(np.arange(n_head), (N, 1)), axis=1)
        found["permute_heads"] = lambda d: permute_heads(d, order)
    return {name: found[name] for name in symmetries(problem.stage)}


def scrambled(problem, draws, seed):
    for act in elements(problem, draws, seed).values():
        draws = act(draws)
    return draws


@pytest.fixture
def draws(problem, rng):
    return prior_draws(problem, N, rng)


def test_every_symmetry_keeps_logits_and_prior_and_moves_weights(problem, draws):
    before = forward(problem.stage, draws, problem.training.x).logits
    for name, act in elements(problem, draws).items():
        moved = act(draws)
        after = forward(problem.stage, moved, problem.training.x).logits
        np.testing.assert_allclose(after, before, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(
            log_prior(problem, moved), log_prior(problem, draws), rtol=1e-12, err_msg=name
        )
        assert any(np.abs(moved[p] - draws[p]).max() > 0.1 for p in draws), name


def test_near_misses_change_the_logits(rng):
    """What only looks like a symmetry must be told from one."""
    problem = make_problem("05")
    draws = prior_draws(problem, N, rng)
    before = forward(problem.stage, draws, problem.training.x).logits
    cycle = np.tile([1, 2, 0], (N, 1))
    moved = permute_heads(draws, cycle)
    stretch = np.broadcast_to(np.diag([2.0, 0.5]), (N, 1, 3, 2, 2))
    misses = {
        "heads without their readout": {**moved, "lm_head_multiplier": draws["lm_head_multiplier"]},
        "query without key": {**draws, "query": draws["query"] @ rotations(2, (N, 1, 3), 1)},
        "stretch for a rotation": rotate_query_key(draws, stretch),
        "value without its readout": {**draws, "value": -draws["value"]},
    }
    for name, missed in misses.items():
        after = forward(problem.stage, missed, problem.training.x).logits
        assert np.abs(after - before).max() > 1e-2, name


def test_aligned_draws_predict_as_before_and_the_objective_falls(problem, draws):
    aligned = align(problem.stage, draws)
    np.testing.assert_allclose(
        forward(problem.stage, aligned.parameters, problem.training.x).logits,
        forward(problem.stage, draws, problem.training.x).logits,
        atol=1e-10,
    )
    falls = np.diff(aligned.objective)
    assert (falls <= 1e-9 * aligned.objective[0]).all()


def test_scrambled_copies_of_one_draw_align_to_one_point(problem, draws):
    copies = {name: np.repeat(value[:1], N, axis=0) for name, value in draws.items()}
    aligned = align(problem.stage, scrambled(problem, copies, seed=5), tolerance=1e-14)
    for name, value in aligned.parameters.items():
        assert value.std(axis=0).max() < 1e-5, name


def test_clustered_draws_are_recovered_from_any_scrambling(problem, draws, rng):
    """Small spread around one point, as in a posterior: scrambling must not show."""
    near = {n: v[:1] + 0.05 * rng.normal(size=v.shape) for n, v in draws.items()}
    first = align(problem.stage, scrambled(problem, near, seed=1), tolerance=1e-12)
    second = align(problem.stage, scrambled(problem, near, seed=2), tolerance=1e-12)
    np.testing.assert_allclose(first.objective[-1], second.objective[-1], rtol=1e-3)


def test_batch_dims_come_back(rng):
    problem = make_problem("05")
    draws = {n: v.reshape(2, 3, *v.shape[1:]) for n, v in prior_draws(problem, 6, rng).items()}
    aligned = align(problem.stage, draws).parameters
    assert {n: v.shape for n, v in aligned.items()} == {n: v.shape for n, v in draws.items()}
