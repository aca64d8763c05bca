"""What the data taught: closed forms, exact zeros, and what must be told from the prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from problems import UNEQUAL_PRIORS, small_problem
from scipy.signal import lfilter
from scipy.special import softmax
from scipy.stats import ortho_group

from gptbayes import fit
from gptbayes.diagnostics.contraction import (
    compare_with_prior,
    gauge_contraction,
    local_contraction,
    part_summaries,
    posterior_contraction,
    prediction_contraction,
    weight_contraction,
)
from gptbayes.diagnostics.contraction.sentences import gauge_sentence
from gptbayes.inference import open_run, problem_of
from gptbayes.model.forward import active_hidden_units
from gptbayes.model.simulate import prior_draws
from gptbayes.symmetry import null_dimension, transform_stage


def chains(problem, shape, rng):
    """Prior draws as if they were chains."""
    drawn = prior_draws(problem, int(np.prod(shape)), rng)
    return {name: value.reshape(*shape, *value.shape[1:]) for name, value in drawn.items()}


# ---- in directions that no prediction depends on ----


def test_gauge_directions_do_not_contract_and_a_wrong_scale_shows(nuts):
    problem = problem_of(nuts)
    found = gauge_contraction(problem, nuts.posterior)
    assert "column sums of lm_head_multiplier" in found["direction"]
    assert "orientation of each head" not in found["direction"]  # could not fail
    used = found["mcse"].sel(direction="column sums of lm_head_multiplier")
    assert used < 0.1  # or a wrong scale would not show
    assert (np.abs(found["contraction"]) < 4 * found["mcse"]).all()
    wrong = nuts.copy()
    wrong.posterior["lm_head_multiplier"] = 0.5 * wrong.posterior["lm_head_multiplier"]
    row = gauge_contraction(problem, wrong.posterior).sel(
        direction="column sums of lm_head_multiplier"
    )
    assert row["contraction"] == pytest.approx(
        1 - 0.5**2 * (1 - found["contraction"].sel(direction=row["direction"]).item())
    )
    said = posterior_contraction(wrong, n_local=1, max_draws=20).sentences[0]
    assert "too few effective draws to test that" in said


def test_many_draws_of_a_wrong_scale_are_not_from_the_posterior(rng):
    """What no prediction depends on keeps its prior, of which these are exact draws."""
    problem = small_problem("02")
    dims = {p.name: ("chain", "draw", *p.dims) for p in problem.stage.parameters}
    draws = chains(problem, (4, 250), rng)
    posterior = xr.Dataset({name: (dims[name], values) for name, values in draws.items()})
    assert "these are not" not in gauge_sentence(gauge_contraction(problem, posterior))
    posterior["lm_head_multiplier"] = 0.5 * posterior["lm_head_multiplier"]
    assert "these are not draws from the posterior" in gauge_sentence(
        gauge_contraction(problem, posterior)
    )


# ---- locally ----


def test_the_bigram_in_closed_form(rng):
    """Rows of logits are independent, each with the information of its own multinomial."""
    problem = small_problem("01", likelihood_weight=0.7, priors=UNEQUAL_PRIORS)
    draws = chains(problem, (1, 2), rng)
    n_token, scale = problem.design.vocab_size, problem.priors.token_embedding
    counts = np.bincount(problem.training.x.ravel(), minlength=n_token)
    learned, spectrum = [], []
    for logits in draws["token_embedding"][0]:
        values = []
        for p, n in zip(softmax(logits, axis=-1), counts, strict=True):
            information = 0.7 * n * scale**2 * (np.diag(p) - np.outer(p, p))
            values.append(np.linalg.eigvalsh(information))
        share = np.ravel(values) / (1 + np.ravel(values))
        learned.append(share.sum())
        spectrum.append(np.sort(share)[::-1])
    found = local_contraction(problem, draws, n_draws=2)
    assert found["block"].values.tolist() == ["token_embedding"]
    seen = (counts > 0).sum()
    assert found["identified"].item() == pytest.approx(seen * (n_token - 1), abs=1e-8)
    assert found["learned"].item() == pytest.approx(np.mean(learned), rel=1e-9)
    assert found["learned_mcse"].item() == pytest.approx(np.std(learned, ddof=1) / np.sqrt(2))
    np.testing.assert_allclose(found["spectrum"], np.mean(spectrum, axis=0), atol=1e-10)


@pytest.mark.parametrize("number", ["03", "05", "08"])
def test_what_cannot_be_learned_is_the_null_space(number, rng):
    problem = small_problem(number, priors=UNEQUAL_PRIORS)
    draws = chains(problem, (1, 1), rng)
    found = local_contraction(problem, draws, n_draws=1)
    one = {name: value[0, 0] for name, value in draws.items()}
    null = null_dimension(problem.stage, one, problem.training.x).null
    assert found["gauge"].sum().item() == pytest.approx(null, abs=1e-6)
    assert found["n"].sum() == problem.stage.n_parameters(problem.design)
    assert (found["learned"] <= found["identified"] + 1e-9).all()
    np.testing.assert_allclose(found["spectrum"].sum(), found["learned"].sum(), rtol=1e-10)
    assert (found["spectrum"].values[-null:] < 1e-9).all()
    assert found["spectrum"].values[-null - 1] > 1e-9
    nothing = local_contraction(replace(problem, likelihood_weight=0.0), draws, n_draws=1)
    assert np.abs(nothing["learned"]).max() < 1e-12


def test_symmetry_does_not_change_what_was_learned(rng):
    problem = small_problem("05")
    draws = chains(problem, (1, 1), rng)
    pairs = ortho_group.rvs(2, size=3, random_state=1).reshape(1, 1, 1, 3, 2, 2)
    turned = transform_stage(problem.stage, "rotate_query_key", draws, pairs)
    order = np.array([[[[2, 0, 1]]]])
    turned = transform_stage(problem.stage, "permute_heads", turned, order)
    stream = ortho_group.rvs(6, random_state=1)[None, None]
    turned = transform_stage(problem.stage, "rotate_stream", turned, stream)
    before, after = (local_contraction(problem, each, n_draws=1) for each in (draws, turned))
    for name in ("gauge", "learned", "spectrum", "head_learned"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-7, err_msg=name)


def test_a_unit_that_is_never_active_learns_nothing(rng):
    problem = small_problem("06")
    draws = chains(problem, (1, 1), rng)
    draws["feed_forward_offset"][..., 2] = -30
    draws["feed_forward_offset"][..., 4] = 6
    active = active_hidden_units(problem.stage, draws, problem.training.x)
    assert active.shape == (1, 1, 1, 6, *problem.training.x.shape)
    assert not active[..., 2, :, :].any()
    assert active[..., 4, :, :].all()
    units = local_contraction(problem, draws, n_draws=1)["unit_learned"].values[0]
    assert units[-1] < 1e-12 < units[0]
    with pytest.raises(ValueError, match="stage must be one of 06 to 12, got 05"):
        active_hidden_units(small_problem("05").stage, draws, problem.training.x)


# ---- of draws ----


def test_draws_of_known_spread(rng):
    """Half the spread is a contraction of three quarters, of weights and of what is linear in them.

    None is none.
    """
    problem = small_problem("01", priors=UNEQUAL_PRIORS)
    prior = chains(problem, (1, 400), rng)
    for factor in (1.0, 0.5):
        posterior = {n: factor * v for n, v in chains(problem, (4, 200), rng).items()}
        for table in (
            weight_contraction(problem, posterior, prior),
            prediction_contraction(problem, posterior, prior),
        ):
            assert (table["mcse"] < 0.05).all()
            error = np.abs(table["contraction"] - (1 - factor**2))
            assert (error < 4 * table["mcse"]).all()
            np.testing.assert_allclose(
                1 - table["contraction"], (table["posterior_sd"] / table["prior_sd"]) ** 2
            )


def test_chains_that_disagree_make_the_error_large(rng):
    problem = small_problem("01")
    prior, posterior = chains(problem, (1, 200), rng), chains(problem, (4, 100), rng)
    apart = {n: 0.1 * v for n, v in posterior.items()}
    apart["token_embedding"] = apart["token_embedding"].copy()
    apart["token_embedding"][3] += 2.0 * rng.normal(size=apart["token_embedding"].shape[2:])
    tables = [weight_contraction(problem, each, prior) for each in (posterior, apart)]
    assert tables[1]["mcse"].item() > 5 * tables[0]["mcse"].item()


# ---- heads and hidden units ----


def test_summaries_of_heads_are_sorted_sizes(rng):
    problem = small_problem("12")
    draws = chains(problem, (2, 3), rng)
    found = part_summaries(problem, draws)
    product = draws["query"] @ np.swapaxes(draws["key"], -1, -2)
    size = np.linalg.norm(product, axis=(-2, -1)) / np.sqrt(2)
    expected = -np.sort(-size, axis=-1)
    np.testing.assert_allclose(found["norm of the query-key product"], expected, rtol=1e-10)
    simple = small_problem("05")
    uniform = chains(simple, (1, 2), rng)
    uniform["query"][0, 1] = 0
    distance = part_summaries(simple, uniform)["distance from uniform attention"][0]
    assert np.abs(distance[1]).max() < 1e-12 < distance[0].min()
    activity = found["active share of hidden units"]
    assert activity.shape == (2, 3, 2, 24)
    assert (activity.diff("rank") <= 0).all()


def test_what_is_the_prior_is_not_told_from_it_and_what_is_not_is(rng):
    problem = small_problem("05")
    prior, posterior = chains(problem, (1, 400), rng), chains(problem, (4, 100), rng)
    name = "norm of the query-key product"
    same = compare_with_prior(*(part_summaries(problem, d)[name] for d in (posterior, prior)))
    assert not same["differs"].any()
    larger = {**posterior, "query": 1.5 * posterior["query"]}
    other = compare_with_prior(*(part_summaries(problem, d)[name] for d in (larger, prior)))
    assert other["differs"].all()
    np.testing.assert_allclose(other["mean"], 1.5 * same["mean"])
    # Chains that stand still are worth a few draws, however long they are.
    summary = part_summaries(problem, prior)[name]
    places = xr.DataArray([0.5, 0.6, 0.7, 0.8], dims="chain")
    still = places + 1e-3 * xr.DataArray(rng.normal(size=(4, 100, 1, 3)), dims=summary.dims)
    assert (compare_with_prior(still, summary)["limit"] > 0.5).all()


# ---- all together ----


def test_a_real_fit_in_words(nuts):
    found = posterior_contraction(nuts, n_local=2)
    text = "\n".join(found.sentences)
    assert "contraction must be 0 in" in text
    assert "the effective number of parameters is" in text
    assert "local normal approximation at 2 draws" in text
    assert "norm of the query-key product: " in text
    assert "the smallest ESS of a variance is" in text  # 200 draws
    assert found.local["learned"].sum() > 10


def test_a_mode_has_no_variance_and_a_curved_prior_no_local_gauge(runs, tmp_path, rng):
    with pytest.raises(
        ValueError, match="posterior_contraction needs at least 4 draws per chain, got 1"
    ):
        posterior_contraction(open_run(runs["optimize"]))
    problem = small_problem("01-log-gamma")
    with pytest.raises(ValueError, match="stage 01-log-gamma has no normal prior"):
        local_contraction(problem, chains(problem, (1, 1), rng))
    idata = open_run(fit.nuts(problem, tmp_path / "run", chains=2, iter_sampling=100))
    found = posterior_contraction(idata)
    assert found.local is None
    assert found.parts == {}
    assert (np.abs(found.gauge["contraction"]) < 4 * found.gauge["mcse"]).all()


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("shape", [(1, 8), (2, 10), (1, 50), (4, 100)])
def test_summaries_of_the_prior_differ_from_it_at_the_level_only(rng, shape, correlation):
    """400 ranks of autocorrelated prior draws: 1 % of them at most, three errors above."""
    noise = rng.normal(size=(*shape, 1, 400))
    noise[:, 1:] *= np.sqrt(1 - correlation**2)
    draws = lfilter([1], [1, -correlation], noise, axis=1)
    both = (draws, rng.normal(size=(1, 500, 1, 400)))
    dims = ("chain", "draw", "layer", "rank")
    found = compare_with_prior(*(xr.DataArray(each, dims=dims) for each in both))
    assert float(found["differs"].mean()) <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 400)
