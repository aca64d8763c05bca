"""R-hat, ESS and MCSE of many scalars against ArviZ's, one scalar at a time."""

from __future__ import annotations

import logging

import arviz as az
import numpy as np
import pytest
import xarray as xr

from gptbayes.stats import blocks, mcmc, ranks
from gptbayes.stats.summary import ess, mcse_mean, r_hat, summarise

BY_ARVIZ = {
    "r_hat": lambda x: az.rhat(x),
    "ess_bulk": lambda x: az.ess(x),
    "ess_tail": lambda x: az.ess(x, method="tail", prob=(0.05, 0.95)),  # ArviZ 1 has others
    "ess_mean": lambda x: az.ess(x, method="mean"),
    "mcse_mean": lambda x: az.mcse(x),
}
SIZES = [(1, 4), (1, 37), (2, 5), (2, 11), (3, 4), (3, 53), (4, 100), (5, 7), (6, 31), (9, 17)]
N = 5


def correlated(phi):
    def draws(rng, shape):
        x = rng.normal(size=shape)
        for t in range(1, shape[1]):
            x[:, t] += phi * x[:, t - 1]
        return x

    return draws


def with_infinite(rng, shape):
    return np.where(rng.random(shape) < 0.3, np.inf, rng.normal(size=shape))


def with_missing(rng, shape):
    x = rng.normal(size=shape)
    x[0, 1, ::2] = np.nan
    return x


def one_chain_stuck(rng, shape):
    x = correlated(0.5)(rng, shape)
    x[0] = rng.normal(size=shape[2])
    return x


KINDS = {
    "independent": lambda rng, shape: rng.normal(size=shape),
    "slow": correlated(0.95),
    "antithetic": correlated(-0.9),
    "heavy tails": lambda rng, shape: rng.standard_cauchy(shape),
    "integers": lambda rng, shape: rng.integers(0, 4, shape),
    "events": lambda rng, shape: rng.random(shape) < 0.2,
    "signs": lambda rng, shape: rng.integers(0, 2, shape) * 2.0 - 1,
    "rounded": lambda rng, shape: abs(rng.normal(size=shape)).round(1),
    "one chain stuck": one_chain_stuck,
    "all chains stuck": lambda rng, shape: rng.normal(size=(shape[0], 1, shape[2])).repeat(
        shape[1], 1
    ),
    "constant": lambda rng, shape: np.full(shape, 1 / 3),
    "tiny": lambda rng, shape: 1e-16 * rng.normal(size=shape),
    "far from zero": lambda rng, shape: 1e8 + rng.normal(size=shape),
    "nearly tied": lambda rng, shape: 1 + 2.0**-50 * rng.integers(0, 40, shape),
    "alternating": lambda rng, shape: np.zeros(shape) + (-1.0) ** np.arange(shape[1])[:, None],
    "period of four": lambda rng, shape: (
        np.zeros(shape) + np.cos(np.pi / 2 * np.arange(shape[1])).round()[:, None]
    ),
    "infinite": with_infinite,
    "missing": with_missing,
}


@pytest.fixture(autouse=True)
def quiet():
    """ArviZ logs what has no diagnostic."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_arviz(kind, size, rng):
    for _ in range(4):
        draws = KINDS[kind](rng, (*size, N))
        found = mcmc.statistics(draws, list(BY_ARVIZ))
        for name, diagnostic in BY_ARVIZ.items():
            with np.errstate(all="ignore"):
                expected = [diagnostic(draws[..., i]) for i in range(N)]
            np.testing.assert_allclose(found[name], expected, rtol=1e-10, err_msg=name)


def test_blocks_threads_and_choice_change_nothing(rng, monkeypatch):
    draws = rng.normal(size=(3, 17, 5, 7))
    names = list(mcmc.STATISTICS)
    whole = mcmc.statistics(draws, names, quantiles={"q": 0.1})
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 3 * 17 * 2)
    where = rng.random((5, 7)) < 0.5
    parts = mcmc.statistics(draws, names, quantiles={"q": 0.1})
    some = mcmc.statistics(draws, names, quantiles={"q": 0.1}, where=where)
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)
        np.testing.assert_array_equal(some[name], np.where(where, values, np.nan))
    assert mcmc.r_hat(draws[..., :0]).shape == (5, 0)
    np.testing.assert_array_equal(mcmc.ess(draws, "tail"), whole["ess_tail"])
    np.testing.assert_array_equal(mcmc.mcse_mean(draws[..., 2, 3]), whole["mcse_mean"][2, 3])


def test_fewer_than_four_draws_have_no_diagnostics(rng):
    found = mcmc.statistics(rng.normal(size=(2, 3, 4)), list(BY_ARVIZ))
    assert all(np.isnan(values).all() for values in found.values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_moments_and_quantiles_pass_over_nan(rng):
    draws = rng.normal(size=(3, 11, 5))
    draws[1, 3, 2] = draws[:, :, 4] = np.nan
    found = mcmc.statistics(draws, ["mean", "sd"], quantiles={"low": 0.05, "middle": 0.5})
    np.testing.assert_allclose(found["mean"], np.nanmean(draws, axis=(0, 1)))
    np.testing.assert_allclose(found["sd"], np.nanstd(draws, axis=(0, 1)))
    for name, p in (("low", 0.05), ("middle", 0.5)):
        np.testing.assert_allclose(found[name], np.nanquantile(draws, p, axis=(0, 1)))


def test_unknown_statistics_are_refused(rng):
    draws = rng.normal(size=(2, 5))
    with pytest.raises(ValueError, match=r"statistics are mean, .* got median"):
        mcmc.statistics(draws, ["median"])
    with pytest.raises(ValueError, match="bulk, tail, mean, got 'head'"):
        mcmc.ess(draws, "head")
    with pytest.raises(ValueError, match=r"\(chain, draw, ...\), got shape \(5,\)"):
        mcmc.r_hat(draws[0])


def test_orders_of_awkward_rows(rng):
    rows = rng.normal(size=(6, 101))
    rows[1] = rng.integers(3, size=101)
    rows[2, ::7] = np.nan
    rows[3, ::5], rows[3, ::7] = -np.inf, np.inf
    rows[4] = 1 + 2.0**-52 * rng.permutation(101)  # differ in the bits that make room
    rows[5] = np.where(rng.random(101) < 0.5, 0.0, -0.0)
    order = ranks.argsort(rows)
    np.testing.assert_array_equal(np.sort(order), np.broadcast_to(np.arange(101), rows.shape))
    np.testing.assert_array_equal(ranks.take(rows, order), np.sort(rows))
    np.testing.assert_array_equal(ranks.put_back(ranks.take(rows, order), order), rows)


def test_summaries_of_arrays_are_those_of_arviz(rng):
    draws = xr.DataArray(
        rng.normal(size=(5, 2, 31, 3)),
        dims=("b", "chain", "draw", "a"),
        coords={"b": list("vwxyz"), "chain": [0, 1]},
    )
    found = summarise(draws, prob=0.8)
    dataset = draws.rename("x").to_dataset()
    over = ("chain", "draw")
    expected = {
        "mean": draws.mean(over),
        "sd": draws.std(over),
        "lower": draws.quantile(0.1, over).drop_vars("quantile"),
        "upper": draws.quantile(0.9, over).drop_vars("quantile"),
        "mcse_mean": draws.std(over) / np.sqrt(az.ess(dataset, method="mean")["x"]),
        "ess_bulk": az.ess(dataset)["x"],
        "r_hat": az.rhat(dataset)["x"],
    }
    for name, values in expected.items():
        xr.testing.assert_allclose(found[name], values, rtol=1e-10)
    xr.testing.assert_identical(r_hat(draws), found["r_hat"])
    xr.testing.assert_allclose(mcse_mean(draws), found["mcse_mean"])
    xr.testing.assert_allclose(
        ess(draws)["ess_tail"], az.ess(dataset, method="tail", prob=(0.05, 0.95))["x"]
    )


def test_constants_are_known_exactly_where_asked(rng):
    values = xr.DataArray(rng.normal(size=(2, 50, 3, 4)), dims=("chain", "draw", "a", "b"))
    values[:, :, 1, 2] = 0.25
    found, expected = summarise(values, exact_constants=True), summarise(values)
    varies = np.ones((3, 4), dtype=bool)
    varies[1, 2] = False
    for name in expected:
        np.testing.assert_array_equal(found[name].values[varies], expected[name].values[varies])
    constant = found.isel(a=1, b=2)
    names = ("mean", "lower", "upper", "sd", "mcse_mean")
    assert [float(constant[name]) for name in names] == [0.25] * 3 + [0] * 2
    assert np.isnan(constant["ess_bulk"])
    assert expected["ess_bulk"][1, 2] == 100
    single = summarise(values[:1, :1], exact_constants=True)
    assert np.isnan(single["sd"]).all()
