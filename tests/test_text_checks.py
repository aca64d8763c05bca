"""Checks of text: counts by hand, exact ranks, and a bad model that must be found out."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

import numpy as np
import pytest
from problems import TEXT
from scipy.stats import binom, kstest

from gptbayes import fit
from gptbayes.corpus import Vocabulary, Windows, cut, keep_frequent
from gptbayes.inference import open_run, problem_of
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import generate_text
from gptbayes.model.stages import STAGES
from gptbayes.predict import (
    TEXT_STATISTICS,
    check_statistics,
    check_text,
    generate_coherent,
    relative_frequencies,
    text_statistics,
)
from gptbayes.predict.text_checks import _tail

# What is counted


def test_words_and_shares_by_hand():
    assert text_statistics.words("Don't stop: l’été, 3 x_y 'tis-") == [
        "don't",
        "stop",
        "l’été",
        "x",
        "y",
        "tis",
    ]
    texts = ["the Cat sat", "sat the cat", "12 34"]
    reference = "A cat; the cat sat"
    np.testing.assert_allclose(text_statistics.known_words(texts, reference), [1, 1, np.nan])
    np.testing.assert_allclose(text_statistics.known_word_pairs(texts, reference), [1, 0.5, np.nan])
    np.testing.assert_allclose(
        text_statistics.mean_word_length(["the end x", ""], ""), [7 / 3, np.nan]
    )
    assert text_statistics.word_lengths("the end x") == [3, 3, 1]
    assert text_statistics.word_lengths("...") == [0]
    names, shares = text_statistics.item_frequencies(["aab", "b"], text_statistics.characters)
    assert names == ["a", "b"]
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 1]])
    assert text_statistics.bigrams("abca") == ["ab", "bc", "ca"]


def test_pairs_do_not_reach_over_a_gap():
    gap = f"the cat{text_statistics.GAP}sat on"
    np.testing.assert_array_equal(
        text_statistics.known_word_pairs(["cat sat", "sat on"], gap), [0, 1]
    )


def test_repetition_by_hand():
    """abcabcabc has spans abcabc, bcabca, cabcab, abcabc: one of four came before."""
    found = text_statistics.repetition(["abcabcabc", "abcdefgh", "aaaaaaaa", "abc"], "")
    np.testing.assert_allclose(found, [1 / 4, 0, 2 / 3, np.nan])


def test_longest_copied_span_against_all_spans(rng):
    reference = "".join(rng.choice(list("ab"), 60))
    texts = ["".join(rng.choice(list("abc"), 30, p=[0.49, 0.49, 0.02])) for _ in range(50)]
    texts += [reference[7:37], reference, reference + "c", "c", 2 * reference]

    def longest(text):
        return max(
            (n - m for m in range(len(text)) for n in range(m, len(text) + 1)
             if text[m:n] in reference),
            default=0,
        )  # fmt: skip

    expected = [longest(text) for text in texts]
    assert len(set(expected)) > 8
    np.testing.assert_array_equal(text_statistics.longest_copied_span(texts, reference), expected)


@pytest.mark.parametrize("stride", [None, 1, 2, 4, 5, 7])
def test_windows_are_put_together_again(stride):
    text = "what is written here has no period, quickly: jump over the lazy dogs. "
    vocabulary = Vocabulary.of(text)
    windows = cut(vocabulary.encode(text), 5, stride=stride)
    whole = text_statistics.join_windows(windows, vocabulary.decode)
    if stride == 7:  # one character of seven is in no window
        pieces = [text[start : start + 6] for start in range(0, len(text) - 5, 7)]
        assert whole == text_statistics.GAP.join(pieces)
    else:
        assert whole == text[: len(whole)]
        assert len(text) - len(whole) < (stride or 5)


def test_one_window_is_a_text():
    one = Windows(np.array([[0, 1, 2]]), np.array([[1, 2, 3]]))
    assert text_statistics.join_windows(one, Vocabulary(tuple("abcd")).decode) == "abcd"


# Ranks


def test_tail_probabilities_by_hand():
    """Word lengths 1 to 9 among each other; ties count in full, both tails when it is two-sided."""
    replicated = [(n * "a" + 9 * " ")[:9] for n in range(1, 10)]
    for observed, p in (("aaaaaaaaa", (1 + 1) / 10), ("aaaaa    ", (1 + 4 + 1) / 10)):
        row = check_statistics(observed, replicated, "a").sel(statistic="mean word length")
        assert row["p"].item() == pytest.approx(min(1, 2 * p))
        pulled = (9 * p + 0.5) / 10
        assert row["p_mcse"].item() == pytest.approx(2 * np.sqrt(pulled * (1 - pulled) / 9))
    row = check_statistics("         ", replicated, "a").sel(statistic="mean word length")
    assert np.isnan(row["observed"])
    assert row["p"].item() == pytest.approx(2 * 1 / 10)  # without words is below all words


@pytest.mark.parametrize("n_values", [2, 3, 8])
def test_tail_probabilities_keep_their_level_with_ties(rng, n_values):
    """Values of a few kinds only: at no level do more fail than it says, 4000 times.

    Half of each tie, as a mid-p value counts them, would fail more often than the level.
    """
    p = rng.dirichlet(np.ones(n_values), size=4000)
    draws = np.array([rng.choice(n_values, size=41, p=each) for each in p])
    found = np.array([_tail(row.astype(float), True)[0] for row in draws])
    for level in (0.05, 0.1, 0.25):
        share = np.mean(found <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 4000), (level, share)


def test_distances_are_one_sided_and_exact():
    """Three texts ab, one aa: its distance from the mean of the others is 1/2, theirs 1/8 each.

    With bb instead of one of the three, aa and bb tie in the farthest place.
    """
    found = check_statistics("aa", ["ab", "ab", "ab", "ab"], "x").sel(statistic="characters")
    assert found["observed"].item() == pytest.approx(1 / 2)
    np.testing.assert_allclose(found["replicated"], 1 / 8)
    assert found["p"].item() == pytest.approx(1 / 5)
    tied = check_statistics("aa", ["ab", "ab", "bb"], "x").sel(statistic="characters")
    assert tied["p"].item() == pytest.approx((1 + 1) / 4)
    near = check_statistics("ab", ["ab", "aa", "bb"], "x").sel(statistic="characters")
    assert near["p"].item() == pytest.approx((1 + 2 + 1) / 4)


def babble(n_texts, rng, length=150):
    """Texts that one bigram each writes, more and less alike, with real runs of words."""
    posed = STAGES["01"]
    names = np.array(list(" abc"))
    logits = rng.normal(size=(1, 4, 4)) + 0.4 * rng.normal(size=(n_texts, 4, 4))
    tokens = generate_text(posed, {"token_embedding": logits}, np.array([0]), length, 1, rng)
    return ["".join(names[row]) for row in tokens]


@pytest.mark.slow
def test_a_text_of_the_model_has_uniform_tail_probabilities(rng):
    """Two hundred and fifty times another model, ten texts of it, one taken for the observed.

    One-sided ranks without ties are uniform on 1/10 ... 1, which less a uniform part of 1/10 is
    uniform. Where ties are possible, small tail probabilities must not be more than their share.
    """
    p = []
    for _ in range(250):
        observed, *replicated = babble(10, rng)
        p.append(check_statistics(observed, replicated, babble(1, rng)[0])["p"].values)
    p = dict(zip(TEXT_STATISTICS, np.array(p).T, strict=True))
    for name in ("characters", "bigrams", "word lengths"):
        assert kstest(p[name] - rng.random(250) / 10, "uniform").pvalue > 1e-4, name
    for name in ("mean word length", "known words", "longest copied span", "repetition"):
        assert binom.sf((p[name] <= 0.2).sum() - 1, 250, 0.2) > 1e-4, name
        assert np.mean(p[name]) > 0.45


def test_too_near_is_no_fault_and_holm_counts_all(rng):
    texts = babble(60, rng)
    distances = check_statistics(texts[0], texts[1:], "a")["replicated"].sel(statistic="characters")
    typical = texts.pop(1 + int(distances.argmin("text")))
    found = check_statistics(typical, texts, "a b")
    assert found["p"].sel(statistic="characters") > 0.95
    assert "correction for 8 checks: at least 320 are needed" in found.attrs["notes"][-1]
    assert (found["p_holm"] >= found["p"] - 1e-12).all()
    assert found["p_holm"].min().item() == pytest.approx(min(1, 8 * found["p"].min().item()))


# Models that are found out


def english(n_characters, seed=1):
    """Sentences of Python's own manual in random order, letters and full stops."""
    plain = re.sub(r"[^a-z.]+", " ", " ".join(topics.values()).lower())
    sentences = [each.strip() for each in plain.split(". ") if 30 < len(each) < 300]
    order = np.random.default_rng(seed).permutation(len(sentences))
    return ". ".join(sentences[i] for i in order)[:n_characters]


@pytest.fixture(scope="module")
def bigram(programs, tmp_path_factory):
    """A NUTS fit of stage 01 to 2000 characters of English, with 712 held out."""
    n_training, n_held_out = 250, 89
    posed = make_problem(
        STAGES["01"],
        keep_frequent(english(8 * (n_training + n_held_out) + 1), 27),
        block_size=8,
        batch_size=n_training,
        held_out_fraction=n_held_out / (n_training + n_held_out),
        scales={"token_embedding": 2.0},
    )
    folder = tmp_path_factory.mktemp("checks") / "01"
    return open_run(fit.nuts(posed, folder, chains=2, iter_warmup=120, iter_sampling=120, seed=1))


def test_a_bigram_has_the_bigrams_and_not_the_words(bigram):
    found = check_text(bigram, np.random.default_rng(1))
    whole = keep_frequent(english(8 * (250 + 89) + 1), 27)
    assert found.reference == whole[: 8 * 250 + 1]
    assert found.generated.prompt + found.observed == whole[8 * 250 :]
    assert {len(text) for text in found.generated.texts} == {len(found.observed)}
    assert len(set(zip(found.generated.chain, found.generated.draw, strict=True))) == 240
    ok = found.checks["ok"]
    assert ok.sel(statistic="bigrams")
    assert not ok.sel(statistic=["known words", "known pairs of words"]).any()
    sentence = str(found.checks["sentence"].sel(statistic="known pairs of words").values)
    assert "too few pairs of words of simulated texts occur in the training text" in sentence
    sentence = str(found.checks["sentence"].sel(statistic="known words").values)
    assert "too many words of simulated texts do not occur in the training text" in sentence
    assert found.checks.attrs["notes"] == []


def test_so_it_is_with_other_text(bigram):
    """All stretches of the manual that are left; without Holm's correction, to be strict with both.

    Each version of Python has another manual, and stretches differ: in some manuals the p-value of
    bigrams is below 0.01 in a third of the stretches. That of words is below 0.01 in all of them.
    """
    problem, length = problem_of(bigram), 700
    reference = text_statistics.join_windows(problem.training, problem.vocabulary.decode)
    texts = generate_coherent(bigram, "the ", length, np.random.default_rng(2), n_texts=240).texts
    unseen = keep_frequent(english(100_000), 27)[10_000:]
    p = {name: [] for name in TEXT_STATISTICS}
    for start in range(0, len(unseen) - length, 5000):
        found = check_statistics(unseen[start : start + length], texts, reference)
        for name in TEXT_STATISTICS:
            p[name].append(found["p"].sel(statistic=name).item())
    assert max(p["known pairs of words"]) < 0.1
    assert max(p["known words"]) < 0.01
    assert np.mean(np.array(p["bigrams"]) < 0.01) < 0.5


@pytest.mark.slow
def test_a_copy_machine_memorises(rng):
    text = english(60_000)
    reference, unseen = text[:20_000], text[40_000:40_600]
    starts = rng.integers(len(reference) - 600, size=400)
    copies = [reference[start : start + 600] for start in starts]
    found = check_statistics(unseen, copies, reference)
    for name in ("longest copied span", "known words", "known pairs of words"):
        assert not found["ok"].sel(statistic=name)
    sentence = str(found["sentence"].sel(statistic="longest copied span").values)
    assert sentence.endswith("copy longer spans than held-out text does, a sign of memorization")
    assert "600 characters" in sentence


@pytest.mark.parametrize("n_texts", [319, 320])
def test_it_takes_so_many_texts_to_stand_out(n_texts):
    """A text with repetitions among texts without: as extreme as can be, one of eight checks."""
    model = ["abcdefghij klmnop"[: 17 - n % 3] + "q" * (n % 3) for n in range(n_texts)]
    found = check_statistics("abcdefabcdef klmn", model, "x")
    few = found.attrs["notes"][1:]
    found = found.sel(statistic="repetition")
    assert found["p"].item() == pytest.approx(2 / (n_texts + 1))
    assert (8 * found["p"].item() < 0.05) == (n_texts == 320) == (not few)


def test_a_stuck_model_repeats_itself(rng):
    text = english(6000)
    stuck = [(3 * text[n : n + 100])[:300] for n in range(400)]
    found = check_statistics(text[3000:3300], stuck, text[:2000])
    sentence = str(found["sentence"].sel(statistic="repetition").values)
    assert sentence.endswith("simulated texts are more repetitive than the held-out text")
    assert not found["ok"].sel(statistic="repetition")
    assert found["ok"].sel(statistic="mean word length")


def test_a_model_without_words_is_found_out():
    text = english(300)
    found = check_statistics(text, 400 * [300 * "."], text)
    assert "400 of 400 simulated texts have no words" in found.attrs["notes"]
    words = found.sel(statistic=["word lengths", "known words", "known pairs of words"])
    assert not words["ok"].any()
    assert "simulated texts no words" in str(words["sentence"][1].values)
    both = check_statistics(300 * "!", 400 * [300 * "."], text).sel(statistic="known words")
    assert np.isnan(both["p"])
    assert str(both["sentence"].values).endswith("cannot be checked")


# What is said, and to whom


def test_short_texts_and_few_draws_are_called_weak(runs):
    for name in ("nuts", "pathfinder", "optimize"):
        found = check_text(open_run(runs[name]), np.random.default_rng(1), n_texts=30)
        first, second = found.checks.attrs["notes"]
        assert first.startswith("the held-out text has 21 characters and 5 words: the checks have")
        assert second.startswith("with 30 simulated texts no two-sided check can be significant")
        assert found.checks.sizes == {"statistic": 8, "text": 30}
    assert set(found.generated.draw) == {0}
    assert len(set(found.generated.texts)) == 30
    # The text goes on in a circle: all of the held-out text is in the training text.
    assert found.checks["observed"].sel(statistic="longest copied span") == 21
    assert found.reference == TEXT[: len(found.reference)]
    prior = check_text(open_run(runs["nuts"]), np.random.default_rng(1), n_texts=30, group="prior")
    assert prior.generated.texts != found.generated.texts
    again = check_text(open_run(runs["nuts"]), np.random.default_rng(1), n_texts=30, group="prior")
    assert again.generated.texts == prior.generated.texts


def test_sentences_have_their_numbers():
    found = check_statistics("aab", ["abb", "bbb", "bba"], "ab")
    row = found.sel(statistic="characters")
    sentence = str(row["sentence"].values)
    assert f"held-out text {100 * row['observed'].item():.0f} %" in sentence
    assert row["lower"] == 0
    assert f"(90 % interval 0.0 to {100 * row['upper'].item():.0f} %)" in sentence
    assert f"p = {row['p'].item():.2g}" in sentence


def test_frequencies_by_hand():
    found = relative_frequencies("ab", ["aa", "cb"], "characters", prob=0.5)
    assert found["character"].values.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(found["observed"], [0.5, 0.5, 0])
    np.testing.assert_allclose(found["mean"], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(found["lower"], [0.25, 0.125, 0.125])
    pairs = relative_frequencies("ab", ["aa", "cb"], "bigrams")
    assert pairs["bigram"].values.tolist() == ["aa", "ab", "cb"]
    lengths = relative_frequencies("a bb", ["....", "a bb"], "word lengths")
    assert lengths["word_length"].values.tolist() == [0, 1, 2]


def test_what_cannot_be_checked():
    with pytest.raises(ValueError, match="replicated must have at least 2 texts, got 1"):
        check_statistics("ab", ["ab"], "ab")
    with pytest.raises(ValueError, match="same positive length, got 2 and 2, 3 characters"):
        check_statistics("ab", ["ab", "abc"], "ab")
    with pytest.raises(ValueError, match="same positive length, got 0 and 0 characters"):
        check_statistics("", ["", ""], "ab")
    with pytest.raises(ValueError, match="prob must be between 0 and 1, got 1"):
        check_statistics("ab", ["ab", "ab"], "ab", prob=1)
    with pytest.raises(ValueError, match="kind must be one of characters, bigrams, word lengths"):
        relative_frequencies("ab", ["ab", "ab"], "trigrams")
