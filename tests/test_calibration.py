"""Calibration and scores: forecasters that are calibrated by construction, and real fits."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from scipy.stats import kstest
from sklearn.metrics import brier_score_loss, log_loss

from gptbayes import plots
from gptbayes.inference import open_run, problem_of
from gptbayes.predict import (
    forecast_reliability,
    held_out_predictive,
    held_out_reliability,
    ordered_pit,
    proper_scores,
    psis_weights,
)


@pytest.fixture(scope="module")
def fits(runs):
    return {name: open_run(runs[name]) for name in ("nuts", "pathfinder", "optimize")}


def forecasts(rng, n_sequence=40, n_position=5, n_token=7, concentration=0.4):
    size = (n_sequence, n_position)
    return rng.dirichlet(np.full(n_token, concentration), size=size)


def drawn(p, rng):
    """One character for each place from its forecast."""
    u = rng.random(p.shape[:-1])[..., None] * p.sum(axis=-1, keepdims=True)
    return np.minimum((u >= p.cumsum(axis=-1)).sum(axis=-1), p.shape[-1] - 1)


def raised(p, power):
    """Sharper than ``p`` for a power above 1, flatter below."""
    return p**power / (p**power).sum(axis=-1, keepdims=True)


def judged(p, tokens, rng, **settings):
    return forecast_reliability({"it": p}, tokens, rng, **settings)


def row(found):
    return found.calibration.isel(fit=0)


# Chance


@pytest.mark.slow
def test_a_calibrated_forecaster_leaves_the_band_as_often_as_it_says(rng):
    """Every p-value is one and the floor is the mean of what replicates show."""
    n, inside, found = 120, 0, {name: [] for name in ("band_p", "ece_p", "pit_p", "ece")}
    floors = []
    for _ in range(n):
        p = forecasts(rng)
        each = judged(p, drawn(p, rng), rng, n_simulations=200)
        inside += bool(each.curve["inside"].all())
        floors.append(float(row(each)["ece_null_mean"]))
        for name, values in found.items():
            values.append(float(row(each)[name]))
    assert abs(inside / n - 0.9) < 3.5 * np.sqrt(0.9 * 0.1 / n)
    for name in ("band_p", "ece_p", "pit_p"):
        assert kstest(found[name], "uniform").pvalue > 1e-3, name
    error = np.std(found["ece"]) / np.sqrt(n)
    assert abs(np.mean(found["ece"]) - np.mean(floors)) < 4 * error
    assert np.mean(floors) > 20 * error  # far from 0, where a reader might look for it


@pytest.mark.parametrize("n_token", [2, 7])
def test_pit_is_uniform_when_characters_are_drawn_from_their_forecasts(rng, n_token):
    p = forecasts(rng, n_sequence=4000, n_token=n_token)
    p[::3] = np.round(p[::3], 1)  # ties
    p[::3, :, 0] += 1 - p[::3].sum(axis=-1)
    p = np.maximum(p, 0) / np.maximum(p, 0).sum(axis=-1, keepdims=True)
    pit = ordered_pit(p, drawn(p, rng), rng).ravel()
    assert kstest(pit, "uniform").pvalue > 1e-3
    counts = np.histogram(pit, bins=20, range=(0, 1))[0]
    assert (abs(counts - pit.size / 20) < 4.5 * np.sqrt(pit.size / 20)).all()


def test_pit_by_hand(rng):
    p = np.array([0.2, 0.5, 0.3])
    n = 2000
    for token, (low, high) in enumerate([(0.8, 1.0), (0.0, 0.5), (0.5, 0.8)]):
        pit = ordered_pit(np.tile(p, (n, 1)), np.full(n, token), rng)
        assert kstest((pit - low) / (high - low), "uniform").pvalue > 1e-3


# Power


@pytest.mark.parametrize(
    ("power", "words", "sign"), [(2.0, "over-confident", 1), (0.5, "under-confident", -1)]
)
def test_sharpened_and_flattened_forecasts_are_found_and_named(rng, power, words, sign):
    truth = forecasts(rng, n_sequence=120)
    tokens = drawn(truth, rng)
    found = forecast_reliability({"true": truth, "off": raised(truth, power)}, tokens, rng)
    assert found.findings["true"][0].text.startswith("no evidence of miscalibration")
    assert found.findings["off"][0].text.startswith(words)
    off = found.calibration.sel(fit="off")
    assert sign * (float(off["pit_mean"]) - 0.5) > 4 * float(off["pit_mean_se"])
    assert float(off["ece"]) > float(off["ece_null_q95"])
    assert max(float(off[name]) for name in ("band_p", "ece_p", "pit_p")) < 0.01
    assert not found.curve["inside"].sel(fit="off").all()
    score = found.scores.sel(fit="off")
    assert float(score["log_score_difference"]) < -3 * float(score["log_score_difference_se"])
    assert float(score["brier_difference"]) > 3 * float(score["brier_difference_se"])


def test_the_sentence_has_the_numbers_of_the_curve(rng):
    """A forecaster that is sure of one character in five and right half of the time."""
    p = np.full((60, 5, 5), 0.025)
    p[..., 0] = 0.9
    tokens = np.where(np.arange(300).reshape(60, 5) % 2, 0, 1 + rng.integers(4, size=(60, 5)))
    found = judged(p, tokens, rng)
    top = found.curve.isel(fit=0, bin=-1)
    assert (float(top["observed"]), float(top["predicted"])) == (0.5, pytest.approx(0.9))
    assert "of 0.9 or more, 50 % occurred and 90 % were expected" in found.findings["it"][0].text
    # of 300 characters 30 less than expected lie in each of two bins
    assert float(row(found)["ece"]) == pytest.approx(0.4)


# Exact values


def test_scores_are_those_of_others(rng):
    p = forecasts(rng, n_sequence=6)
    tokens = drawn(p, rng)
    table = proper_scores(p, tokens)
    flat, came = p.reshape(-1, 7), tokens.ravel()
    assert -float(table["log_score"]) == pytest.approx(log_loss(came, flat, labels=range(7)))
    one_hot = np.eye(7)[came]
    assert float(table["brier"]) == pytest.approx(((flat - one_hot) ** 2).sum(axis=1).mean())
    each = np.log(flat[np.arange(30), came]).reshape(6, 5).mean(axis=1)
    np.testing.assert_allclose(table["log_score_pointwise"], each)
    assert float(table["log_score_se"]) == pytest.approx(each.std(ddof=1) / np.sqrt(6))
    two = forecasts(rng, n_token=2)
    tokens = drawn(two, rng)
    binary = brier_score_loss(tokens.ravel(), two[..., 1].ravel())
    assert float(proper_scores(two, tokens)["brier"]) == pytest.approx(2 * binary)


def test_two_tokens_have_the_calibration_error_of_binary_forecasts(rng):
    p = forecasts(rng, n_token=2)
    tokens = drawn(p, rng)
    edges = (0, 0.25, 0.5, 0.75, 1)
    flat, came = p.ravel(), np.eye(2)[tokens].ravel()  # of both: one of them comes
    bins = np.clip(np.digitize(flat, edges) - 1, 0, 3)
    by_hand = sum(
        (bins == k).mean() * abs(came[bins == k].mean() - flat[bins == k].mean()) for k in range(4)
    )
    assert float(row(judged(p, tokens, rng, edges=edges))["ece"]) == pytest.approx(by_hand)


def test_paired_differences_and_gains_by_hand(rng):
    p, q = forecasts(rng, 9, 4), forecasts(rng, 9, 4)
    tokens = drawn(p, rng)
    found = forecast_reliability({"p": p, "q": q}, tokens, rng)
    log_p, log_q = (np.log(np.take_along_axis(a, tokens[..., None], -1)[..., 0]) for a in (p, q))
    difference = (log_q - log_p).mean(axis=1)
    score = found.scores.sel(fit="q")
    assert float(score["log_score_difference"]) == pytest.approx(difference.mean())
    assert float(score["log_score_difference_se"]) == pytest.approx(difference.std(ddof=1) / 3)
    gain = (log_q[:, 3] - log_q[:, 0]).mean()
    last = found.by_position.sel(fit="q").isel(position=-1)
    assert float(last["gain"]) == pytest.approx(gain)
    paired = (log_q[:, 3] - log_q[:, 0]).std(ddof=1) / 3
    assert float(last["gain_se"]) == pytest.approx(paired)
    assert float(last["log_score"]) == pytest.approx(log_q[:, 3].mean())
    assert float(found.scores["log_score_difference_se"].sel(fit="p")) == 0


def test_what_is_known_for_sure(rng):
    tokens = rng.integers(3, size=(50, 4))
    right, wrong = np.eye(3)[tokens], np.eye(3)[(tokens + 1) % 3]
    found = forecast_reliability({"right": right, "wrong": wrong}, tokens, rng)
    sure, lost = (found.calibration.sel(fit=name) for name in ("right", "wrong"))
    assert (float(sure["ece"]), float(sure["ece_null_mean"]), float(sure["ece_p"])) == (0, 0, 1)
    assert (float(lost["ece"]), float(lost["ece_null_mean"])) == (1, 0)
    assert found.scores["log_score"].values.tolist() == [0, -np.inf]
    assert found.scores["brier"].values.tolist() == [0, 2]
    assert any("-inf" in finding.text for finding in found.findings["wrong"])
    assert found.findings["wrong"][0].text.startswith("over-confident")
    assert found.curve["inside"].sel(fit="right").all()


def test_one_sequence_has_no_standard_error_and_says_so(rng):
    p = forecasts(rng, n_sequence=1)
    found = forecast_reliability({"a": p, "b": p}, drawn(p, rng), rng)
    for name in ("log_score_se", "brier_se", "log_score_difference_se"):
        assert np.isnan(found.scores[name]).all()
    assert np.isnan(found.by_position["gain_se"]).all()
    said = " ".join(finding.text for finding in [*found.findings["b"], *found.power])
    assert "standard errors are unknown" in said and "only 5 held-out characters" in said
    assert "nan" not in said


def test_the_same_seed_gives_the_same_answer():
    p = forecasts(np.random.default_rng(1))
    tokens = drawn(p, np.random.default_rng(2))
    one, two, other = (judged(p, tokens, np.random.default_rng(seed)) for seed in (3, 3, 4))
    xr.testing.assert_identical(one.pit, two.pit)
    assert one.findings == two.findings
    assert not np.array_equal(one.pit["difference"], other.pit["difference"])


def test_what_cannot_be_judged_is_refused(rng):
    p = forecasts(rng, 3, 2)
    tokens = drawn(p, rng)
    refused = [
        (lambda: forecast_reliability({}, tokens, rng), "at least one forecast"),
        (lambda: judged(p[:2], tokens, rng), r"got \(2, 2, 7\) and \(3, 2\)"),
        (lambda: judged(p * 1.1, tokens, rng), "sum to one"),
        (lambda: judged(p, tokens + 7, rng), r"tokens must be in 0\.\.6"),
        (lambda: judged(p, tokens, rng, prob=1.0), "prob must be between 0 and 1"),
        (lambda: judged(p, tokens, rng, edges=(0, 0.5)), "increase from 0 to 1"),
        (
            lambda: judged(p, tokens, rng, n_simulations=100),
            "must be at least 200 for prob 0.9, got 100",
        ),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words):
            call()


# Real fits


def test_fits_side_by_side(fits, rng):
    named = {**fits, "weighted": fits["pathfinder"]}
    weights = {"weighted": psis_weights(fits["pathfinder"])}
    found = held_out_reliability(named, rng, weights)
    tokens = problem_of(fits["nuts"]).held_out.y
    assert list(found.curve["fit"].values) == list(named) == list(found.findings)
    for name, idata in named.items():
        alone = proper_scores(held_out_predictive(idata, weights.get(name)), tokens)
        for what in ("log_score", "brier"):
            assert float(found.scores[what].sel(fit=name)) == pytest.approx(float(alone[what]))
        expected = found.curve["share"].sel(fit=name).sum()
        assert float(expected) == pytest.approx(1)
    assert any("Pareto k" in finding.text for finding in found.findings["weighted"])
    assert not any("Pareto k" in finding.text for finding in found.findings["pathfinder"])
    assert any("R-hat above 1.01" in each.text for each in found.findings["nuts"])
    with pytest.raises(ValueError, match="got other"):
        held_out_reliability(fits, rng, {"other": weights["weighted"]})


def test_figures_show_what_was_computed(rng):
    p = forecasts(rng, n_sequence=80)
    found = forecast_reliability({"true": p, "off": raised(p, 2)}, drawn(p, rng), rng)
    fig, axes = plots.figure(4, columns=2)
    plots.plot_reliability(found.curve.sel(fit="off"), ax=axes[0])
    drawn_points = np.concatenate(
        [line.get_ydata() for line in axes[0].lines if line.get_label() in ("inside", "outside")]
    )
    curve = found.curve.sel(fit="off")
    np.testing.assert_allclose(
        np.sort(drawn_points), np.sort(curve["observed"].values[curve["count"].values > 0])
    )
    heights = [bar.get_height() for bar in axes[0].patches[: curve.sizes["bin"]]]
    np.testing.assert_allclose(heights, 0.2 * curve["share"])
    plots.plot_pit(found.pit, ax=axes[1])
    np.testing.assert_allclose(
        axes[1].lines[-1].get_ydata(), found.pit["difference"].sel(fit="off")
    )
    plots.plot_by_position(found.by_position, ax=axes[2])
    assert len(axes[2].containers) == 2
    table = xr.Dataset(
        {
            "difference": (("fit", "size"), [[-1.0, -2.0], [0.1, 0.2]]),
            "difference_se": (("fit", "size"), np.full((2, 2), 0.1)),
            "unreliable": (("fit", "size"), [[False, True], [False, False]]),
        },
        {"fit": ["mode", "stacked"], "size": [8, 16]},
        attrs={"reference": "NUTS"},
    )
    plots.plot_gain(table, ax=axes[3])
    hollow = [line for line in axes[3].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata().tolist() for line in hollow] == [[-2.0], []]
    fig.canvas.draw()
    plt.close(fig)
