"""Stated levels: exact draws, many and few, are called wrong no more often than is said.

Draws are independent, or stationary autoregressions with the same margins. With too few effective
draws there is no test, and that is said. The levels of exact marginals, of simulation-based
calibration and of text checks are tested beside these.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import xarray as xr
from drawn import drawn, from_prior
from problems import small_problem
from scipy.signal import lfilter
from scipy.stats import binom

from gptbayes import fit
from gptbayes.attention import head_roles, learned_sentences
from gptbayes.compare.evidence import Evidence, compare_evidence
from gptbayes.compare.evidence_findings import evidence_findings
from gptbayes.diagnostics.contraction import compare_with_prior
from gptbayes.diagnostics.convergence import r_star
from gptbayes.diagnostics.segments import cut_segments, differences
from gptbayes.diagnostics.sensitivity import prior_sensitivity
from gptbayes.diagnostics.verdict import ALPHA, DIFFERENT_PREDICTIONS, mixing_verdict
from gptbayes.findings import PARETO_K_LIMIT, pareto_k_limit, pareto_k_limit_words
from gptbayes.inference import open_run
from gptbayes.predict import check_text, forecast_reliability, loo_finding
from gptbayes.predict.leave_one_out import psis_loo
from gptbayes.report.sensitivity import sensitivity_section

pytestmark = pytest.mark.slow

LONG = bool(os.environ.get("GPTBAYES_LONG_TESTS"))
SLOW = pytest.mark.skipif(not LONG, reason="minutes of simulations: set GPTBAYES_LONG_TESTS=1")
N = 300 if LONG else 40
SIZES = [
    (2, 8, 0.0),
    (2, 20, 0.5),
    (4, 50, 0.9),
    (4, 100, 0.0),
    (4, 100, 0.9),
    *(
        pytest.param(*sizes, marks=SLOW)
        for sizes in [(4, 8, 0.5), (2, 50, 0.0), (4, 200, 0.9), (4, 500, 0.0), (4, 500, 0.9)]
    ),
]
"""Chains, draws of each, and their autocorrelation."""


def chains(rng, n_chain, n_draw, correlation, n_scalar):
    noise = rng.normal(size=(n_chain, n_draw, n_scalar))
    noise[:, 1:] *= np.sqrt(1 - correlation**2)
    values = lfilter([1], [1, -correlation], noise, axis=1)
    return xr.DataArray(values, dims=("chain", "draw", "scalar"))


def at_most(level, n):
    """More failures than this happen once in a thousand times if the level is right."""
    return int(binom.isf(1e-3, n, level))


# Chains


@pytest.mark.parametrize(("n_chain", "n_draw", "correlation"), SIZES)
def test_chains_of_one_distribution_seldom_disagree(rng, n_chain, n_draw, correlation):
    """R-hat and R* at 1 % each: what is not tested has too few draws."""
    n = N // 4 if not LONG else N // 6  # forests take a second
    states = []
    for _ in range(n):
        draws = chains(rng, n_chain, n_draw, correlation, 30)
        evidence = mixing_verdict({"log probabilities": draws}).evidence
        states.append(evidence["state"].item())
    assert sum(each in ("modes", "disagree") for each in states) <= at_most(2 * ALPHA, n)
    if n_draw * (1 - correlation) / (1 + correlation) < 10:
        assert set(states) == {"few draws"}


@pytest.mark.parametrize(("n_chain", "n_draw", "correlation"), [(4, 50, 0.0), (4, 400, 0.5)])
def test_chains_apart_are_told_from_chance(rng, n_chain, n_draw, correlation):
    """Power: half of the chains are three sd away from the others in one of many scalars."""
    found = []
    for _ in range(5):
        draws = chains(rng, n_chain, n_draw, correlation, 100)
        draws[n_chain // 2 :, :, 7] += 3
        found.append(mixing_verdict({"log probabilities": draws}).name)
    assert found.count(DIFFERENT_PREDICTIONS) >= 4


@pytest.mark.parametrize(("n_draw", "correlation"), [(10, 0.0), (20, 0.7), (100, 0.9)])
def test_superchains_of_one_distribution_seldom_disagree(rng, n_draw, correlation):
    """Their chains may be as short and slow as they like: means of chains are independent."""
    superchains, n = np.repeat(range(4), 4), N // 4
    states = []
    for _ in range(n):
        kinds = {"log probabilities": chains(rng, 16, n_draw, correlation, 10)}
        states.append(mixing_verdict(kinds, superchains).evidence["state"].item())
    assert sum(each == "modes" for each in states) <= at_most(ALPHA, n)


@SLOW
@pytest.mark.parametrize(("n_draw", "correlation"), [(20, 0.0), (100, 0.0), (500, 0.9)])
def test_r_star_is_above_one_as_seldom_as_it_says(rng, n_draw, correlation):
    n = 100
    found = [r_star(chains(rng, 4, n_draw, correlation, 10), rng).lower > 1 for _ in range(n)]
    assert sum(found) <= at_most(0.01, n)


@pytest.mark.parametrize(
    ("n_chain", "n_draw", "correlation"), [(2, 80, 0.5), (4, 200, 0.9), (4, 80, 0.0)]
)
def test_groups_of_one_distribution_seldom_differ(rng, n_chain, n_draw, correlation):
    failures = 0
    for _ in range(N):
        segments = cut_segments(chains(rng, n_chain, n_draw, correlation, 30))
        label = (segments["chain_index"] >= n_chain // 2).astype(int)
        p = differences(segments, label)["p_value"]
        failures += bool((p * 30 < ALPHA).any())
    assert failures <= at_most(ALPHA, N)


# Posterior and prior


@pytest.mark.parametrize(("n_chain", "n_draw", "correlation"), SIZES)
def test_summaries_of_the_prior_seldom_differ_from_it(rng, n_chain, n_draw, correlation):
    dims = ("chain", "draw", "layer", "rank")
    n_differ = n_tested = 0
    for _ in range(N // 4):
        posterior, prior = (
            xr.DataArray(chains(rng, *sizes, 8).values[:, :, None], dims=dims)
            for sizes in ((n_chain, n_draw, correlation), (1, 1000, 0.0))
        )
        found = compare_with_prior(posterior, prior)
        n_differ += int(found["differs"].sum())
        n_tested += found["differs"].size
    assert n_differ <= at_most(0.01, n_tested)


@pytest.mark.parametrize("n_copies", [1, 5])
def test_of_few_draws_no_role_is_learned(rng, n_copies):
    """Four draws of the prior, or as many that hardly move."""
    problem = small_problem("05")
    draws = {
        name: np.repeat(value, n_copies, axis=1)
        for name, value in from_prior(problem, 1, 4, seed=3).items()
    }
    roles = head_roles(drawn(problem, draws))
    (sentence,) = learned_sentences(roles)
    assert sentence.startswith("unknown: too few effective draws")


@pytest.mark.parametrize("n_draw", [4, 20, 60, 400])
def test_shifts_of_what_does_not_depend_on_the_prior_have_few_stars(rng, n_draw, tmp_path):
    """At two standard errors: 5 % of independent noise, and none where draws are few."""
    problem = small_problem("01", batch_size=5)
    idata = open_run(fit.prior(problem, tmp_path / "run", draws=n_draw))
    noise = chains(rng, 1, n_draw, 0.5, 100)
    table = prior_sensitivity(idata, {f"q{k}": noise[..., k] for k in range(100)})
    stars = abs(table["shift"]) > 2 * table["mcse"]
    enough = table["ess"] >= 100
    assert bool(enough.any()) == (n_draw == 400)
    # The hundred share one log density, hence more than their binomial error.
    assert int((stars & enough).sum()) <= 2 * at_most(0.05, 200)


def test_the_report_stars_what_the_table_says(runs, rng):
    from gptbayes.report import Analysis

    section = sensitivity_section(Analysis(open_run(runs["nuts"])))  # 200 draws of slow chains
    table = next(block for block in section.blocks if hasattr(block, "rows"))
    assert "where the ESS is at least 100" in table.caption
    found = Analysis(open_run(runs["nuts"])).sensitivity
    shown = sum(cell.endswith("*") for row in table.rows for cell in row)
    assert shown <= int((found["ess"] >= 100).sum())


# Predictions


@pytest.mark.parametrize("n_sequence", [1, 6, 40])
def test_characters_of_the_forecasts_are_seldom_called_miscalibrated(rng, n_sequence):
    dims, failures = ("held_out_sequence", "position", "token"), 0
    n = N
    for _ in range(n):
        p = rng.dirichlet(np.full(5, 0.5), size=(n_sequence, 4))
        tokens = np.minimum((p.cumsum(-1) < rng.random((n_sequence, 4, 1))).sum(-1), 4)
        forecast = {"it": xr.DataArray(p, dims=dims)}
        found = forecast_reliability(forecast, tokens, rng, prob=0.9, n_simulations=200)
        failures += not found.findings["it"][0].ok
    assert failures <= at_most(0.1, n)


@pytest.mark.parametrize("n_draw", [1, 2, 10])
def test_texts_by_few_draws_are_called_nothing(rng, n_draw, tmp_path):
    """The held-out text is by no model at all, and yet a few draws cannot tell."""
    problem = small_problem("01", text="the cat sat on the mat, that cat. " * 12)
    idata = open_run(fit.prior(problem, tmp_path / "run", draws=n_draw))
    found = check_text(idata, rng)
    assert bool(found.checks["ok"].all())
    assert f"by {n_draw} effective draws, too few to tell" in found.checks.attrs["notes"][0]
    assert any(each.endswith("too few draws to tell") for each in found.checks["sentence"].values)


@pytest.mark.parametrize("n_replicate", [2, 3, 8])
def test_equal_evidences_are_seldom_settled(rng, n_replicate):
    """At 5 %: two models of the same evidence, each with its own replicates."""
    n, settled = 4 * N, 0
    zero = dict.fromkeys(Evidence._fields, 0.0)
    for _ in range(n):
        found = {}
        for name in "ab":
            values = rng.normal(size=n_replicate)
            se = values.std(ddof=1) / np.sqrt(n_replicate)
            replicates = xr.Dataset({"smc": ("chain", values)})
            numbers = {"log_evidence": values.mean(), "se": se, "n_characters": 9, "findings": []}
            found[name] = Evidence(**{**zero, **numbers, "replicates": replicates})
        settled += evidence_findings(compare_evidence(found), found)[0].ok
    assert settled <= at_most(0.05, n)


# Importance weights


def test_the_limit_of_pareto_k_is_that_of_the_number_of_draws():
    """Vehtari et al. 2024, equation 13: S is at least 10 to the power 1 / (1 - k)."""
    for k in (0.1, 0.3, 0.5, 0.65):
        needed = 10 ** (1 / (1 - k))
        assert pareto_k_limit(int(np.ceil(needed)) + 1) >= k
        assert pareto_k_limit(int(needed)) <= k
    assert pareto_k_limit(1) == pareto_k_limit(10) == 0
    assert pareto_k_limit(2155) == pareto_k_limit(10**9) == PARETO_K_LIMIT
    assert pareto_k_limit_words(1) == "0.00, the limit for 1 draw"


@pytest.mark.parametrize(("n_draw", "ok"), [(150, False), (20_000, True)])
def test_what_many_draws_can_weigh_few_cannot(rng, n_draw, ok):
    """Ratios with a tail of k = 0.6: reliable from 317 draws on, by the limit, and not before."""
    ratios = rng.pareto(1 / 0.6, size=(1, n_draw)) + 1
    result = psis_loo(xr.DataArray(-np.log(ratios)[..., None], dims=("chain", "draw", "sequence")))
    assert 0.5 < result["pareto_k"].item() < 0.7
    finding = loo_finding(result)
    assert finding.ok is ok
    said = (
        "Pareto k is at most 0.7, for all 1 sequences"
        if ok
        else "for 1 of 1 sequences Pareto k is above 0.54, the limit for 150 draws"
    )
    assert said in finding.text
