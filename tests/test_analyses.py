"""Prediction and diagnostics: mathematics on constructed draws, and on real fits."""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import pytest
import xarray as xr
from problems import small_problem
from scipy.special import logsumexp

from gptbayes.diagnostics.convergence import convergence
from gptbayes.diagnostics.quantities import quantities
from gptbayes.diagnostics.sampler import pareto_k, sampler_findings, sampler_health
from gptbayes.groups import IS_TREE, group
from gptbayes.inference import open_run, parameters_of, problem_of, settings_of
from gptbayes.model.forward import token_log_prob
from gptbayes.predict import (
    compare_held_out,
    held_out_log_prob,
    loo,
    n_bad_pareto_k,
    next_character,
    unigram_log_density,
)
from gptbayes.report import Analysis
from gptbayes.stats.summary import ess, log_mean_exp, r_hat, summarise


def noise(*shape, seed=1):
    values = np.random.default_rng(seed).normal(size=shape)
    return xr.DataArray(values, dims=("chain", "draw", "scalar")[: len(shape)])


# Summaries


def test_summary_of_independent_normals():
    summary = summarise(noise(4, 1000, 3), prob=0.8)
    assert (abs(summary["mean"]) < 4 * summary["mcse_mean"]).all()
    np.testing.assert_allclose(summary["mcse_mean"], 1 / np.sqrt(4000), rtol=0.2)
    np.testing.assert_allclose(summary["upper"], 1.2816, atol=0.12)
    assert (summary["r_hat"] < 1.01).all()


def test_r_hat_sees_a_chain_elsewhere_and_ess_a_slow_one():
    chains = noise(4, 500, 1)
    assert r_hat(chains + xr.DataArray([0.0, 0, 0, 3], dims="chain")).item() > 1.3
    assert ess(chains.cumsum("draw"))["ess_bulk"].item() < 50


def test_a_single_chain_has_no_r_hat_and_a_point_no_spread():
    assert np.isnan(summarise(noise(1, 100))["r_hat"])
    point = summarise(noise(1, 1))
    assert np.isfinite(point["mean"])
    assert np.isnan(point["sd"])


def test_log_mean_exp_does_not_overflow():
    values = xr.DataArray([[1000.0, 1000.0 + np.log(3)]], dims=("chain", "draw"))
    assert log_mean_exp(values).item() == pytest.approx(1000 + np.log(2))


# What comes next


def test_next_character_is_a_distribution(nuts):
    summary = next_character(nuts, "the cat")
    assert summary["mean"].sum().item() == pytest.approx(1)
    assert (summary["lower"] <= summary["mean"]).all()
    assert (summary["mean"] <= summary["upper"]).all()


def test_only_the_context_counts(nuts):
    xr.testing.assert_allclose(next_character(nuts, "xxthe c"[2:]), next_character(nuts, "the c"))
    xr.testing.assert_allclose(
        next_character(nuts, "mat, the c"), next_character(nuts, "n the c"[2:])
    )


def test_held_out_density_against_a_loop(nuts, mode):
    """elpd by hand for one sequence, and a mode's elpd is its log likelihood."""
    comparison = compare_held_out({"nuts": nuts, "mode": mode})
    log_prob = held_out_log_prob(nuts).values.reshape(-1, *problem_of(nuts).held_out.y.shape)
    by_hand = logsumexp(log_prob.sum(axis=-1), axis=0) - np.log(len(log_prob))
    np.testing.assert_allclose(comparison.pointwise.sel(fit="nuts"), by_hand)
    problem = problem_of(mode)
    plug_in = token_log_prob(problem.stage, parameters_of(mode), problem.held_out).sum()
    assert comparison.table["elpd"].sel(fit="mode").item() == pytest.approx(plug_in)
    assert comparison.table["difference"].sel(fit="nuts").item() == 0


def test_fits_of_different_texts_are_not_compared(nuts, tmp_path):
    from gptbayes import fit

    other = small_problem("05", text="a cat sat there, the cat that. " * 5)
    mode = open_run(fit.optimize(other, tmp_path / "run", starts=1))
    with pytest.raises(ValueError, match="same held-out text"):
        compare_held_out({"nuts": nuts, "mode": mode})


def test_unigram_yardstick_by_hand(nuts):
    problem = problem_of(nuts)
    counts = np.bincount(problem.training.y.ravel(), minlength=problem.design.vocab_size) + 1
    expected = np.log(counts[problem.held_out.y] / counts.sum()).mean()
    assert unigram_log_density(nuts)[0] == pytest.approx(expected)


def test_loo_leaves_out_sequences(nuts):
    result = loo(nuts)
    assert result.sizes["sequence"] == 11
    assert 0 <= n_bad_pareto_k(result) <= 11
    in_sample = log_mean_exp(nuts.log_likelihood["log_lik"].sum("position")).sum().item()
    assert result.elpd_loo < in_sample


# Diagnostics


def test_convergence_table(nuts):
    table = Analysis(nuts).convergence
    kinds = [
        "raw weights",
        "aligned weights",
        "invariants",
        "log probabilities",
        "log posterior",
    ]
    assert list(table["quantity"].values) == kinds
    assert table["n"].values.tolist() == [
        problem_of(nuts).stage.n_parameters(problem_of(nuts).design),
    ] * 2 + [27, 55, 1]
    lp = float(az.rhat(group(nuts, "sample_stats")[["lp"]])["lp"])
    assert table["r_hat_max"].sel(quantity="log posterior").item() == pytest.approx(lp)


def test_health_counts_what_the_sampler_says(nuts):
    health = sampler_health(nuts)
    assert health["divergences"].sum() == nuts.sample_stats["diverging"].sum()
    by_arviz = az.bfmi(nuts)
    by_arviz = by_arviz["energy"].values if IS_TREE else by_arviz
    np.testing.assert_allclose(health["e_bfmi"], by_arviz)


def test_truncated_trajectories_are_a_warning_where_they_are_short(nuts):
    """In units of prior sd: a quarter of the period of a normal variable is pi / 2."""

    def finding(step_size, hits=5, **settings):
        idata = nuts.copy()
        idata.attrs = {**nuts.attrs}
        idata.attrs["settings"] = json.dumps({**settings_of(nuts), **settings})
        health = sampler_health(nuts)
        health["max_treedepth_hits"] = xr.full_like(health["max_treedepth_hits"], hits)
        return sampler_findings(idata, health.assign(step_size=0 * health["e_bfmi"] + step_size))[1]

    assert finding(0.01, hits=0, max_treedepth=7).ok
    long, short = finding(0.0125, max_treedepth=7), finding(0.0123, max_treedepth=7)
    assert long.ok
    assert "10 draws at maximum tree depth of 200" in long.text
    assert "at least 1.6 prior standard deviations long" in long.text
    assert not short.ok
    assert "increase max_treedepth" in short.text
    estimated = finding(0.0125, max_treedepth=7, metric="diag_e")  # in units of its own
    assert not estimated.ok
    assert "prior" not in estimated.text


def test_pareto_k_of_exact_and_of_hopeless_approximations(runs):
    idata = open_run(runs["pathfinder"]).copy()
    rng = np.random.default_rng(1)
    lp = idata.sample_stats["lp"]
    idata.sample_stats["lp_approx"] = lp + 0.1 * rng.normal(size=lp.shape)
    k, effective = pareto_k(idata)
    assert k < 0.7
    assert effective > 100
    idata.sample_stats["lp_approx"] = lp - 3 * rng.standard_cauchy(size=lp.shape)
    assert pareto_k(idata)[0] > 0.7


def test_shaky_fits_are_called_shaky(runs, nuts, mode):
    """200 draws in all: the ESS limit of 400 is out of reach, and it says so."""
    texts = [finding.text for finding in Analysis(nuts).findings if not finding.ok]
    assert any("ESS below 400" in text for text in texts)
    assert "without uncertainty" in Analysis(mode).findings[0].text
    assert any("Pareto k" in f.text for f in Analysis(open_run(runs["pathfinder"])).findings)
    one = nuts.isel(chain=[0])
    one.attrs = nuts.attrs
    assert any("one chain" in finding.text for finding in Analysis(one).findings)
    with pytest.raises(ValueError, match="at least two chains, got 1"):
        convergence(quantities(one))
