"""Simulation-based calibration: the tests of ranks, the texts, and a small real run."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from scipy.special import softmax
from scipy.stats import binom

from gptbayes import plots
from gptbayes.groups import IS_TREE
from gptbayes.model.forward import forward
from gptbayes.model.simulate import generate_windows, prior_draws
from gptbayes.stats.uniformity import holm, rank_ecdf, uniformity_test
from gptbayes.validate.experiment import METHODS, Experiment, change_program, toy_problem
from gptbayes.validate.simulated_ranks import calibrate


def as_ranks(values):
    dims = ("replicate", "quantity")
    return xr.DataArray(values, dims=dims, coords={"quantity": np.arange(values.shape[1])})


def conjugate_ranks(rng, replicates, *, narrower=1.0, shift=0.0, n_ranked=31):
    """mu ~ normal(0, 1), five y ~ normal(mu, 1): the posterior is normal(sum / 6, 1 / sqrt 6)."""
    mu = rng.normal(size=replicates)
    total = rng.normal(mu, size=(5, replicates)).sum(axis=0)
    sd = 1 / np.sqrt(6)
    draws = rng.normal(total / 6 + shift * sd, narrower * sd, size=(n_ranked, replicates))
    return as_ranks((draws < mu).sum(axis=0)[:, None])


# Tests of uniformity


def test_ranks_of_an_exact_posterior_are_uniform(rng):
    tested = uniformity_test(conjugate_ranks(rng, 600), 31)
    assert tested["band_p"] > 0.01
    assert tested["chi_square_p"] > 0.01
    assert abs(tested["mean_rank"] - 0.5) < 4 / np.sqrt(12 * 600)


@pytest.mark.parametrize("wrong", [{"narrower": 0.5}, {"narrower": 2.0}, {"shift": 0.7}])
def test_ranks_of_a_wrong_posterior_are_not(rng, wrong):
    tested = uniformity_test(conjugate_ranks(rng, 120, **wrong), 31)
    assert tested["band_p"] < 1e-4
    assert tested["chi_square_p"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [12, 64])
def test_p_values_keep_their_error_rate(rng, replicates):
    """Of 4000 uniform sets of ranks, a share of at most alpha is below alpha."""
    n = 4000
    tested = uniformity_test(as_ranks(rng.integers(32, size=(replicates, n))), 31)
    for alpha in (0.01, 0.05, 0.2):
        se = np.sqrt(alpha * (1 - alpha) / n)
        share = float((tested["band_p"] <= alpha).mean())
        assert share < alpha + 4 * se
        assert share > alpha / 2 - 4 * se  # a discrete statistic: not far below either
    if replicates == 64:
        assert abs(float((tested["chi_square_p"] < 0.05).mean()) - 0.05) < 0.02


def test_the_exact_p_value_is_that_of_simulation(rng):
    """The statistic of the paper, its null distribution by simulation, three observed ranks."""
    from scipy.stats import binom

    n, n_ranked = 40, 15
    cdf = np.arange(1, 16) / 16

    def statistic(ranks):  # (n, many)
        at = (ranks[None] <= np.arange(15)[:, None, None]).sum(axis=1).T  # (many, rank)
        return np.minimum(binom.cdf(at, n, cdf), binom.sf(at - 1, n, cdf)).min(axis=1)

    null = statistic(rng.integers(16, size=(n, 20_000)))
    observed = rng.integers(16, size=(n, 3))
    observed[:6, 0], observed[:12, 1] = 0, 15
    simulated = (null <= statistic(observed)[:, None] * (1 + 1e-9)).mean(axis=1)
    exact = uniformity_test(as_ranks(observed), n_ranked)["band_p"].values
    assert (abs(exact - simulated) < 4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4).all()


def test_band_and_p_value_agree(rng):
    """ArviZ's band and the exact p-value agree about what is outside at 95 %."""
    ranks = as_ranks(rng.integers(32, size=(100, 300)))
    ranks[:40, :100] = rng.integers(20, size=(40, 100))  # some that are not uniform
    drawn = rank_ecdf(ranks, 31, prob=0.95)
    margin = 1e-12
    above = drawn["difference"] > drawn["upper"] + margin
    below = drawn["difference"] < drawn["lower"] - margin
    outside = (above | below).any("rank")
    rejected = uniformity_test(ranks, 31)["band_p"] < 0.05
    assert 20 < rejected.sum() < 280
    assert (outside == rejected).mean() > 0.99


def test_holm_by_hand():
    adjusted = holm([[0.01, 0.04], [np.nan, 0.03]])
    np.testing.assert_allclose(adjusted, [[0.03, 0.06], [np.nan, 0.06]])


def test_lines_that_leave_the_band_are_named(rng):
    ranks = as_ranks(rng.integers(32, size=(100, 2)))
    ranks[:, 1] //= 2
    fig, (ax,) = plots.figure()
    assert plots.plot_rank_ecdf(rank_ecdf(ranks, 31), ax=ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1"]
    fig.canvas.draw()
    plt.close(fig)


# Texts


@pytest.mark.parametrize("number", ["01", "05", "12"])
def test_texts_have_the_frequencies_of_the_weights(rng, number):
    """Of many sequences, first and last characters against probabilities by the forward pass.

    The last character's distribution sums over all contexts: 3 characters, 3 positions.
    """
    problem = toy_problem(number, vocab_size=3, block_size=3, batch_size=40_000, n_embed=4)
    weights = {name: draw[0] for name, draw in prior_draws(problem, 1, rng).items()}
    x, y = generate_windows(problem, weights, rng)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    contexts = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    chances = softmax(forward(problem.stage, weights, contexts).logits, axis=-1)  # (27, 3, 3)
    first, second = (
        np.take_along_axis(chances[:, t], contexts[:, t + 1, None], axis=1)[:, 0] for t in (0, 1)
    )
    of_context = first * second / 3
    np.testing.assert_allclose(of_context.sum(), 1)
    counted = np.array(
        [[((x == c).all(axis=1) & (y[:, 2] == v)).sum() for v in range(3)] for c in contexts]
    ) / len(x)
    exact = of_context[:, None] * chances[:, 2]
    se = np.sqrt(exact * (1 - exact) / len(x))
    assert (abs(counted - exact) < 5 * se + 1e-4).all()


# Runs


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


SHORT = {"n_ranked": 15, "iter_warmup": 150, "iter_sampling": 100, "init": "random"}


def test_calibration_passes_and_resumes(tmp_path, programs, pool):
    experiment = Experiment(toy_problem("02"), **SHORT)
    events = []
    run = {"replicates": 24, "seed": 5, "executor": pool}
    collected = calibrate(experiment, tmp_path, on_progress=events.append, **run)
    assert events[-1][0].done == events[-1][0].total == 24
    tested = uniformity_test(collected["rank"], collected.attrs["n_ranked"])
    p_values = np.stack([tested["band_p"], tested["chi_square_p"]])
    assert np.nanmin(holm(p_values)) > 0.01
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("replicate-*.json")}
    assert len(files) == 24
    lost = tmp_path / "replicate-0007.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    again = calibrate(experiment, tmp_path, **run)
    after = json.loads(lost.read_text())
    assert {**before, "seconds": 0} == {**after, "seconds": 0}
    xr.testing.assert_equal(again["rank"], collected["rank"])
    others = {path: time for path, time in files.items() if path != lost}
    assert {path: path.stat().st_mtime_ns for path in others} == others
    with pytest.raises(ValueError, match=r"another experiment: seed is 5 there, 6 here"):
        calibrate(experiment, tmp_path, replicates=24, seed=6)
    lost.write_text('{"rank": ')
    with pytest.raises(ValueError, match=r"replicate-0007.json is corrupted"):
        calibrate(experiment, tmp_path, **run)


@pytest.mark.slow
def test_hmc_and_sequential_monte_carlo_are_calibrated_as_nuts_is(tmp_path, programs, pool):
    """The same parameters and texts for all; and not with a wrong scale."""
    truth = toy_problem("05")
    told = truth.priors.replace(lm_head=2 * truth.priors.lm_head)
    run = {"replicates": 48, "seed": 8, "executor": pool}
    for method in METHODS:
        experiment = Experiment(truth, method=method, **SHORT)
        collected = calibrate(experiment, tmp_path / method, **run)
        tested = uniformity_test(collected["rank"], 15)
        p_values = np.stack([tested["band_p"], tested["chi_square_p"]])
        assert np.nanmin(holm(p_values)) > 0.01
    for method in ("hmc", "smc"):
        wrong = Experiment(truth, replace(truth, priors=told), method=method, **SHORT)
        collected = calibrate(wrong, tmp_path / f"wrong-{method}", **{**run, "replicates": 16})
        assert holm(uniformity_test(collected["rank"], 15)["band_p"]).min() < 1e-4


def test_a_wrong_prior_scale_is_detected(tmp_path, programs, pool):
    truth = toy_problem("02")
    told = truth.priors.replace(lm_head=2 * truth.priors.lm_head)
    experiment = Experiment(truth, replace(truth, priors=told), **SHORT)
    collected = calibrate(experiment, tmp_path, replicates=16, seed=5, executor=pool)
    assert holm(uniformity_test(collected["rank"], 15)["band_p"]).min() < 1e-4


def test_changed_program_replaces_the_original(tmp_path):
    right = toy_problem("04").stage
    wrong = change_program(
        right, tmp_path / "stan", "functions/attention.stanfunctions", " / sqrt(cols(q))", ""
    )
    assert wrong.program.parent == tmp_path / "stan"
    brick = "functions/attention.stanfunctions"
    there, here = ((s.program.parent / brick).read_text() for s in (right, wrong))
    assert here == there.replace(" / sqrt(cols(q))", "")
    with pytest.raises(ValueError, match=r"exactly once, got .* 0 times"):
        change_program(right, tmp_path / "other", brick, "no such line", "")


# Bad input


def test_unusable_settings(tmp_path):
    truth = toy_problem("02")
    with pytest.raises(ValueError, match="n_ranked must be at least 1"):
        Experiment(truth, n_ranked=0)
    with pytest.raises(ValueError, match="method must be one of nuts, hmc, smc, got 'pathfinder'"):
        Experiment(truth, method="pathfinder")
    with pytest.raises(ValueError, match="iter_sampling must be at least n_ranked = 31, got 30"):
        Experiment(truth, iter_sampling=30)
    with pytest.raises(ValueError, match="fitted must have the stage and the sizes of truth"):
        Experiment(truth, toy_problem("03"))
    with pytest.raises(ValueError, match="replicates must be a positive integer, got 0"):
        calibrate(Experiment(truth), tmp_path, replicates=0)
    with pytest.raises(ValueError, match="vocab_size must be from 2 to 26, got 1"):
        toy_problem("02", vocab_size=1)
    with pytest.raises(ValueError, match="ranks must be from 0 to n_ranked = 31, got 0 to 32"):
        uniformity_test(as_ranks(np.array([[0], [32]])), 31)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(IS_TREE, reason="ArviZ 1 has simulated bands only: see the next test")
def test_the_band_is_that_of_arviz():
    """Where ArviZ's counts survive being divided and multiplied by their number, and truncated."""
    from arviz.stats.ecdf_utils import ecdf_confidence_band

    compared = 0
    for n in [*range(2, 60, 3), 100, 128]:
        counts = np.arange(n + 1)
        if ((counts / n * n).astype(int) != counts).any():
            continue
        compared += 1
        for n_ranked, prob in ((7, 0.5), (15, 0.95), (31, 0.99)):
            cdf = np.arange(1, n_ranked + 1) / (n_ranked + 1)
            expected = ecdf_confidence_band(n, np.arange(n_ranked), cdf, prob=prob)
            found = rank_ecdf(as_ranks(np.zeros((n, 1), dtype=int)), n_ranked, prob=prob)
            np.testing.assert_allclose(found["lower"] + cdf, expected[0], atol=1e-12)
            np.testing.assert_allclose(found["upper"] + cdf, expected[1], atol=1e-12)
    assert compared > 10


@pytest.mark.skipif(not IS_TREE, reason="ArviZ 0.2x has exact bands: see the test before")
@pytest.mark.parametrize(("n", "prob"), [(17, 0.5), (32, 0.95), (64, 0.9)])
def test_the_band_is_that_of_arvizs_simulations(n, prob, rng):
    """ArviZ 1 evaluates the ECDF of n values at the multiples of 1/n, and simulates its band."""
    from arviz_stats.ecdf_utils import ecdf_pit

    cdf, _, *expected = ecdf_pit(rng.uniform(size=n), prob, n_simulations=10_000, rng=rng)
    found = rank_ecdf(as_ranks(np.zeros((n, 1), dtype=int)), n - 1, prob=prob)
    pointwise = binom.interval(prob, n, cdf[1:-1]) / np.array(n)
    for side, limit, narrow in zip(("lower", "upper"), expected, pointwise, strict=True):
        ours = (found[side] + cdf[1:-1]).values
        assert n * np.abs(ours - limit[1:-1]).max() < 1.5  # one replicate: theirs is simulated
        assert n * np.abs(ours - limit[1:-1]).mean() < 0.4
        assert n * np.abs(ours - narrow).mean() > 1
