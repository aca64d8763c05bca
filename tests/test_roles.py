"""Roles of heads: detection patterns, planted heads, and the prior beside."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from drawn import drawn, from_prior, planted, with_heads_permuted
from problems import small_problem

from gptbayes.attention import (
    DETECTION_PATTERNS,
    attention_at_distance,
    attention_draws,
    head_order,
    head_roles,
    matched,
    role_draws,
    role_sentences,
)
from gptbayes.attention.detection_patterns import (
    current_word,
    duplicate_token,
    induction,
    is_letter,
    is_punctuation,
    is_vowel,
    last_vowel,
    last_white_space,
    punctuation,
    vowel,
    white_space,
)
from gptbayes.inference import open_run, problem_of

NAMES = ("current token", "previous token", "first token")


def pairs(places):
    return [tuple(each) for each in np.argwhere(places).tolist()]


# Classes


@pytest.mark.parametrize("letters", ["aEiOuyéÅœØıə", "αΕηιοΥωήΆΐ", "аЕиоуыэЮяёїєѣӓ"])
def test_vowels_of_three_scripts(letters):
    assert all(is_vowel(letter) for letter in letters)


@pytest.mark.parametrize("letters", ["bÇñß ", "βΓψ", "бЙъьў", "道", "́"])
def test_what_is_no_vowel(letters):
    assert not any(is_vowel(letter) for letter in letters)


def test_letters_and_punctuation_of_any_script():
    assert all(is_letter(character) for character in "aЖ道ह\u0301")
    assert not any(is_letter(character) for character in " .\n1")
    assert all(is_punctuation(character) for character in ".,«»。—")
    assert not is_punctuation("a")


def test_patterns_by_hand():
    text = "a at, ta"  # positions 0 to 7
    assert pairs(duplicate_token(text)) == [(2, 0), (5, 1), (6, 3), (7, 0), (7, 2)]
    assert pairs(induction(text)) == [(2, 1), (5, 2), (6, 4), (7, 1), (7, 3)]
    assert pairs(white_space(text))[-4:] == [(6, 1), (6, 5), (7, 1), (7, 5)]
    assert pairs(last_white_space(text)) == [(2, 1), (3, 1), (4, 1), (5, 1), (6, 5), (7, 5)]
    assert pairs(punctuation(text)) == [(4, 4), (5, 4), (6, 4), (7, 4)]
    assert pairs(current_word(text)) == [(3, 2), (7, 6)]
    assert pairs(vowel("bad")) == [(1, 1), (2, 1)]
    assert pairs(last_vowel("aab")) == [(1, 0), (2, 1)]
    assert pairs(induction("aa")) == []  # its own place is no place before it


@pytest.mark.parametrize("name", DETECTION_PATTERNS)
def test_patterns_are_causal(name):
    text = "the cat, that sat"
    whole = DETECTION_PATTERNS[name](text)
    assert whole.shape == (17, 17)
    assert whole.dtype == bool
    assert not np.triu(whole, k=1).any()
    np.testing.assert_array_equal(DETECTION_PATTERNS[name](text[:9]), whole[:9, :9])


# Roles


def test_previous_token_head():
    look_back = np.eye(4, k=-1)
    look_back[0, 0] = 1
    uniform = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    both = xr.DataArray([look_back, uniform], dims=("head", "query_position", "key_position"))
    role = attention_at_distance(both, 1)
    assert role[0].item() == pytest.approx(1 - np.mean([1 / 2, 1 / 3, 1 / 4]))
    np.testing.assert_allclose(attention_at_distance(both, 0)[0], -np.mean([1 / 2, 1 / 3, 1 / 4]))
    for distance in (0, 1, 2):
        assert attention_at_distance(both, distance)[1].item() == pytest.approx(0)
    with pytest.raises(ValueError, match="distance must be between 0 and 3, got 4"):
        attention_at_distance(both, 4)


def test_planted_heads_have_their_roles(rng):
    problem = small_problem("05")
    order = rng.permuted(np.tile(np.arange(3), (2, 30, 1, 1)), axis=-1)
    idata = drawn(problem, with_heads_permuted(planted(problem, draws=30), order))
    roles = head_roles(idata)
    heads = roles.heads.isel(layer=0)
    certain = {"current token": [1, 0, 0], "previous token": [0, 1, 0]}
    for name, expected in certain.items():
        found = heads.sel(role=name, source="posterior")
        np.testing.assert_array_equal(found["probability"], expected)
        assert (found["probability_mcse"] > 0).all()
        uniform_look = np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5])
        np.testing.assert_allclose(found["mean"][expected.index(1)], 1 - uniform_look, rtol=1e-6)
        np.testing.assert_allclose(found["mean"][2], 0, atol=1e-12)
        learned = [s for s in role_sentences(roles) if s.role == name and s.learned]
        assert expected.index(1) in [s.head for s in learned]
    first = roles.ranks.sel(role="previous token", source="posterior").isel(rank=0)
    assert first["mean"] == pytest.approx(1 - uniform_look)
    assert "punctuation" not in roles.absent


def test_uniform_attention_has_no_role():
    for number in ("05", "12"):  # 12 with masks, which also apply to uniform attention
        problem = small_problem(number)
        parameters = from_prior(problem, 2, 10)
        parameters["query"][:] = 0.0
        roles = head_roles(drawn(problem, parameters))
        ours = roles.heads.sel(source="posterior")
        assert abs(ours["mean"]).max() < 1e-12
        assert (ours["probability"] == 0).all()
        assert (roles.no_head["probability"].sel(source="posterior") == 1).all()


def test_roles_against_attention_at_distance(runs):
    idata = open_run(runs["nuts"])
    contexts = problem_of(idata).held_out.x
    matching = head_order(idata)
    roles = head_roles(idata, matching, contexts)
    weights = matched(attention_draws(idata, contexts), matching)
    for distance, name in enumerate(NAMES[:2]):
        expected = attention_at_distance(weights, distance).mean("sequence")
        draws = role_draws(idata, contexts, matching=matching).sel(role=name)
        np.testing.assert_allclose(draws, expected, atol=1e-12)
        found = roles.heads["mean"].sel(role=name, source="posterior")
        np.testing.assert_allclose(found, expected.mean(("chain", "draw")), atol=1e-12)
    total = roles.heads["probability"].sum(("layer", "head")) + roles.no_head["probability"]
    np.testing.assert_allclose(total, 1)
    for one in role_sentences(roles):
        assert "ESS " in one.text or "R-hat" in one.text  # 200 draws are too few


def test_nothing_learned_is_not_read_as_learned():
    """Posterior draws that are prior draws: matching sorts both alike, and neither has more."""
    problem = small_problem("05")
    prior = {name: v[:, ::-1] for name, v in from_prior(problem, 1, 400, seed=2).items()}
    idata = drawn(problem, from_prior(problem, 2, 200), prior)
    roles = head_roles(idata)
    for table in (roles.heads, roles.ranks):
        z = (table["exceeds_prior"] - 0.5) / table["exceeds_prior_mcse"]
        assert abs(z).max() < 4.5
    assert not any(sentence.learned for sentence in role_sentences(roles))
    # Yet matching made a pattern of nothing, in the prior as well.
    itself = roles.heads["mean"].sel(role="current token").isel(layer=0)
    spread = itself.isel(head=0) - itself.isel(head=2)
    assert (spread > 0.05).all()
    assert (roles.ambiguous > 0.3).all()


def test_patterns_that_do_not_occur_are_absent():
    text = "xyz zyx, " * 12
    problem = small_problem("05", text=text)
    idata = drawn(problem, from_prior(problem, 1, 10))
    contexts = problem.vocabulary.encode("xzxzx")[None]
    roles = head_roles(idata, contexts=contexts)
    assert set(roles.absent) == {
        "vowels",
        "last vowel",
        "white space",
        "last white space",
        "punctuation",
    }
    with pytest.raises(ValueError, match="patterns must occur in the contexts"):
        head_roles(idata, contexts=contexts[:, :1])


def test_a_mode_says_nothing_of_learning(runs):
    sentences = list(role_sentences(head_roles(open_run(runs["optimize"]))))
    assert sentences
    assert not any(each.learned for each in sentences)
    assert all("a single draw" in each.text for each in sentences)
