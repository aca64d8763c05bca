from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import small_problem
from scipy.special import log_softmax

from gptbayes.model import layers, simulate
from gptbayes.model.ablated import ablate_each_head, knock_out_each_position
from gptbayes.model.design import draw_masks
from gptbayes.model.forward import (
    attention_of,
    forward,
    last_logits,
    over_draws,
    token_log_prob,
)
from gptbayes.model.layers import attention_weights
from gptbayes.model.simulate import generate_text, prior_draws, sample_tokens
from gptbayes.model.stages import STAGES


@pytest.fixture
def draws(problem, rng):
    return prior_draws(problem, 13, rng)


def test_a_layer_does_not_depend_on_the_layout_of_memory(rng):
    """Some of its steps are in place, on views of other shapes; of some layouts there is none."""
    x, weight, bias = rng.normal(size=(3, 4, 5, 6)), *rng.normal(size=(2, 3, 6))
    multiplier = rng.normal(size=(3, 7, 6))
    offset = rng.normal(size=(3, 7))
    mean, sd = x.mean(axis=-1, keepdims=True), x.std(axis=-1, ddof=1, keepdims=True)
    normed = weight[:, None, None] * (x - mean) / sd + bias[:, None, None]
    mapped = np.einsum("dbtc,dkc->dbtk", x, multiplier) + offset[:, None, None]
    spread = np.zeros((3, 4, 5, 12))
    spread[..., ::2] = x
    for same in (x, np.asfortranarray(x), spread[..., ::2]):
        np.testing.assert_allclose(layers.layer_norm(same, weight, bias), normed, atol=1e-13)
        np.testing.assert_allclose(layers.linear(same, multiplier, offset), mapped, atol=1e-13)


def test_shapes(problem, draws):
    logits, attention = forward(problem.stage, draws, problem.training.x)
    V = problem.design.vocab_size
    assert logits.shape == (13, 11, 5, V)
    if "attention" in problem.stage.features:
        sizes = problem.stage.sizes(problem.design)
        assert attention.shape == (13, sizes["layer"], sizes["head"], 11, 5, 5)
    else:
        assert attention is None


def test_logits_are_causal(problem, draws):
    """Changing token t + 1 leaves the logits up to t as they were, and changes a later one."""
    x = problem.training.x
    before = forward(problem.stage, draws, x).logits
    for t in range(4):
        changed = x.copy()
        changed[:, t + 1] = (changed[:, t + 1] + 1) % problem.design.vocab_size
        after = forward(problem.stage, draws, changed).logits
        np.testing.assert_array_equal(after[:, :, : t + 1], before[:, :, : t + 1])
        assert np.abs(after[:, :, t + 1] - before[:, :, t + 1]).max() > 1e-3


def test_attention_rows_sum_to_one_and_are_causal(rng):
    q, k = rng.normal(size=(2, 4, 3, 7, 2))
    weights = attention_weights(q, k)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-14)
    assert (weights[..., np.triu(np.ones((7, 7), dtype=bool), k=1)] == 0).all()
    np.testing.assert_array_equal(weights[..., 0, 0], 1)


def test_attention_survives_scores_that_overflow_a_naive_softmax():
    weights = attention_weights(np.full((3, 1), 1e200), np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(weights, np.eye(3))


def test_attention_with_equal_scores_is_uniform():
    weights = attention_weights(np.zeros((4, 2)), np.ones((4, 2)))
    np.testing.assert_allclose(weights, np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None])


def test_blocked_positions_do_not_affect_other_positions(problem, draws):
    """Another character there changes the logits there alone; what it loses the others share."""
    x = problem.training.x
    blocked = np.zeros(x.shape, dtype=bool)
    blocked[:, 2] = True
    changed = x.copy()
    changed[:, 2] = (changed[:, 2] + 1) % problem.design.vocab_size
    one, other = (forward(problem.stage, draws, tokens, blocked=blocked) for tokens in (x, changed))
    assert np.abs(one.logits[:, :, 2] - other.logits[:, :, 2]).max() > 1e-3
    elsewhere = [0, 1, 3, 4]
    np.testing.assert_array_equal(one.logits[:, :, elsewhere], other.logits[:, :, elsewhere])
    if one.attention is not None and not problem.stage.masks:
        whole = forward(problem.stage, draws, x).attention[:, 0, ..., 3, :4]  # the first layer's
        shared = np.delete(whole, 2, axis=-1) / (1 - whole[..., 2:3])
        assert (one.attention[:, 0, ..., 3, 2] == 0).all()
        np.testing.assert_allclose(np.delete(one.attention[:, 0, ..., 3, :4], 2, axis=-1), shared)


@pytest.mark.parametrize("n_positions", [1, 3, 5])
def test_last_logits_are_the_last_of_all(problem, draws, rng, n_positions):
    x = rng.integers(problem.design.vocab_size, size=(13, 2, n_positions))
    whole = forward(problem.stage, draws, x).logits[..., -1, :]
    np.testing.assert_allclose(last_logits(problem.stage, draws, x), whole, atol=1e-13)


def test_batch_dims_and_one_by_one_agree(problem, draws):
    together = forward(problem.stage, draws, problem.training.x).logits
    for i in (0, 12):
        alone = forward(problem.stage, {n: v[i] for n, v in draws.items()}, problem.training.x)
        np.testing.assert_allclose(alone.logits, together[i], atol=1e-13)


def test_draws_may_have_their_own_tokens(problem, draws, rng):
    tokens = rng.integers(problem.design.vocab_size, size=(13, 2, 4))
    together = forward(problem.stage, draws, tokens).logits
    for i in (0, 12):
        alone = forward(problem.stage, {n: v[i] for n, v in draws.items()}, tokens[i])
        np.testing.assert_allclose(together[i], alone.logits, atol=1e-13)


def test_chunks_change_nothing(problem, draws):
    chains = {name: value.reshape(1, 13, *value.shape[1:]) for name, value in draws.items()}
    whole = token_log_prob(problem.stage, chains, problem.training)
    small = token_log_prob(problem.stage, chains, problem.training, max_bytes=1)
    assert whole.shape == (1, 13, 11, 5)
    np.testing.assert_allclose(whole, small, atol=1e-13)


def test_chunks_bound_the_number_of_draws(problem, draws):
    seen = []

    def count(chunk):
        seen.append(len(chunk["token_embedding"]))
        return chunk["token_embedding"]

    over_draws(problem.stage, draws, problem.training.x, count, max_bytes=1)
    assert seen == [1] * 13


def test_bigram_is_a_table_of_logits(rng):
    problem = small_problem("01")
    draws = prior_draws(problem, 3, rng)
    expected = log_softmax(draws["token_embedding"], axis=-1)
    x, y = problem.training
    np.testing.assert_allclose(
        token_log_prob(problem.stage, draws, problem.training), expected[:, x, y], atol=1e-14
    )


def test_without_dropout_stage_11_is_stage_10(rng):
    ten, eleven = small_problem("10"), small_problem("11")
    draws = prior_draws(ten, 3, rng)
    none = draw_masks(eleven.stage, eleven.design, 0.0, rng)
    open_stage = replace(eleven.stage, masks=none)
    x = ten.training.x
    np.testing.assert_allclose(
        forward(open_stage, draws, x).logits, forward(ten.stage, draws, x).logits, atol=1e-12
    )
    masked = forward(eleven.stage, draws, x)
    assert np.abs(masked.logits - forward(ten.stage, draws, x).logits).max() > 0.1
    zeros = np.broadcast_to(
        (eleven.stage.masks.attention == 0)[:, :, None], masked.attention[0].shape
    )
    assert (masked.attention[:, zeros] == 0).all()
    with pytest.raises(ValueError, match="stage 11 needs masks"):
        forward(STAGES["11"], draws, x)


def test_too_long_a_context_raises(draws, problem):
    tokens = np.zeros((1, 6), dtype=int)
    if "position" in problem.stage.features:
        with pytest.raises(ValueError, match="must have at most 5 positions"):
            forward(problem.stage, draws, tokens)
    else:
        assert forward(problem.stage, draws, tokens).logits.shape[-2] == 6


def test_sampled_tokens_follow_their_probabilities(rng):
    """A chi-square of 20,000 draws from known probabilities; fails once in 10,000 seeds."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    counts = np.bincount(sample_tokens(np.tile(np.log(p), (20_000, 1)), rng), minlength=4)
    assert ((counts - 20_000 * p) ** 2 / (20_000 * p)).sum() < 21.1


def test_generated_text_follows_the_prompt_and_repeats_with_its_seed(problem, draws):
    def text():
        rng = np.random.default_rng(3)
        return generate_text(problem.stage, draws, problem.prompt, 9, 5, rng)

    assert text().shape == (13, 9)
    np.testing.assert_array_equal(text(), text())


def test_threads_write_the_same_texts(problem, draws, monkeypatch):
    """Where the random numbers of a chunk take too much memory, chunks follow one another."""
    monkeypatch.setattr(simulate, "TEXTS_PER_CHUNK", 3)
    texts = []
    for limit in (simulate.NOISE_BYTES, 0):
        monkeypatch.setattr(simulate, "NOISE_BYTES", limit)
        rng = np.random.default_rng(3)
        texts.append(generate_text(problem.stage, draws, problem.prompt, 9, 5, rng))
    assert len(np.unique(texts[0], axis=0)) > 1
    np.testing.assert_array_equal(*texts)


def test_each_draw_generates_its_own_text(rng, monkeypatch):
    """Two kinds of draws that are sure of what comes next, each after the other, in small chunks.

    The first goes up by one, the second down, whoever else writes; logits are those of a bigram.
    """
    monkeypatch.setattr(simulate, "TEXTS_PER_CHUNK", 3)
    bigram = small_problem("01")
    V = bigram.design.vocab_size
    up = np.roll(np.eye(V), 1, axis=1)
    kinds = rng.integers(2, size=7)
    logits = 1e3 * np.where(kinds[:, None, None] == 0, up, up.T)
    text = generate_text(bigram.stage, {"token_embedding": logits}, np.array([3, 2]), 9, 5, rng)
    steps = np.where(kinds == 0, 1, -1)[:, None] * np.arange(1, 10)
    np.testing.assert_array_equal(text, (2 + steps) % V)


@pytest.mark.parametrize("number", ["04", "05", "06", "07", "08", "09", "10", "11", "12"])
def test_blocks_of_queries_and_ablations_change_nothing(number, rng, monkeypatch):
    """In blocks, of the last position alone, and from what an ablation leaves as it is."""
    problem = small_problem(number)
    stage, draws, x = problem.stage, prior_draws(problem, 7, rng), problem.training.x
    monkeypatch.setattr(layers, "QUERIES", 100)
    whole, attention = forward(stage, draws, x)
    monkeypatch.setattr(layers, "QUERIES", 2)
    same = {"atol": 1e-13, "rtol": 0}
    np.testing.assert_allclose(forward(stage, draws, x).logits, whole, **same)
    np.testing.assert_allclose(attention_of(stage, draws, x), attention, **same)
    logits, ablated = ablate_each_head(stage, draws, x)
    np.testing.assert_allclose(logits, whole, **same)
    places = []
    for layer, head, found in ablated:
        places.append((layer, head))
        value = draws["value"].copy()
        value[:, layer, head] = 0
        expected = forward(stage, {**draws, "value": value}, x).logits
        np.testing.assert_allclose(found, expected, **same)
    assert places == list(np.ndindex(draws["value"].shape[1:3]))
    activations, without = knock_out_each_position(stage, draws, x)
    np.testing.assert_allclose(activations.attention_weights, attention, **same)
    n = 0
    for n, found in enumerate(without, start=1):
        blocked = np.zeros(x.shape, dtype=bool)
        blocked[:, n - 1] = True
        for expected in (
            forward(stage, draws, x, blocked=blocked).logits[..., -1, :],
            last_logits(stage, draws, x, blocked=blocked),
        ):
            np.testing.assert_allclose(found, expected, **same)
    assert n == x.shape[1] - 1


@pytest.mark.parametrize("size", [1.0, 590.0, 610.0, 1e5])
def test_softmax_of_small_and_of_huge_scores(rng, size):
    """Row maxima are subtracted from huge scores only; SciPy always subtracts them."""
    scores = rng.uniform(-size, size, (50, 6))
    scores[0], scores[1, :] = -size, [size, -size, size, -size, size, size]
    same = {"rtol": 1e-12, "atol": 1e-300}
    expected = log_softmax(scores, axis=-1)
    np.testing.assert_allclose(layers.softmax(scores.copy()), np.exp(expected), **same)
    np.testing.assert_allclose(layers.log_softmax(scores.copy()), expected, rtol=1e-12, atol=1e-12)
    p, log_p = np.empty_like(scores), np.empty_like(scores)
    layers.softmax_and_log(scores.copy(), p, log_p)
    np.testing.assert_allclose(p, np.exp(expected), **same)
    np.testing.assert_allclose(log_p, expected, rtol=1e-12, atol=1e-12)
    penalty = np.where(np.arange(6) < 3, 0.0, -np.inf)
    few = layers.softmax(scores.copy(), penalty)
    np.testing.assert_allclose(few[:, :3], np.exp(log_softmax(scores[:, :3], axis=-1)), **same)
    assert (few[:, 3:] == 0).all()


def test_attention_of_a_stage_without_attention(rng):
    problem = small_problem("03")
    with pytest.raises(ValueError, match="stages 04 to 12 have"):
        attention_of(problem.stage, prior_draws(problem, 2, rng), problem.training.x)
