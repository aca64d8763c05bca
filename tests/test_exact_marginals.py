"""What is known exactly of a posterior, and whether draws agree with it."""

from __future__ import annotations

import os

import numpy as np
import pytest
import xarray as xr
from problems import small_problem
from scipy.signal import lfilter

from gptbayes import fit
from gptbayes.diagnostics.sampler import exact_marginals_finding
from gptbayes.groups import make_groups
from gptbayes.inference import open_run, problem_of
from gptbayes.model.stages import STAGES
from gptbayes.symmetry import align
from gptbayes.validate.exact_marginals import (
    ALPHA,
    check_exact_marginals,
    failed_directions,
    family_wise_p,
    known_marginals,
)

SLOW = pytest.mark.skipif(
    not os.environ.get("GPTBAYES_LONG_TESTS"),
    reason="half a minute of simulations: set GPTBAYES_LONG_TESTS=1",
)
BATCH_SIZE = 5
"""So few sequences that some characters are never read."""


def directions(number):
    """What science says is known of a stage when some characters are unseen."""
    wanted = {"embeddings of unseen characters"}
    if number == "01":
        return wanted | {"sum of each row of logits"}
    wanted |= {"column sums of lm_head_multiplier", "sum of lm_head_offset"}
    if number >= "03":
        wanted.add("token minus position embeddings")
    if number >= "04":
        wanted |= {"mean of each key", "mean of each query", "orientation of each head"}
    if number >= "10":
        wanted |= {"sum of each token_embedding", "sum of each position_embedding"}
    return wanted


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
@pytest.mark.parametrize("number", STAGES)
def test_nuts_agrees_with_exact_marginals(number, tmp_path):
    """At level 0.01 / 12 each: all twelve stages together fail by chance once in a hundred seeds.

    The chains start at random points with twice the prior's sd.
    """
    problem = small_problem(number, batch_size=BATCH_SIZE)
    settings = {"chains": 4, "iter_warmup": 300, "iter_sampling": 500, "init": "random"}
    idata = open_run(fit.nuts(problem, tmp_path / "run", seed=1, **settings))
    answers = check_exact_marginals(idata)
    assert set(answers["direction"].values) == directions(number)
    assert family_wise_p(answers) > ALPHA / len(STAGES), answers.to_dataframe()
    if number != "05":
        return
    # The path of steepest ascent is no sample: Pathfinder is far too sure of the same directions.
    idata = open_run(fit.pathfinder(problem, tmp_path / "pathfinder", seed=1))
    answers = check_exact_marginals(idata)
    assert family_wise_p(answers) < 1e-6
    assert answers["sd"].sel(direction="column sums of lm_head_multiplier") < 0.9 * answers[
        "exact_sd"
    ].sel(direction="column sums of lm_head_multiplier")


def test_orientation_follows_rotations_of_a_head(nuts, rng):
    """It turns with the head, so that aligned heads, which do not turn, are not uniform."""
    problem, posterior = problem_of(nuts), nuts.posterior
    before = known_marginals(problem, posterior)["orientation of each head"].draws
    turn, _ = np.linalg.qr(rng.normal(size=(2, 2)))
    turned = posterior.copy()
    for name in ("query", "key"):
        turned[name] = posterior[name].copy(data=posterior[name].values @ turn)
    after = known_marginals(problem, turned)["orientation of each head"].draws
    expected = before.values.reshape(-1, 2, 2) @ turn
    np.testing.assert_allclose(after.values.reshape(-1, 2, 2), expected, atol=1e-12)

    aligned = exact_draws(problem, 4, 250, rng)
    weights = {name: each.values for name, each in aligned.items()}
    for name, values in align(problem.stage, weights).parameters.items():
        aligned[name] = aligned[name].copy(data=values)
    idata = make_groups({"posterior": aligned}, nuts.attrs)
    assert check_exact_marginals(idata)["p_value"].sel(direction="orientation of each head") < 1e-6


@pytest.mark.parametrize(("p", "fails"), [(0.0033, False), (0.0013, True), (np.nan, False)])
def test_directions_fail_as_the_family_does(p, fails):
    """A single p-value below the level is no failure where there are seven."""
    checks = xr.Dataset({"p_value": ("direction", [0.5, p, 0.3, 0.9, np.nan, 1.0, 1.0])})
    failed = failed_directions(checks)
    assert failed.values.tolist() == [False, fails, *5 * [False]]
    assert failed.any() == (family_wise_p(checks) < ALPHA)


def test_exact_marginals_detect_a_wrong_scale(nuts, rng):
    """The same draws against a prior that is off by two must fail."""
    draws = exact_draws(problem_of(nuts), 4, 250, rng)
    right = check_exact_marginals(make_groups({"posterior": draws}, nuts.attrs))
    assert right["p_value"].min() > 1e-3
    draws["lm_head_multiplier"] = 2 * draws["lm_head_multiplier"]
    wrong = check_exact_marginals(make_groups({"posterior": draws}, nuts.attrs))
    assert wrong["p_value"].sel(direction="column sums of lm_head_multiplier") < 1e-3


def exact_draws(problem, n_chain, n_draw, rng, correlation=0.0):
    """Draws of the prior, which are exact for these tests; Gaussian autoregressions of it."""
    scale = np.sqrt(1 - correlation**2)
    values = {}
    for p in problem.stage.parameters:
        size = (n_chain, n_draw, *problem.stage.shape(p, problem.design))
        noise = rng.normal(size=size)
        noise[:, 1:] *= scale
        noise = lfilter([1], [1, -correlation], noise, axis=1)
        noise = problem.priors.mean(p) + problem.priors.scale(p) * noise
        values[p.name] = (("chain", "draw", *p.dims), noise)
    return xr.Dataset(values)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """For a stage, what the tests say of any posterior draws; needs no Stan."""
    made = {}

    def tested(number, n_chain, n_draw, rng, change=None, **kwargs):
        if number not in made:
            problem = small_problem(number, batch_size=BATCH_SIZE)
            folder = tmp_path_factory.mktemp("prior") / number
            made[number] = problem, open_run(fit.prior(problem, folder, draws=4)).attrs
        problem, attrs = made[number]
        posterior = exact_draws(problem, n_chain, n_draw, rng, **kwargs)
        groups = {"posterior": change(posterior) if change else posterior}
        idata = make_groups(groups, attrs)
        return check_exact_marginals(idata)

    return tested


@pytest.mark.parametrize("number", ["01", "05"])
@pytest.mark.parametrize(("n_chain", "n_draw"), [(1, 20), (1, 50), (2, 30), (4, 8), (7, 3)])
def test_too_few_draws_are_said_to_be_too_few(answered, rng, number, n_chain, n_draw):
    found = answered(number, n_chain, n_draw, rng)
    assert int(found["n_tested"].sum()) == 0
    assert np.isnan(family_wise_p(found))
    finding = exact_marginals_finding(found)
    assert not finding.ok
    assert finding.text.startswith("too few effective draws to test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "n_chain", "n_draw", "correlation"),
    [
        ("01", 1, 100, 0.0),
        ("01", 2, 100, 0.6),
        ("05", 4, 50, 0.0),
        ("05", 4, 100, 0.6),
        *(
            pytest.param(*sizes, marks=SLOW)
            for sizes in (
                ("01", 1, 200, 0.0),
                ("01", 4, 100, 0.0),
                ("01", 4, 150, 0.9),
                ("01", 4, 400, 0.9),
                ("05", 1, 170, 0.0),
                ("05", 2, 100, 0.6),
            )
        ),
    ],
)
def test_exact_draws_fail_as_often_as_the_level_says(
    answered, rng, number, n_chain, n_draw, correlation
):
    """At family-wise level 0.05, with independent draws and with autocorrelated ones.

    60 times: 3 failures are expected at most, and the limit is three binomial standard errors
    above. Where the draws are too few there are no tests and no failures.
    """
    n = 60
    p = [
        family_wise_p(answered(number, n_chain, n_draw, rng, correlation=correlation))
        for _ in range(n)
    ]
    failures = int((np.array(p) < 0.05).sum())
    assert failures <= 0.05 * n + 3 * np.sqrt(0.05 * 0.95 * n), failures


@pytest.mark.parametrize("factor", [0.7, 1.4])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_a_wrong_scale_is_found(answered, rng, factor, correlation):
    """The prior's draws, 0.7 or 1.4 times too far apart in one direction: 4 x 250 show it."""

    def wrong(posterior):
        return posterior.assign(lm_head_multiplier=factor * posterior["lm_head_multiplier"])

    found = answered("05", 4, 250, rng, wrong, correlation=correlation)
    assert family_wise_p(found) < ALPHA
    worst = int(found["p_value"].values.argmin())
    assert found["direction"].values[worst] == "column sums of lm_head_multiplier"


def test_chains_that_never_move_are_not_tested(answered, rng):
    """A head of size one has a sign: chains that keep it are no sample, and no alarm either."""

    def still(posterior):
        return posterior.isel(draw=np.zeros(posterior.sizes["draw"], int))

    assert int(answered("05", 4, 250, rng, still)["n_tested"].sum()) == 0
