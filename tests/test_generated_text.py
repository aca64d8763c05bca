"""Text that the posterior writes, and what it says of text: against Stan's, and exactly."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from problems import small_problem
from scipy.special import entr, rel_entr, softmax
from scipy.stats import chi2_contingency, chisquare, kstest

from gptbayes import fit
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.forward import last_logits
from gptbayes.model.simulate import generate_text
from gptbayes.predict import (
    context_probabilities,
    entropy_split,
    generate,
    generate_coherent,
    generate_marginal,
    next_character,
    next_token,
    score_text,
)
from gptbayes.stats.summary import mcse_mean

LEVEL = 1e-4  # of every test of a distribution: what a correct program fails


@pytest.fixture(scope="module", params=["05", "12"])
def generated(request, runs, tmp_path_factory):
    """Fits of which Stan wrote text, at stage 12 far beyond a context of 5."""
    if request.param == "05":
        return open_run(runs["nuts"])
    folder = tmp_path_factory.mktemp("texts") / "12"
    posed = small_problem("12", n_new_tokens=14)
    return open_run(fit.nuts(posed, folder, chains=2, iter_warmup=100, iter_sampling=100, seed=5))


def of_stan(idata):
    """Prompt, and what Stan wrote after it: (draw, position)."""
    tokens = idata.posterior_predictive["new_tokens"].values
    return problem_of(idata).prompt, tokens.reshape(-1, tokens.shape[-1])


def flat(idata):
    return {n: v.reshape(-1, *v.shape[2:]) for n, v in parameters_of(idata).items()}


def ordered_pit(idata, parameters, tokens, rng, temperature=1.0):
    """Randomised probability integral transforms, characters ordered by their probability.

    Uniform and independent if the tokens are from these probabilities; of tokens that have less
    probability than that, too large.
    """
    problem, prompt = problem_of(idata), problem_of(idata).prompt
    text = np.column_stack([np.tile(prompt, (len(tokens), 1)), tokens])
    found = []
    for n in range(len(prompt), text.shape[1]):
        context = text[:, None, max(0, n - problem.design.block_size) : n]
        logits = last_logits(problem.stage, parameters, context)[:, 0] / temperature
        p = softmax(logits, axis=-1)
        came = np.take_along_axis(p, text[:, n, None], axis=1)
        below = np.where(p > came, p, 0).sum(axis=1)
        found.append(below + rng.random(len(p)) * came[:, 0])
    return np.concatenate(found)


# Coherent text against Stan's


def test_what_stan_wrote_is_from_our_probabilities(generated, rng):
    """Of the very draw that wrote it; not of another draw, and not at another temperature."""
    tokens, parameters = of_stan(generated)[1], flat(generated)

    def p_value(tokens, **how):
        return kstest(ordered_pit(generated, parameters, tokens, rng, **how), "uniform").pvalue

    assert p_value(tokens) > LEVEL
    assert p_value(np.roll(tokens, 50, axis=0)) < LEVEL
    assert p_value(tokens, temperature=0.7) < LEVEL


def test_we_write_as_stan_does(generated, rng):
    """Frequencies at every position, ours of thirty texts by each draw; the same draws wrote both.

    Without its head a model writes otherwise, and is told apart at the first character.
    """
    problem = problem_of(generated)
    prompt, theirs = of_stan(generated)
    parameters, V = flat(generated), problem.design.vocab_size
    authors = np.tile(np.arange(len(theirs)), 30)
    length, T = theirs.shape[1], problem.design.block_size
    ours = generate_text(problem.stage, parameters, prompt, length, T, rng, draw_index=authors)
    for n in range(length):
        counts = np.stack([np.bincount(each[:, n], minlength=V) for each in (ours, theirs)])
        assert chi2_contingency(_pooled(counts)).pvalue > LEVEL / length
    headless = {**parameters, "lm_head_multiplier": 0 * parameters["lm_head_multiplier"]}
    other = generate_text(problem.stage, headless, prompt, 1, T, rng, draw_index=authors)
    counts = np.stack([np.bincount(each[:, 0], minlength=V) for each in (other, theirs)])
    assert chi2_contingency(_pooled(counts)).pvalue < LEVEL


def _pooled(counts):
    """Rare characters in one column, so that five of the smaller sample are expected in each."""
    rare = counts.sum(axis=0) < 5 * counts.sum() / counts[1].sum()
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    return pooled[:, pooled.sum(axis=0) > 0]


def test_every_draw_writes_before_one_writes_twice(nuts, rng):
    generated = generate_coherent(nuts, "the", 1, rng, n_texts=200)
    assert len(set(zip(generated.chain, generated.draw, strict=True))) == 200
    generated = generate_coherent(nuts, "the", 1, rng, n_texts=607)
    times = np.unique(1000 * generated.chain + generated.draw, return_counts=True)[1]
    assert len(generated.texts) == 607
    assert (times.min(), times.max(), len(times)) == (3, 4, 200)


def test_the_named_draw_is_the_author(nuts, rng):
    """Texts of one draw among others, told by the probabilities of that draw."""
    generated = generate_coherent(nuts, "the", 20, rng, n_texts=200)
    problem, parameters = problem_of(nuts), flat(nuts)
    tokens = np.stack([problem.vocabulary.encode(text) for text in generated.texts])
    who = 100 * generated.chain + generated.draw
    of_author = {name: value[who] for name, value in parameters.items()}
    for authors, right in ((of_author, True), (parameters, False)):
        pit = ordered_pit(nuts, authors, tokens, rng)
        assert (kstest(pit, "uniform").pvalue > LEVEL) == right


# Marginal text


def test_marginal_text_has_the_mean_probabilities(nuts, rng):
    """The first character against `next_character`, the second against the exact sum over both."""
    names = list(problem_of(nuts).vocabulary.characters)
    generated = generate_marginal(nuts, "the c", 2, rng, n_texts=4000)
    assert generated.chain is generated.draw is None
    first = next_character(nuts, "the c")["mean"].values
    then = np.stack([next_character(nuts, "the c" + each)["mean"].values for each in names])
    for n, p in enumerate((first, first @ then)):
        counts = [sum(text[n] == name for text in generated.texts) for name in names]
        assert chisquare(counts, 4000 * p / p.sum()).pvalue > LEVEL
    counts = [sum(text[1] == name for text in generated.texts) for name in names]
    assert chisquare(counts, 4000 * first / first.sum()).pvalue < LEVEL


@pytest.fixture
def stubborn(nuts):
    """Two draws: one always writes the first character, the other the last."""
    idata = nuts.isel(chain=[0], draw=[0, 1]).copy()
    idata.attrs = nuts.attrs
    head = idata.posterior["lm_head_multiplier"]
    offset = np.full(idata.posterior["lm_head_offset"].shape, -1e3)
    offset[0, 0, 0] = offset[0, 1, -1] = 0
    idata.posterior["lm_head_multiplier"] = 0 * head
    idata.posterior["lm_head_offset"] = idata.posterior["lm_head_offset"].copy(data=offset)
    return idata


def test_coherent_and_marginal_differ_in_what_goes_together(stubborn, rng):
    """One author never changes its mind; the mean of both does at every character."""
    a, b = (problem_of(stubborn).vocabulary.characters[i] for i in (0, -1))
    texts = generate_coherent(stubborn, "the", 5, rng, n_texts=100).texts
    assert sorted(texts) == sorted(50 * [5 * a, 5 * b])
    texts = generate_marginal(stubborn, "the", 2, rng, n_texts=2000).texts
    counts = [texts.count(pair) for pair in (a + a, a + b, b + a, b + b)]
    assert chisquare(counts).pvalue > LEVEL
    first = score_text(stubborn, "the", a).isel(new_position=0)
    assert first["mean"].item() == pytest.approx(0.5)
    assert first["expected"].item() == pytest.approx(0, abs=1e-12)
    assert first["mutual_information"].item() == pytest.approx(np.log(2))


@pytest.mark.parametrize("kind", ["coherent", "marginal"])
def test_text_repeats_with_its_seed(nuts, kind):
    first, second, other = (
        generate(nuts, "the", 12, np.random.default_rng(seed), kind=kind) for seed in (1, 1, 2)
    )
    assert first.attrs["text"] == second.attrs["text"] != other.attrs["text"]
    assert (first.attrs["kind"], first.attrs["prompt"]) == (kind, "the")
    assert len(first.attrs["text"]) == 12
    assert "".join(first["character"].values) == first.attrs["text"]
    many = {"coherent": generate_coherent, "marginal": generate_marginal}[kind]
    texts = [many(nuts, "the", 6, np.random.default_rng(3), n_texts=4).texts for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_coherent_and_marginal_agree_for_a_point(mode):
    """With one draw there is one model: both kinds are the same process."""
    texts = {
        kind: generate(mode, "the", 30, np.random.default_rng(8), kind=kind).attrs["text"]
        for kind in ("coherent", "marginal")
    }
    assert texts["coherent"] == texts["marginal"]
    assert (
        len(set(generate_coherent(mode, "the", 9, np.random.default_rng(8), n_texts=5).texts)) > 1
    )


# What the posterior says of a text


@pytest.mark.parametrize("copies", [context_probabilities.COPIES, 1e12])
def test_a_marginal_text_is_scored_as_a_text_from_elsewhere(nuts, monkeypatch, copies):
    """By the probabilities that it is drawn from; in one block, and in a block each."""
    monkeypatch.setattr(context_probabilities, "COPIES", copies)
    found = generate(nuts, "the", 13, np.random.default_rng(4), kind="marginal", prob=0.8)
    (text,) = generate_marginal(nuts, "the", 13, np.random.default_rng(4)).texts
    assert found.attrs == {"prompt": "the", "text": text, "prob": 0.8, "kind": "marginal"}
    xr.testing.assert_allclose(found, score_text(nuts, "the", text, prob=0.8), rtol=1e-10)


def test_a_score_is_what_each_place_says_alone(nuts, monkeypatch):
    """Contexts that grow to a full one and slide on; one block, and a block each."""
    prompt, text = "at", "the mat"
    scored = score_text(nuts, prompt, text, prob=0.8)
    assert "".join(scored["character"].values) == text
    for n, character in enumerate(text):
        here, before = scored.isel(new_position=n), prompt + text[:n]
        alone = next_character(nuts, before, prob=0.8).sel(token=character)
        for name in ("mean", "lower", "upper", "mcse_mean"):
            assert here[name].item() == pytest.approx(alone[name].item(), rel=1e-10), name
        split = entropy_split(nuts, before).isel(context=0)
        assert set(split) < set(scored)
        for name in split:
            assert here[name].item() == pytest.approx(split[name].item(), rel=1e-10), name
    monkeypatch.setattr(context_probabilities, "COPIES", 1e12)
    xr.testing.assert_allclose(score_text(nuts, prompt, text, prob=0.8), scored)


def test_a_point_is_sure_of_its_probabilities(mode):
    scored = score_text(mode, "the", "n sat")
    for name in ("lower", "upper"):
        np.testing.assert_array_equal(scored[name], scored["mean"])
    assert (scored["mutual_information"] == 0).all()
    assert (scored["bias"] == 0).all()
    np.testing.assert_array_equal(scored["total"], scored["expected"])
    p = next_character(mode, "then ")["mean"].values
    assert scored["total"][2].item() == pytest.approx(entr(p).sum())
    assert np.isnan(scored["mcse_mean"]).all()


def test_prior_and_posterior_say_different_things(nuts):
    prior, posterior = (score_text(nuts, "the c", "at", group=g) for g in ("prior", "posterior"))
    assert (prior["mean"] < posterior["mean"]).all()
    assert (prior["mutual_information"] > posterior["mutual_information"]).all()


def test_bias_of_a_small_sample_is_corrected(nuts):
    """Fifty draws out of two hundred, with replacement: what is true is the two hundred's.

    The divergence from their mean has the true mutual information for its expectation: beside it
    only the error of the mean is left of the noise.
    """
    context = problem_of(nuts).vocabulary.encode("the c")
    p = context_probabilities.next_probabilities(problem_of(nuts), parameters_of(nuts), [context])
    p = p.values.reshape(200, -1)
    rng, corrected, raw = np.random.default_rng(5), [], []
    for _ in range(200):
        few = p[rng.integers(200, size=50)]
        split = next_token.split_entropy(xr.DataArray(few[None], dims=("chain", "draw", "token")))
        divergence = rel_entr(few, p.mean(axis=0)).sum(axis=1).mean()
        corrected.append(split["mutual_information"].item() - divergence)
        raw.append((split["mutual_information"] - split["bias"]).item() - divergence)
    error = np.std(raw, ddof=1) / np.sqrt(200)
    assert abs(np.mean(corrected)) < 0.2 * abs(np.mean(raw))
    assert np.mean(raw) < -6 * error


@pytest.mark.parametrize(("correlation", "apart"), [(0, 0), (0.8, 0), (-0.3, 0), (0, 1)])
def test_the_bias_is_that_of_the_effective_number_of_draws(rng, correlation, apart):
    """Σ Var(q_k) / (2 q_k): one character as ArviZ has it; eight within the noise of both.

    Chains that are apart have a mean that four chains know no better than four draws.
    """
    noise = rng.normal(size=(4, 1000, 8))
    for t in range(1, 1000):
        noise[:, t] *= np.sqrt(1 - correlation**2)
        noise[:, t] += correlation * noise[:, t - 1]
    noise += apart * rng.normal(size=(4, 1, 8))
    for p, tolerance in (
        (softmax(noise, axis=-1), 0.15),
        (1 / (1 + np.exp(-noise[..., :1])), 0.05),
    ):
        p = xr.DataArray(p, dims=("chain", "draw", "token"))
        by_arviz = (mcse_mean(p) ** 2 / (2 * p.mean(("chain", "draw")))).sum().item()
        found = next_token._entropy_bias(p.values, p.values.mean(axis=(0, 1)))
        assert found == pytest.approx(by_arviz, rel=tolerance)


# Prompts


def test_prompts_that_cannot_be_read(nuts, rng):
    for function in (generate_coherent, generate_marginal, generate):
        with pytest.raises(ValueError, match="at least one character"):
            function(nuts, "", 3, rng)
        with pytest.raises(ValueError, match=r"'!' 'i' not in the vocabulary"):
            function(nuts, "hi!", 3, rng)
        with pytest.raises(ValueError, match="length must be a positive integer, got 0"):
            function(nuts, "the", 0, rng)
    with pytest.raises(ValueError, match="n_texts must be a positive integer, got 0"):
        generate_coherent(nuts, "the", 3, rng, n_texts=0)
    with pytest.raises(ValueError, match="kind must be one of coherent, marginal, got 'greedy'"):
        generate(nuts, "the", 3, rng, kind="greedy")
    for prompt, text, message in (
        ("", "cat", "prompt must have at least one"),
        ("the", "", "text must have at least one"),
        ("the", "dog", "'d' 'g' not in the vocabulary"),
    ):
        with pytest.raises(ValueError, match=message):
            score_text(nuts, prompt, text)
    with pytest.raises(ValueError, match=r"prob must be between 0 and 1, got 1\.5"):
        score_text(nuts, "the", "cat", prob=1.5)


def test_of_a_long_prompt_the_end_is_read(nuts):
    for function in (generate_coherent, generate_marginal):
        long, short = (
            function(nuts, prompt, 8, np.random.default_rng(1)).texts
            for prompt in ("that mat, the c", "the c")
        )
        assert long == short
    long, short = (score_text(nuts, prompt, "at") for prompt in ("that mat, the c", "the c"))
    xr.testing.assert_allclose(long, short)
