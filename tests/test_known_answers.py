"""What is known exactly of a posterior, and whether draws agree with it."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import xarray as xr

from gptbayes.inference import open_run, problem_of
from gptbayes.known_answers import known_answers


@pytest.fixture
def nuts(runs):
    return open_run(runs["nuts"])


def test_known_answers_catch_a_wrong_scale(nuts):
    """The same draws against a prior that is off by two must fail."""
    assert known_answers(nuts)["p_value"].min() > 1e-3
    wrong = nuts.copy()
    wrong.posterior["lm_head_multiplier"] = 2 * wrong.posterior["lm_head_multiplier"]
    assert known_answers(wrong)["p_value"].sel(direction="column sums of lm_head_multiplier") < 1e-3


def test_known_answers_keep_their_error_rate(nuts):
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
        exact = az.InferenceData(posterior=xr.Dataset(values))
        exact.attrs = nuts.attrs
        row = known_answers(exact).sel(direction="column sums of lm_head_multiplier")
        failures += float(row["p_value"]) < 0.05
    assert failures <= 9
