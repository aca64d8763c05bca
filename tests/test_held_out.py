"""Weighted draws, and what they predict of held-out text."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.special import logsumexp, softmax
from scipy.stats import norm

from gptbayes.diagnostics.sampler import pareto_k
from gptbayes.groups import group, group_names, make_groups, pareto_smoothed, select
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import forward
from gptbayes.predict import (
    chain_weights,
    compare_held_out,
    effective_draws,
    held_out_log_prob,
    held_out_predictive,
    psis_weights,
    stack_chains,
)


def approximated(x, target_sd, proposal_sd):
    """Draws of a scalar as a Pathfinder fit has them, with their log densities."""
    lp = {"lp": norm.logpdf(x, 0, target_sd), "lp_approx": norm.logpdf(x, 0, proposal_sd)}
    groups = {"posterior": {"x": x}, "sample_stats": lp}
    return make_groups(
        {
            name: xr.Dataset({n: (("chain", "draw"), v[None]) for n, v in each.items()})
            for name, each in groups.items()
        },
        {"method": "pathfinder"},
    )


def mild(pathfinder, rng):
    """A real fit whose importance ratios vary a little."""
    groups = {name: group(pathfinder, name) for name in group_names(pathfinder)}
    lp = pathfinder.sample_stats["lp"]
    ratios = {"lp_approx": lp + 0.7 * rng.normal(size=lp.shape)}
    groups["sample_stats"] = groups["sample_stats"].assign(ratios)
    return make_groups(groups, pathfinder.attrs)


# Weights


def test_importance_weights_correct_an_approximation_that_is_too_wide(rng):
    """Second moments under the weights are the target's, within four Monte Carlo errors."""
    x = rng.normal(0, 1.5, size=4000)
    weights = psis_weights(approximated(x, 1.0, 1.5))
    assert float(weights.sum()) == pytest.approx(1)
    assert weights.attrs["pareto_k"] < 0.5
    assert weights.attrs["ess_weights"] == effective_draws(weights) > 2000
    w = weights.values[0]
    for power, moment in ((1, 0.0), (2, 1.0), (4, 3.0)):
        estimate = (w * x**power).sum()
        error = np.sqrt((w**2 * (x**power - estimate) ** 2).sum())
        assert abs(estimate - moment) < 4 * error
    assert (x**2).mean() > 2  # what the draws themselves would say


def test_an_approximation_too_narrow_is_seen_in_k(rng):
    """Ratios of a normal to one of half its sd, exp(3 x² / 2), have k = 3 / 4 exactly."""
    narrow = psis_weights(approximated(rng.normal(0, 0.5, size=4000), 1.0, 0.5))
    assert 0.5 < narrow.attrs["pareto_k"] < 1
    exact = psis_weights(approximated(rng.normal(size=500), 1.0, 1.0))
    np.testing.assert_allclose(exact, 1 / 500)
    assert exact.attrs["ess_weights"] == pytest.approx(500)


def test_diagnosis_and_weights_agree(pathfinder):
    found = psis_weights(pathfinder)
    assert pareto_k(pathfinder) == (found.attrs["pareto_k"], found.attrs["ess_weights"])
    assert found.dims == ("chain", "draw") and found.shape == (1, 120)
    ratios = (pathfinder.sample_stats["lp"] - pathfinder.sample_stats["lp_approx"]).values.ravel()
    smoothed, k = pareto_smoothed(ratios)
    np.testing.assert_allclose(found.values[0], softmax(smoothed), rtol=1e-12)
    assert found.attrs["pareto_k"] == float(k)


def test_weights_of_chains_are_shared_by_their_draws(nuts):
    weights = chain_weights(nuts, [0.25, 0.75])
    np.testing.assert_allclose(weights.sum("draw"), [0.25, 0.75])
    assert float(weights.std("draw").max()) < 1e-15
    assert weights.attrs["ess_weights"] == pytest.approx(100 / (0.25**2 + 0.75**2))


def test_weights_that_are_none_are_refused(nuts, pathfinder):
    hole = pathfinder.copy()
    lp = hole.sample_stats["lp_approx"]
    hole.sample_stats["lp_approx"] = lp.where(lp["draw"] > 1)
    hole.attrs = pathfinder.attrs
    equal = chain_weights(nuts, [0.5, 0.5])
    refused = [
        (lambda: psis_weights(nuts), "needs a fit by pathfinder, got one by nuts"),
        (lambda: psis_weights(hole), "must be finite, got 2 nonfinite"),
        (lambda: chain_weights(nuts, [1.0]), r"each of 2 chains, got shape \(1,\)"),
        (lambda: chain_weights(nuts, [1.5, -0.5]), "minimum -0.005"),
        (lambda: chain_weights(nuts, [0.5, 0.6]), "got sum 1.1"),
        (lambda: compare_held_out({"a": nuts}, {"b": equal}), "for fits a, got b"),
        (lambda: compare_held_out({"a": pathfinder}, {"a": equal}), "of a must have sizes"),
        (lambda: held_out_predictive(nuts, 2 * equal), "got sum 2"),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words):
            call()


# Held-out density of weighted draws


def test_equal_weights_change_nothing(nuts, pathfinder):
    fits = {"nuts": nuts, "pathfinder": pathfinder}
    plain = compare_held_out(fits).table
    assert "pareto_k" not in plain and "ess_weights" not in plain
    equal = xr.full_like(pathfinder.sample_stats["lp"], 1 / 120)
    weighted = compare_held_out(fits, {"pathfinder": equal}).table
    xr.testing.assert_identical(weighted.sel(fit="nuts")[list(plain)], plain.sel(fit="nuts"))
    for name in plain:
        assert float(weighted[name][1]) == pytest.approx(float(plain[name][1]), rel=1e-10)
    assert weighted["ess_weights"].values == pytest.approx([200, 120])
    assert np.isnan(weighted["pareto_k"]).all()


def test_weighted_density_and_its_error_by_hand(pathfinder, rng):
    near = mild(pathfinder, rng)
    weights = psis_weights(near)
    assert weights.attrs["pareto_k"] < 0.7
    found = compare_held_out({"plain": near, "psis": near}, {"psis": weights})
    density = held_out_log_prob(near).sum("position").values[0]
    w = weights.values[0][:, None]
    terms = logsumexp(density, b=w, axis=0)
    np.testing.assert_allclose(found.pointwise.sel(fit="psis"), terms, rtol=1e-12)
    row = found.table.sel(fit="psis")
    assert float(row["elpd"]) == pytest.approx(terms.sum())
    plain = logsumexp(density, axis=0) - np.log(120)
    error = (terms - plain).std(ddof=1) * np.sqrt(len(terms))
    assert float(row["difference_se"]) == pytest.approx(error)
    assert float(row["pareto_k"]) == weights.attrs["pareto_k"]
    # draws are independent: Owen's formula, up to the estimate of their effective number
    r = np.exp(density - terms).sum(axis=1, keepdims=True)
    by_formula = np.sqrt((w**2 * (r - (w * r).sum()) ** 2).sum())
    assert float(row["mcse"]) == pytest.approx(by_formula, rel=0.3)


def test_one_chain_with_all_the_weight_is_that_chain(nuts):
    alone = select(nuts, ["posterior", "sample_stats"], chain=[1])
    alone.attrs = nuts.attrs
    whole = compare_held_out({"it": nuts}, {"it": chain_weights(nuts, [0, 1])})
    part = compare_held_out({"it": alone})
    for name in part.table:
        assert float(whole.table[name][0]) == pytest.approx(
            float(part.table[name][0]), rel=1e-9, nan_ok=True
        )
    np.testing.assert_allclose(whole.pointwise, part.pointwise, rtol=1e-12)


def test_stacked_chains_are_what_stacking_says(nuts):
    stack = stack_chains(nuts)
    weights = chain_weights(nuts, stack.chains["weight"])
    table = compare_held_out({"nuts": nuts, "stacked": nuts}, {"stacked": weights}).table
    said = stack.held_out.sel(mixture="stacked")
    for name in ("elpd", "se", "difference", "difference_se"):
        assert float(table[name].sel(fit="stacked")) == pytest.approx(float(said[name]), rel=1e-8)


def test_degenerate_weights_have_no_error_and_say_why(pathfinder):
    weights = psis_weights(pathfinder)
    assert weights.attrs["pareto_k"] > 0.7
    row = compare_held_out({"it": pathfinder}, {"it": weights}).table.isel(fit=0)
    assert np.isnan(row["mcse"])
    assert float(row["pareto_k"]) > 0.7
    assert float(row["ess_weights"]) < 20


# Predictive distributions


def test_predictive_is_the_weighted_mean_over_draws(nuts):
    problem = problem_of(nuts)
    p = softmax(forward(problem.stage, parameters_of(nuts), problem.held_out.x).logits, axis=-1)
    found = held_out_predictive(nuts)
    assert found.dims == ("held_out_sequence", "position", "token")
    assert "".join(found["token"].values) == "".join(problem.vocabulary.characters)
    np.testing.assert_allclose(found, p.mean(axis=(0, 1)), rtol=1e-11)
    weights = chain_weights(nuts, [0.2, 0.8])
    by_hand = 0.2 * p[0].mean(axis=0) + 0.8 * p[1].mean(axis=0)
    np.testing.assert_allclose(held_out_predictive(nuts, weights), by_hand, rtol=1e-11)


def test_chunks_of_draws_change_nothing(nuts):
    whole, tiny = held_out_predictive(nuts), held_out_predictive(nuts, max_bytes=100_000)
    xr.testing.assert_allclose(whole, tiny, rtol=1e-12)
