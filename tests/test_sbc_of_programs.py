"""Calibration of any CmdStan program: a correct one, a wrong one, resumption, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from gptbayes.validate import calibration_table, sbc

PROGRAM = Path(__file__).parent / "programs" / "normal-mean.stan"
SHORT = {"iter_warmup": 150, "iter_sampling": 120, "n_ranked": 15}

pytestmark = pytest.mark.usefixtures("engine")


def prior(rng):
    return {"mu": rng.normal()}


def simulate(parameters, rng):
    return {"N": 5, "y": rng.normal(parameters["mu"], 1, size=5), "prior_sd": 1.0}


def with_a_wrong_prior(parameters, rng):
    return {**simulate(parameters, rng), "prior_sd": 0.1}


def quantities(parameters, data):
    log_lik = norm.logpdf(data["y"], np.asarray(parameters["mu"])[:, None]).sum(axis=1)
    return {"mu": parameters["mu"], "log likelihood": log_lik}


def test_a_correct_program_passes_and_resumes(tmp_path):
    seen = []
    run = {"seed": 3, "on_progress": seen.append, **SHORT}
    ranks = sbc(PROGRAM, prior, simulate, quantities, tmp_path, replicates=40, **run)
    table = calibration_table(ranks)
    assert list(table["quantity"].values) == ["mu", "log likelihood"]
    assert (table["adjusted_p"] > 0.01).all() and (table["ess_min"] > 10).all()
    assert seen[-1][0].done == 40
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("replicate-*.json"))]
    again = sbc(PROGRAM, prior, simulate, quantities, tmp_path, replicates=42, **run)
    assert again["rank"].sizes["replicate"] == 42
    kept = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("replicate-*.json"))]
    assert kept[:40] == times
    np.testing.assert_array_equal(again["rank"][:40], ranks["rank"])
    with pytest.raises(ValueError, match="holds another experiment: simulate is"):
        sbc(PROGRAM, prior, with_a_wrong_prior, quantities, tmp_path, replicates=40, **run)


def test_a_wrong_prior_is_found(tmp_path):
    ranks = sbc(PROGRAM, prior, with_a_wrong_prior, quantities, tmp_path, replicates=30, **SHORT)
    assert calibration_table(ranks)["adjusted_p"].sel(quantity="mu") < 1e-3


def test_bad_input_is_named(tmp_path):
    run = {"replicates": 1, **SHORT}
    with pytest.raises(
        ValueError, match=r"program must be a Stan file, there is none at none\.stan"
    ):
        sbc("none.stan", prior, simulate, quantities, tmp_path / "a", **run)
    with pytest.raises(ValueError, match=r"mu must be finite of shape \(120,\), got shape \(\)"):
        sbc(PROGRAM, prior, simulate, lambda p, d: {"mu": p["mu"].mean()}, tmp_path / "b", **run)
    with pytest.raises(ValueError, match="got nan or infinity"):
        wrong = lambda p, d: {"mu": np.nan * p["mu"]}  # noqa: E731
        sbc(PROGRAM, prior, simulate, wrong, tmp_path / "c", **run)
    with pytest.raises(ValueError, match="at least one, got none"):
        sbc(PROGRAM, prior, simulate, lambda p, d: {}, tmp_path / "d", **run)
    with pytest.raises(ValueError, match="iter_sampling must be at least n_ranked = 200, got 120"):
        sbc(PROGRAM, prior, simulate, quantities, tmp_path / "e", **{**run, "n_ranked": 200})
