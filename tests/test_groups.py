"""Whichever ArviZ is installed: the same groups, files and numbers, and ArviZ's own beside ours."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import xarray as xr
from scipy.special import softmax
from scipy.stats import binom

from gptbayes.groups import (
    group,
    group_names,
    load_groups,
    make_groups,
    pareto_smoothed,
    power_scaling,
    save_groups,
    select,
)
from gptbayes.predict.leave_one_out import compare_loo, psis_loo
from gptbayes.stats.summary import ess
from gptbayes.stats.uniformity import rank_ecdf


@pytest.fixture
def fit(rng):
    """Groups with chains of 200 draws, and one without draws."""
    dims = ("chain", "draw", "unit")
    mean = rng.normal(size=(3, 200, 1))
    log_lik = -0.5 * (rng.normal(size=7) - mean) ** 2
    return make_groups(
        {
            "posterior": xr.Dataset(
                {"mu": (dims[:2], mean[..., 0])}, {"chain": range(3), "draw": range(200)}
            ),
            "log_likelihood": xr.Dataset({"log_lik": (dims, log_lik)}),
            "observed_data": xr.Dataset({"character": ("token", np.array(["a", "\n"], object))}),
        },
        {"stage": "05", "seed": 7},
    )


def test_a_file_has_what_was_saved(fit, tmp_path):
    save_groups(fit, tmp_path / "fit.nc")
    again = load_groups(tmp_path / "fit.nc")
    assert again.attrs == {"stage": "05", "seed": 7}
    assert sorted(group_names(again)) == ["log_likelihood", "observed_data", "posterior"]
    for name in group_names(again):
        xr.testing.assert_identical(group(again, name), group(fit, name))
    (tmp_path / "fit.nc").write_bytes(b"")  # nobody holds it open
    assert again.posterior["mu"].shape == (3, 200)


def test_some_chains_of_some_groups(fit):
    some = select(fit, ["posterior", "observed_data"], chain=[2, 0], draw=slice(0, None, 50))
    assert group_names(some) == ["posterior", "observed_data"]
    assert some.attrs["stage"] == "05"
    np.testing.assert_array_equal(
        group(some, "posterior")["mu"], group(fit, "posterior")["mu"][[2, 0], ::50]
    )
    assert group(some, "observed_data").sizes == {"token": 2}
    assert len(group_names(select(fit, chain=[1]))) == 3


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
def test_loo_is_arvizs(fit):
    log_lik = group(fit, "log_likelihood")["log_lik"]
    ours, theirs = psis_loo(log_lik), az.loo(fit, pointwise=True, reff=_efficiency(log_lik))
    values = theirs.loo_i if hasattr(theirs, "loo_i") else theirs.elpd_i
    np.testing.assert_allclose(ours["loo_i"], values, rtol=1e-10)
    np.testing.assert_allclose(ours["pareto_k"], theirs.pareto_k, rtol=1e-8)
    elpd, p = (getattr(theirs, n, None) or getattr(theirs, f"{n}_loo") for n in ("elpd", "p"))
    assert float(ours["elpd_loo"]) == pytest.approx(float(elpd), rel=1e-12)
    assert float(ours["p_loo"]) == pytest.approx(float(p), rel=1e-8)
    assert float(ours["se"]) == pytest.approx(float(values.std() * 7**0.5), rel=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside ArviZ 0.2x
def test_stacking_is_arvizs(fit, rng):
    """Three fits of the same seven observations, of which one is worse than the others."""
    fits = {}
    for name, shift in (("near", 0.1), ("wide", 0.4), ("wrong", 4.0)):
        groups = {each: group(fit, each) for each in ("posterior", "log_likelihood")}
        log_lik = groups["log_likelihood"]["log_lik"]
        groups["log_likelihood"] = (log_lik - shift * rng.random(7)).to_dataset(name="log_lik")
        fits[name] = make_groups(groups)
    loos = {n: psis_loo(group(each, "log_likelihood")["log_lik"]) for n, each in fits.items()}
    ours, theirs = compare_loo(loos), az.compare(fits, method="stacking")
    assert list(ours["fit"].values) == list(theirs.index)
    assert float(ours["weight"].sum()) == pytest.approx(1)
    np.testing.assert_allclose(ours["weight"], theirs["weight"].astype(float), atol=0.02)
    # ArviZ 1 rounds what it shows.
    np.testing.assert_allclose(abs(ours["difference"]), abs(theirs["elpd_diff"]), rtol=0.05)
    np.testing.assert_allclose(ours["difference_se"], theirs["dse"], rtol=0.05)


def test_smoothed_weights_keep_the_order_of_ratios(rng):
    ratios = 1.5 * rng.standard_t(4, size=1000)
    log_weights, k = pareto_smoothed(ratios)
    assert np.exp(log_weights).sum() == pytest.approx(1)
    np.testing.assert_array_equal(np.argsort(log_weights), np.argsort(ratios))
    assert pareto_smoothed(ratios + 700)[1] == pytest.approx(k)
    assert pareto_smoothed(0.01 * ratios)[1] < k


@pytest.mark.parametrize("n_largest", [500, 200])
def test_ratios_without_a_tail_have_no_finite_k(n_largest, rng):
    """All of them, or all of the largest, are the same: nothing to fit, and no k to trust."""
    ratios = np.where(np.arange(500) < n_largest, 1.0, -rng.random(500))
    log_weights, k = pareto_smoothed(ratios)
    assert k == np.inf
    np.testing.assert_allclose(np.exp(log_weights), softmax(ratios))


def test_k_of_repeated_draws_is_a_number(rng):
    """A chain that stands still repeats its ratios; a comparison with nan would warn of nothing."""
    ratios = np.repeat(2 * rng.standard_t(3, size=25), 40)
    assert not np.isnan(pareto_smoothed(ratios)[1])


@pytest.mark.parametrize("component", ["prior", "likelihood"])
def test_power_scaling_finds_what_depends_on_the_component(component, rng):
    """A normal component that is the whole posterior, and a quantity that knows nothing of it."""
    moved, still = rng.normal(size=(2, 4, 1000))
    dims = ("chain", "draw")
    values = xr.Dataset({"moved": (dims, moved), "still": (dims, still)})
    found = power_scaling(values, xr.DataArray(-0.5 * (moved - 2) ** 2, dims=dims), component, 0.01)
    assert float(found["moved"]) > 0.2 > 0.1 > float(found["still"])


@pytest.mark.parametrize(("n", "n_ranked", "prob"), [(50, 99, 0.95), (120, 15, 0.8), (3, 2, 0.5)])
def test_the_band_of_ranks_holds_as_often_as_it_says(n, n_ranked, prob, rng):
    """Uniform ranks stay inside with at least the probability; a narrower band would not do."""
    ranks = rng.integers(n_ranked + 1, size=(n, 4000))
    drawn = rank_ecdf(
        xr.DataArray(ranks, dims=("replicate", "quantity")).assign_coords(quantity=np.arange(4000)),
        n_ranked,
        prob=prob,
    )
    inside = (drawn["difference"] <= drawn["upper"] + 1e-12) & (
        drawn["difference"] >= drawn["lower"] - 1e-12
    )
    kept = float(inside.all("rank").mean())
    step = 0.5 if n < 10 else 0.02  # counts are whole numbers
    assert prob - 4 * (prob * (1 - prob) / 4000) ** 0.5 < kept < prob + step
    assert (binom.ppf(0.5, n, drawn["rank"]) / n - drawn["rank"] <= drawn["upper"]).all()


def _efficiency(log_lik):
    return min(1.0, float(ess(log_lik, ("bulk",))["ess_bulk"].mean()) / log_lik[..., 0].size)


def test_power_scaling_of_a_component_without_a_tail(rng):
    """One that is constant moves nothing; nothing can be said where the largest are the same."""
    dims = ("chain", "draw")
    noise, constant = rng.normal(size=(2, 100)), np.ones((2, 100))
    values = xr.Dataset({"noise": (dims, noise), "constant": (dims, constant)})
    often = np.where(np.arange(200).reshape(2, 100) % 3, -1.0, 0.0)
    found = {
        name: power_scaling(values, xr.DataArray(density, dims=dims), "likelihood", 0.01)
        for name, density in {"constant": constant, "often the same": often}.items()
    }
    assert all(np.isnan(each["constant"]) for each in found.values())
    assert float(found["constant"]["noise"]) == pytest.approx(0, abs=1e-5)
    assert not found["often the same"]["noise"] > 0.5
