"""What is known exactly of a posterior, and whether draws agree with it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from problems import small_problem

from gptbayes import fit
from gptbayes.groups import make_groups
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.stages import STAGES
from gptbayes.symmetry import align
from gptbayes.validate.exact_marginals import (
    ALPHA,
    check_exact_marginals,
    family_wise_p,
    known_marginals,
)

BATCH_SIZE = 5
"""So few sequences that some characters are never read."""


@pytest.fixture
def nuts(runs):
    return open_run(runs["nuts"])


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


@pytest.mark.parametrize("number", STAGES)
def test_nuts_agrees_with_exact_marginals(number, programs, tmp_path):
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

    aligned = posterior.copy()
    for name, values in align(problem.stage, parameters_of(nuts)).parameters.items():
        aligned[name] = posterior[name].copy(data=values)
    idata = make_groups({"posterior": aligned}, nuts.attrs)
    assert check_exact_marginals(idata)["p_value"].sel(direction="orientation of each head") < 1e-6


def test_exact_marginals_detect_a_wrong_scale(nuts):
    """The same draws against a prior that is off by two must fail."""
    assert check_exact_marginals(nuts)["p_value"].min() > 1e-3
    wrong = nuts.copy()
    wrong.posterior["lm_head_multiplier"] = 2 * wrong.posterior["lm_head_multiplier"]
    assert (
        check_exact_marginals(wrong)["p_value"].sel(direction="column sums of lm_head_multiplier")
        < 1e-3
    )


def test_exact_marginals_keep_their_error_rate(nuts):
    """Exact but autocorrelated draws fail in no larger a share than the p-value promises.

    Gaussian autoregressions with the prior's scale in place of the weights, 60 times: at level
    0.05, more than 9 failures happen by chance once in a thousand times.
    """
    rng = np.random.default_rng(7)
    scale = problem_of(nuts).priors.lm_head
    names = list(nuts.posterior.data_vars)
    failures = 0
    for _ in range(60):
        values = {}
        for name in names:
            dims, shape = nuts.posterior[name].dims, nuts.posterior[name].shape[2:]
            noise = rng.normal(scale=scale, size=(4, 400, *shape))
            for k in range(1, 400):
                noise[:, k] = 0.6 * noise[:, k - 1] + 0.8 * noise[:, k]
            values[name] = (dims, noise)
        exact = make_groups({"posterior": xr.Dataset(values)}, nuts.attrs)
        row = check_exact_marginals(exact).sel(direction="column sums of lm_head_multiplier")
        failures += float(row["p_value"]) < 0.05
    assert failures <= 9
