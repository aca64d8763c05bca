"""Attention weights: matching of heads, summaries in bounded memory, rollout, removal."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from drawn import drawn, from_prior, planted, with_heads_permuted
from problems import small_problem
from scipy.special import softmax
from scipy.stats import spearmanr

from gptbayes.attention import (
    ablate_heads,
    ablate_positions,
    attention_draws,
    attention_rollout,
    head_order,
    match_heads,
    matched,
    matching_findings,
    max_contexts,
    rollout_weights,
    summarise_attention,
)
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.design import draw_masks
from gptbayes.model.forward import forward

DIMS = ("chain", "draw", "layer", "head", "sequence", "query_position", "key_position")


@pytest.fixture(scope="module")
def two_layers():
    """Stage 12 without dropout, L = 2, H = 3, prior draws: heads are exchangeable."""
    problem = small_problem("12")
    masks = draw_masks(problem.stage, problem.design, 0.0, np.random.default_rng(1))
    return replace(problem, stage=replace(problem.stage, masks=masks))


def random_order(rng, *shape):
    return rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)


# Matching


def weights(seed=0, n_draws=60, n_head=3):
    """Heads with patterns of their own and a little noise, each draw's in random order."""
    rng = np.random.default_rng(seed)
    base = rng.dirichlet(np.ones(5), size=(n_head, 2, 5))
    noisy = base + 0.02 * rng.normal(size=(n_draws, *base.shape))
    order = random_order(rng, n_draws, n_head)
    shuffled = np.take_along_axis(noisy, order[..., None, None, None], axis=1)
    shaped = shuffled.reshape(2, n_draws // 2, 1, *base.shape)
    return xr.DataArray(shaped, dims=DIMS, coords={"chain": [0, 1], "draw": range(n_draws // 2)})


def test_matching_undoes_any_order_of_heads():
    shuffled = weights()
    found = match_heads(shuffled)
    past = np.tri(5, dtype=bool)[1:]
    spread = [
        each.std(("chain", "draw")).isel(query_position=slice(1, None)).values[..., past].max()
        for each in (shuffled, found.weights)
    ]
    assert spread[0] > 0.1
    assert spread[1] < 0.05
    assert found.ambiguous.item() == 0


def test_equal_heads_have_no_names():
    """All heads from one distribution: the matching of nearly all draws is ambiguous."""
    rng = np.random.default_rng(1)
    values = rng.dirichlet(np.ones(5), size=(2, 50, 1, 3, 40, 5))
    same = xr.DataArray(values, dims=DIMS, coords={"chain": [0, 1], "draw": range(50)})
    assert match_heads(same).ambiguous.item() > 0.9
    assert match_heads(xr.ones_like(same)).ambiguous.item() == 1


def test_planted_permutation_is_recovered(rng):
    problem = small_problem("05")
    order = random_order(rng, 2, 10, 1, 3)
    idata = drawn(problem, with_heads_permuted(planted(problem), order))
    matching = head_order(idata)
    # Nearest first: itself, the previous character, everywhere.
    np.testing.assert_array_equal(matching.order, np.argsort(order, axis=-1))
    assert matching.ambiguous.item() == 0
    assert matching.converged.all()
    assert not matching.ambiguous_draw.any()
    ((named, text),) = matching_findings(matching)
    assert named
    assert "0.00 ± 0.03" in text  # never in 20 draws
    again = head_order(idata, reference=matching)
    np.testing.assert_array_equal(again.order, matching.order)


def test_order_of_heads_changes_no_summary(two_layers, rng):
    """Two layers of three heads: listed in any order in each draw, they say exactly the same."""
    parameters = from_prior(two_layers, 2, 30)
    moved = with_heads_permuted(parameters, random_order(rng, 2, 30, 2, 3))
    idata, other = (drawn(two_layers, each) for each in (parameters, moved))
    x, y = (each[:3] for each in two_layers.held_out)
    logits = [forward(two_layers.stage, each, x).logits for each in (parameters, moved)]
    np.testing.assert_allclose(*logits, atol=1e-12)
    found = [summarise_attention(each, x) for each in (idata, other)]
    r_hats = [name for name in found[0] if "r_hat" in name]
    xr.testing.assert_allclose(*(each.drop_vars(r_hats) for each in found), rtol=1e-10)
    for name in r_hats:  # rounding decides between the two draws that are nearest to the median
        np.testing.assert_allclose(found[0][name], found[1][name], atol=0.02)
    assert found[0]["ambiguous"].min() > 0.3  # of prior draws no head has a name
    removed = [ablate_heads(each, x, y) for each in (idata, other)]
    xr.testing.assert_allclose(removed[0].average, removed[1].average, rtol=1e-8, atol=1e-12)
    average = [attention_draws(each, x).mean("head") for each in (idata, other)]
    xr.testing.assert_allclose(*average)


def test_masks_tell_heads_apart():
    problem = small_problem("12")
    idata = drawn(problem, from_prior(problem, 1, 40))
    matching = head_order(idata)
    assert (matching.kind.values.max(axis=1) == 2).all()
    draws = matching.order.values.reshape(-1, 2, 3)
    assert (draws == draws[0]).all()
    assert matching.ambiguous.max() == 0
    assert all("masks" in text for _, text in matching_findings(matching))


def test_contexts_are_cut_to_fit_into_memory(two_layers):
    idata = drawn(two_layers, from_prior(two_layers, 1, 10))
    n_weights = 14  # rows 2 to 5 of the past
    per_context = 4 * 10 * 2 * 3 * n_weights
    assert len(head_order(idata).contexts) == len(two_layers.held_out.x) > 3
    assert len(head_order(idata, max_bytes=3 * per_context).contexts) == 3
    assert len(head_order(idata, max_bytes=1).contexts) == 1


def test_what_cannot_be_matched(two_layers):
    idata = drawn(two_layers, from_prior(two_layers, 1, 10))
    with pytest.raises(ValueError, match="group must be one of posterior, prior, got 'mode'"):
        head_order(idata, group="mode")
    with pytest.raises(ValueError, match="at least one sequence of 1 to 5 positions"):
        head_order(idata, contexts=np.zeros((2, 6), dtype=int))
    with pytest.raises(ValueError, match="draws, layers and heads of the matching"):
        matched(attention_draws(idata, idata_x(idata), group="prior"), head_order(idata))
    without = small_problem("03")
    with pytest.raises(ValueError, match="one of 04 to 12, which have attention, got 03"):
        head_order(drawn(without, from_prior(without, 1, 10)))


def idata_x(idata):
    return problem_of(idata).held_out.x[:2]


# Weights


def test_attention_of_a_fit(nuts):
    contexts = idata_x(nuts)
    summary = summarise_attention(nuts, contexts)
    np.testing.assert_allclose(summary["mean"].sum("key_position"), 1)
    first = summary.isel(query_position=0, key_position=0)
    np.testing.assert_array_equal(first["lower"], 1)
    assert [len(str(text)) for text in summary["text"].values] == [5, 5]
    raw = attention_draws(nuts, contexts)
    np.testing.assert_allclose(raw.mean("head"), match_heads(raw).weights.mean("head"))
    future = summary.isel(query_position=1, key_position=3)
    assert (future["upper"] == 0).all()
    assert np.isnan(future["ess_bulk"]).all()
    values = matched(raw, head_order(nuts))
    np.testing.assert_allclose(summary["mean"], values.mean(("chain", "draw")), atol=1e-12)
    uniform = xr.DataArray(1 / np.arange(1, 6), dims="query_position")
    often = (values > uniform).mean(("chain", "draw")).transpose(*summary["mean"].dims)
    np.testing.assert_allclose(summary["above_uniform"], often)
    assert (summary["above_uniform_mcse"].isel(query_position=4) > 0).all()


def test_streaming_by_context_changes_nothing(nuts):
    contexts = problem_of(nuts).held_out.x[:4]
    matching = head_order(nuts)
    at_once, one_by_one = (
        summarise_attention(nuts, contexts, matching=matching, max_bytes=size)
        for size in (2**28, 1)
    )
    xr.testing.assert_allclose(at_once, one_by_one)


def test_memory_does_not_grow_with_contexts(two_layers):
    idata = drawn(two_layers, from_prior(two_layers, 2, 250))
    matching = head_order(idata)
    size = 4 * 8 * 500 * 6 * 14  # one context at a time, with its copies

    def peak(n):
        tracemalloc.start()
        summarise_attention(idata, two_layers.held_out.x[:n], matching=matching, max_bytes=size)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    workspace = 16 * 8 * 500 * 6 * 14  # of the diagnostics, whose blocks are of bounded size
    assert peak(4) < 1.2 * peak(1) < 1.2 * (size + workspace)


def test_effective_positions(nuts):
    problem = small_problem("05")
    parameters = planted(problem)
    contexts = problem.held_out.x[:2]
    found = summarise_attention(drawn(problem, parameters), contexts)["effective_positions"]
    np.testing.assert_allclose(found.isel(head=0), 1)  # itself
    np.testing.assert_allclose(found.isel(head=2, layer=0), np.tile(np.arange(1, 6), (2, 1)))
    summary = summarise_attention(nuts, contexts)
    between = summary["effective_positions"]
    assert (between >= 1 - 1e-12).all()
    assert (between <= np.arange(1, 6) + 1e-12).all()
    assert (summary["effective_positions_mcse"].isel(query_position=3) > 0).all()


def test_effective_positions_under_masks():
    """Of the row that a mask leaves, divided by its sum; nan for a row that it silences."""
    problem = small_problem("12")
    parameters = from_prior(problem, 1, 10)
    parameters["query"][:] = 0.0
    contexts = problem.held_out.x[:2]
    summary = summarise_attention(drawn(problem, parameters), contexts)
    matching = head_order(drawn(problem, parameters))
    masks = np.take_along_axis(
        problem.stage.masks.attention, matching.order.values[0, 0][..., None, None], axis=1
    )
    open_places = (np.tril(masks) > 0).sum(axis=-1).astype(float)  # (layer, head, query)
    expected = np.where(open_places > 0, open_places, np.nan)
    np.testing.assert_allclose(summary["effective_positions"].isel(sequence=0), expected)
    assert (open_places == 0).any()


def test_a_mode_has_no_uncertainty(runs):
    mode = open_run(runs["optimize"])
    summary = summarise_attention(mode, idata_x(mode))
    np.testing.assert_allclose(summary["mean"].sum("key_position"), 1)
    for name in ("lower", "mcse_mean", "above_uniform_mcse", "effective_positions_lower"):
        assert np.isnan(summary[name]).all()


# Rollout


def test_rollout_by_hand(rng):
    scores = np.where(np.tri(4, dtype=bool), rng.normal(size=(2, 3, 1, 4, 4)), -np.inf)
    attention = softmax(scores, axis=-1)
    first, second = attention.mean(axis=1)[:, 0]
    eye = np.eye(4)
    by_hand = (second / 2 + eye / 2) @ (first / 2 + eye / 2)
    np.testing.assert_allclose(rollout_weights(attention, residual=True)[0], by_hand, atol=1e-12)
    np.testing.assert_allclose(
        rollout_weights(attention, residual=False)[0], second @ first, atol=1e-12
    )
    np.testing.assert_allclose(rollout_weights(attention[:1], residual=False)[0], first)
    np.testing.assert_allclose(rollout_weights(attention, residual=True).sum(axis=-1), 1)
    silenced = attention * (rng.random((2, 3, 1, 4, 4)) < 0.4)
    np.testing.assert_allclose(rollout_weights(silenced, residual=True).sum(axis=-1), 1)


@pytest.mark.parametrize("number", ["05", "12"])
def test_rollout_of_draws(number):
    problem = small_problem(number)
    idata = drawn(problem, from_prior(problem, 2, 20))
    contexts = problem.held_out.x[:3]
    summary = attention_rollout(idata, contexts, max_bytes=1)
    np.testing.assert_allclose(summary["mean"].sum("key_position"), 1)
    assert list(summary["source"].values) == ["posterior", "prior"]
    attention = forward(problem.stage, parameters_of(idata), contexts).attention
    by_hand = rollout_weights(attention, residual=number == "12").mean(axis=(0, 1))
    np.testing.assert_allclose(summary["mean"].sel(source="posterior"), by_hand, atol=1e-12)


# Removal


def test_a_head_that_passes_on_nothing_is_not_missed():
    problem = small_problem("05")
    idata = drawn(problem, planted(problem))
    x = np.array([[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
    said = np.concatenate([x[:, :1], x[:, :-1]], axis=1)  # what the model predicts at each place
    found = ablate_heads(idata, x, said)
    cost = found.average.sel(source="posterior").isel(layer=0)
    assert cost["mean"].values[[0, 2]].tolist() == [0, 0]
    assert cost["prob_positive"].values.tolist() == [0, 1, 0]
    assert cost["mean"][1] > 1
    assert cost["prob_positive_mcse"][0] > 0
    assert found.contexts.sizes["sequence"] == 2


def test_removing_what_is_looked_at_hurts():
    """A model that says the previous character again loses it, and nothing else."""
    problem = small_problem("05")
    idata = drawn(problem, planted(problem))
    x = np.array([[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 0, 4, 2, 3]])
    said = np.concatenate([x[:, :1], x[:, :-1]], axis=1)
    found = ablate_positions(idata, x, said)
    cost = found.average.sel(source="posterior")
    assert cost["distance"].values.tolist() == [4, 3, 2, 1]
    np.testing.assert_allclose(cost["mean"][:3], 0, atol=1e-12)
    assert cost["mean"][3] > 1
    assert cost["prob_positive"].values.tolist() == [0, 0, 0, 1]
    assert found.agreement["measure"].values.tolist() == ["mean over heads"]  # one layer


def test_costs_and_agreement_against_a_loop(two_layers):
    idata = drawn(two_layers, from_prior(two_layers, 1, 8))
    stage, parameters = two_layers.stage, parameters_of(idata)
    x, y = (each[:2] for each in two_layers.held_out)

    def log_prob(**changes):
        logits = forward(stage, parameters, x, **changes).logits[..., -1, :]
        logs = np.log(softmax(logits, axis=-1))
        return np.stack([logs[..., b, y[b, -1]] for b in range(2)], axis=-1)  # (1, 8, 2)

    costs = np.empty((1, 8, 2, 4))
    for s in range(4):
        blocked = np.zeros((2, 5), dtype=bool)
        blocked[:, s] = True
        costs[..., s] = log_prob() - log_prob(blocked=blocked)
    found = ablate_positions(idata, x, y)
    ours = found.contexts.sel(source="posterior")
    np.testing.assert_allclose(ours["mean"], costs.mean(axis=(0, 1)), atol=1e-12)
    flow = rollout_weights(forward(stage, parameters, x).attention, residual=True)[..., -1, :-1]
    by_hand = [spearmanr(flow[0, d, b], abs(costs[0, d, b])).statistic for d, b in np.ndindex(8, 2)]
    agreement = found.agreement["mean"].sel(source="posterior", measure="rollout")
    np.testing.assert_allclose(agreement, np.mean(by_hand))
    errors = found.average["se_contexts"].sel(source="posterior")
    expected = costs.mean(axis=(0, 1)).std(axis=0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(errors, expected, atol=1e-12)


def test_uniform_attention_ranks_nothing(two_layers):
    parameters = from_prior(two_layers, 1, 8)
    parameters["query"][:] = 0.0
    idata = drawn(two_layers, parameters)
    x, y = (each[:2] for each in two_layers.held_out)
    agreement = ablate_positions(idata, x, y).agreement
    at = {"source": "posterior", "measure": "mean over heads"}
    assert agreement["mean"].sel(at) == 0
    with pytest.raises(ValueError, match="at least 2 positions for a knockout, got 1"):
        ablate_positions(idata, x[:, :1], y[:, :1])
    with pytest.raises(ValueError, match="next_tokens must have the shape of contexts"):
        ablate_heads(idata, x, y[0])


def test_long_contexts_are_fewer():
    assert max_contexts(50, 8) == 50
    assert max_contexts(21, 5) == 21
    assert max_contexts(50, 16) == 12
    assert max_contexts(50, 64) == 8
    assert max_contexts(3, 64) == 3
