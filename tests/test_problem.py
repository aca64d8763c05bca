from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from problems import TEXT, small_problem

from gptbayes.model.design import Design
from gptbayes.model.forward import forward
from gptbayes.model.priors import Priors
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES
from gptbayes.model.stan_data import from_stan_data, stan_data


def test_tokens_are_one_based_for_stan_only():
    problem = small_problem("05")
    data = stan_data(problem)
    assert np.min(data["x"]) == problem.training.x.min() + 1 == 1
    assert np.max(data["x"]) == problem.design.vocab_size


def test_problem_survives_json():
    problem = small_problem("05", likelihood_weight=0.25)
    back = from_stan_data(
        json.loads(json.dumps(stan_data(problem))),
        stage_number="05",
        characters=problem.vocabulary.characters,
        source=problem.source,
    )
    assert (back.stage, back.design, back.priors) == (problem.stage, problem.design, problem.priors)
    assert back.likelihood_weight == 0.25
    for name in ("training", "held_out"):
        for ours, theirs in zip(getattr(problem, name), getattr(back, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(back.prompt, problem.prompt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embed": 6, "n_head": 4}, "n_embed must be divisible by n_head, got 6 and 4"),
        ({"block_size": 0}, "block_size must be a positive integer, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a positive integer, got 2.5"),
    ],
)
def test_impossible_designs(changes, message):
    with pytest.raises(ValueError, match=message):
        Design(**{"vocab_size": 7, **changes})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scales(scale):
    with pytest.raises(ValueError, match="the prior scale attention must be positive"):
        Priors(attention=scale)


def test_unknown_scale_lists_the_valid_ones():
    with pytest.raises(ValueError, match="unknown prior scale 'head', valid ones: token_embedding"):
        Priors().replace(head=1.0)


def test_negative_likelihood_weight():
    with pytest.raises(ValueError, match="likelihood_weight must be 0 or more, got -1"):
        small_problem("01", likelihood_weight=-1.0)


@pytest.mark.parametrize("n_embed", [4, 8, 32])
@pytest.mark.parametrize("number", STAGES)
def test_default_priors_give_logits_of_order_one(number, n_embed, rng):
    """Sd over draws and characters of the prior logits of a real context, between 0.5 and 2."""
    sized = STAGES[number].applicable(n_embed=n_embed)
    problem = make_problem(STAGES[number], TEXT, block_size=5, batch_size=11, **sized)
    draws = prior_draws(problem, 400, rng)
    logits = forward(problem.stage, draws, problem.training.x).logits
    assert 0.5 < logits.std() < 2


def test_masks_follow_their_seed_and_survive_json():
    first, second, other = (
        make_problem(STAGES["12"], TEXT, block_size=5, dropout=0.4, mask_seed=seed)
        for seed in (1, 1, 2)
    )
    back = from_stan_data(
        json.loads(json.dumps(stan_data(first))),
        stage_number="12",
        characters=first.vocabulary.characters,
        source="text",
    )
    for ours, same, differs, read in zip(
        first.stage.masks, second.stage.masks, other.stage.masks, back.stage.masks, strict=True
    ):
        np.testing.assert_array_equal(ours, same)
        np.testing.assert_array_equal(ours, read)
        assert set(np.unique(ours)) <= {0, 1 / 0.6}
        assert ours.shape == differs.shape
    assert not np.array_equal(first.stage.masks.attention, other.stage.masks.attention)


def test_impossible_masks():
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match="dropout must be at least 0 and less than 1"):
            make_problem(STAGES["11"], TEXT, dropout=dropout)
    problem = small_problem("11")
    masks = problem.stage.masks
    with pytest.raises(
        ValueError, match=r"feed_forward mask must have shape \(2, 6\), got \(2, 5\)"
    ):
        wrong = masks._replace(feed_forward=masks.feed_forward[:, :5])
        replace(problem, stage=replace(problem.stage, masks=wrong))
    with pytest.raises(ValueError, match="attention mask must have entries of 0 or more"):
        replace(
            problem, stage=replace(problem.stage, masks=masks._replace(attention=-masks.attention))
        )
    with pytest.raises(ValueError, match="stage 11 needs masks"):
        replace(problem, stage=STAGES["11"])


def test_prior_draws_have_the_prior_scales(problem, rng):
    draws = prior_draws(problem, 2000, rng)
    for p in problem.stage.parameters:
        scale = problem.priors.scale(p)
        n = draws[p.name].size
        assert abs(draws[p.name].std() / scale - 1) < 5 / np.sqrt(2 * n)
        assert abs((draws[p.name].mean() - p.prior_mean) / scale) < 5 / np.sqrt(n)
