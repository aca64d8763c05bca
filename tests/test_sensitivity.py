"""Power-scaling against what it approximates: fits with another power."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import small_problem

from gptbayes import fit
from gptbayes.diagnostics.sensitivity import PSENS_LIMIT, key_quantities, prior_sensitivity
from gptbayes.inference import open_run
from gptbayes.stats.summary import summarise

pytestmark = pytest.mark.usefixtures("programs")


def fitted(problem, folder):
    return open_run(fit.nuts(problem, folder, chains=2, iter_sampling=4000, seed=1))


@pytest.mark.parametrize("component", ["prior", "likelihood"])
def test_shift_agrees_with_refits(component, tmp_path):
    """Central differences of posterior means over fits with the power 1.2 and 1/1.2.

    A normal prior to the power a is a normal prior with its scale divided by the root of a.
    """
    problem = small_problem("01")

    def powered(a):
        if component == "likelihood":
            return replace(problem, likelihood_weight=a)
        scale = problem.priors.token_embedding / np.sqrt(a)
        return replace(problem, priors=problem.priors.replace(token_embedding=scale))

    idata = fitted(problem, tmp_path / "run")
    table = prior_sensitivity(idata).sel(component=component)
    more, less = (key_quantities(fitted(powered(a), tmp_path / f"{a:.2f}")) for a in (1.2, 1 / 1.2))
    assert list(table["quantity"].values) == list(more)
    for name in more:
        here = table.sel(quantity=name)
        high, low = summarise(more[name]), summarise(less[name])
        doublings = np.log2(1.2**2) * float(here["sd"])
        difference = float(high["mean"] - low["mean"]) / doublings
        error = np.hypot(high["mcse_mean"], low["mcse_mean"]) / doublings
        assert abs(float(here["shift"]) - difference) < 4 * np.hypot(error, here["mcse"])
        assert here["mcse"] < 0.3
    # More weight to the likelihood fits the training text better, more weight to the prior worse.
    shift = table["shift"].sel(quantity="training log probability per character")
    assert float(shift) * (1 if component == "likelihood" else -1) > 1
    assert table["pareto_k"] < 0.7
    assert table["psense"].sel(quantity=shift["quantity"]) > PSENS_LIMIT


def test_what_is_scaled(runs):
    idata = open_run(runs["nuts"])
    table = prior_sensitivity(idata)
    names = [str(name) for name in table["quantity"].values]
    assert sum(name.startswith("attention to") for name in names) == 2
    assert set(table.data_vars) == {
        *("shift", "mcse", "ess", "psense", "pareto_k", "mean", "sd", "n_draws")
    }
    draws = key_quantities(idata)[names[0]]
    only = prior_sensitivity(idata, {"it": draws})
    assert only["shift"].sel(component="prior").item() == pytest.approx(
        table["shift"].sel(component="prior", quantity=names[0]).item()
    )
    with pytest.raises(ValueError, match="at least 4 draws, got 1"):
        prior_sensitivity(open_run(runs["optimize"]))
