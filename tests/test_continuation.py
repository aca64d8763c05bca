"""More draws of a finished run: the same chains, which go on from where they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from problems import UNEQUAL_PRIORS, small_problem

import gptbayes as gb
from gptbayes import fit
from gptbayes.fit.continuation import adapted_metric, continued_arguments
from gptbayes.fit.directory import Run
from gptbayes.fit.parts import File, csv_of, parts_of
from gptbayes.fit.units import make_unit
from gptbayes.inference import open_run
from gptbayes.report.model import continuation
from gptbayes.stats.summary import summarise

SETTINGS = {"chains": 2, "iter_warmup": 60, "seed": 4}


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("metric", fit.METRICS)
def test_chains_go_on(tmp_path, metric):
    """Old draws stay digit for digit; step size and metric are those of the adaptation."""
    problem, out = small_problem("02"), tmp_path / "run"
    settings = {**SETTINGS, "metric": metric}
    fit.nuts(problem, out, iter_sampling=20, **settings)
    before = open_run(out)
    for n_draws in (50, 60):
        fit.nuts(problem, out, iter_sampling=n_draws, **settings)
    after = open_run(out)
    assert json.loads(after.attrs["settings"])["continued_after"] == [20, 50]
    assert "after 20 and 50 iterations" in continuation(json.loads(after.attrs["settings"]))
    for name in problem.stage.parameters:
        old, new = (each.posterior[name.name].values for each in (before, after))
        assert new.shape[1] == 60
        np.testing.assert_array_equal(new[:, :20], old)
        assert len(np.unique(new.reshape(120, -1), axis=0)) > 100  # no part is another one again
    steps = after.sample_stats["step_size"].values
    assert (steps == steps[:, :1]).all()
    assert steps[0, 0] != steps[1, 0]
    files = {path.name for path in (out / "csv").iterdir()}
    parts = ("", "-after-20", "-after-50")
    assert files == {f"chain-{k}{part}.csv" for k in (1, 2) for part in parts}
    for k in (1, 2):
        wanted = adapted_metric(out / "csv" / f"chain-{k}.csv") if metric != "unit_e" else None
        text = (out / "csv" / f"chain-{k}-after-50.csv").read_text()
        assert "adapt_engaged" in text or "engaged = 0" in text or "engaged = false" in text
        if wanted is not None:
            used = json.loads(
                (
                    out / "init" / ("metric.json" if metric == "prior" else f"metric-{k}.json")
                ).read_text()
            )
            np.testing.assert_allclose(used["inv_metric"], wanted, rtol=1e-4)


@pytest.mark.usefixtures("programs")
def test_the_state_is_carried_over(tmp_path):
    """The first new draw is one transition from the last old one: with tiny steps, beside it."""
    problem, out = small_problem("02"), tmp_path / "run"
    settings = {**SETTINGS, "max_treedepth": 1}  # one leapfrog step
    fit.nuts(problem, out, iter_sampling=40, **settings)
    fit.nuts(problem, out, iter_sampling=80, **settings)
    draws = open_run(out).posterior["lm_head_multiplier"].values
    steps = np.sqrt((np.diff(draws, axis=1) ** 2).sum((-2, -1)))  # (chain, draw)
    apart = np.sqrt(((draws[0] - draws[1]) ** 2).sum((-2, -1))).min()
    assert (steps[:, 39] <= steps.max(1)).all()
    assert (steps[:, 39] < apart / 2).all()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("metric", fit.METRICS)
def test_thinned_chains_are_the_others_with_gaps(tmp_path, metric):
    """Digit for digit, and with the same gap where a chain was continued."""
    problem = small_problem("02", n_new_tokens=0)  # whose random numbers would be others
    settings = {**SETTINGS, "metric": metric, "chains": 1}
    fit.nuts(problem, tmp_path / "whole", iter_sampling=30, **settings)
    out = tmp_path / "thinned"
    for n in (30, 60):
        fit.nuts(problem, out, iter_sampling=n, thin=3, **settings)
    (whole,), (thinned,) = fit.read_draws(tmp_path / "whole"), fit.read_draws(out)
    for name, value in whole.variables.items():
        assert thinned.variables[name].shape[0] == 20
        np.testing.assert_array_equal(thinned.variables[name][:10], value[::3])

    executable = fit.executable_of(problem.stage, "auto").path
    run = Run(out, executable, settings["seed"])
    before, part = parts_of(fit.read_config(out)["settings"])
    file = File(csv_of(out, 1, before), before.n_draws)
    arguments = continued_arguments(run, problem, 1, file, part, metric, 3)
    every = {**arguments, "iter_warmup": 0, "iter_sampling": 30, "thin": 1}
    unit = make_unit(run, "every", "sample", {**every, "chains": 1, "chain_ids": [1]}, n_draws=30)
    fit.run_unit(unit)
    for name, value in fit.read_csv(out / "csv" / "every.csv", 30).variables.items():
        np.testing.assert_array_equal(thinned.variables[name][10:], value[2::3])


@pytest.mark.usefixtures("programs")
def test_what_is_said_of_thinned_chains(tmp_path):
    """What was not kept was not looked at, and energies are compared over gaps."""
    out = tmp_path / "run"
    for n in (100, 200):
        fit.nuts(small_problem("02"), out, iter_sampling=n, thin=5, **SETTINGS)
    analysis = gb.Analysis.of_run(out)
    said = " ".join(each.text for each in analysis.findings)
    assert "of 80, which are one in 5 of all" in said
    assert "of thinned draws, which is too large for all iterations" in said
    written = gb.write_report(out, formats=["md"]).read_text()
    assert "2 chains of 40 (one in 5 iterations) after 60 iterations of warm-up" in written
    assert "200 sampling iterations (one in 5 was kept)" in written


@pytest.mark.usefixtures("programs")
def test_a_run_from_before_there_was_thinning_goes_on(tmp_path):
    problem, out = small_problem("02"), tmp_path / "run"
    fit.nuts(problem, out, iter_sampling=20, **SETTINGS)
    config = fit.read_config(out)
    del config["settings"]["thin"]
    (out / "manifest.json").unlink()
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"settings\.thin is 1 there, 2 here"):
        fit.nuts(problem, out, iter_sampling=20, thin=2, **SETTINGS)
    fit.nuts(problem, out, iter_sampling=30, **SETTINGS)
    assert open_run(out).posterior.sizes["draw"] == 30


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("method", fit.MARKOV_CHAINS)
def test_a_continued_posterior_is_the_posterior(tmp_path, method):
    """Without likelihood the prior is known: second moments of all draws, in standard errors."""
    problem = small_problem("03", priors=UNEQUAL_PRIORS, likelihood_weight=0.0)
    out = tmp_path / "run"
    for n_draws in (100, 250, 500):
        getattr(fit, method)(problem, out, chains=2, iter_sampling=n_draws, thin=1, seed=1)
    posterior = open_run(out).posterior.isel(draw=slice(100, None))
    for p in problem.stage.parameters:
        squares = summarise((posterior[p.name] / problem.priors.scale(p)) ** 2)
        z = (squares["mean"] - 1) / squares["mcse_mean"]
        assert abs(z).max() < 5


@pytest.mark.usefixtures("programs")
def test_an_interrupted_continuation_resumes(tmp_path):
    problem, out = small_problem("02"), tmp_path / "run"
    fit.nuts(problem, out, iter_sampling=20, **SETTINGS)
    fit.nuts(problem, out, iter_sampling=40, **SETTINGS)
    whole = fit.read_draws(out)
    lost = out / "csv" / "chain-2-after-20.csv"
    lost.unlink()
    with pytest.raises(ValueError, match=r"chain-2-after-20\.csv missing"):
        fit.read_draws(out)
    fit.nuts(problem, out, iter_sampling=40, **SETTINGS)
    for ours, theirs in zip(fit.read_draws(out), whole, strict=True):
        for name, value in theirs.variables.items():
            np.testing.assert_array_equal(ours.variables[name], value)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iter_sampling": 10}, "iter_sampling is 20 there, 10 here"),
        ({"iter_sampling": 30, "seed": 5}, "seed is 4 there, 5 here|1 more"),
        ({"iter_sampling": 30, "iter_warmup": 61}, "and 1 more"),
        ({"iter_sampling": 40, "thin": 2}, "and 1 more"),
        ({"iter_sampling": 40, "thin": 3}, "thin must divide iter_sampling, got 3 and 40"),
    ],
)
def test_anything_else_is_another_configuration(tmp_path, changes, message):
    problem, out = small_problem("02"), tmp_path / "run"
    fit.nuts(problem, out, iter_sampling=20, **SETTINGS)
    with pytest.raises(ValueError, match=message):
        fit.nuts(problem, out, **{**SETTINGS, **changes})
    assert "continued_after" not in fit.read_config(out)["settings"]


def test_parts_must_rise_and_be_kept_whole():
    with pytest.raises(ValueError, match=r"thin must divide iter_sampling, got 4 and \[10, 20\]"):
        parts_of({"iter_sampling": 20, "continued_after": [10], "thin": 4})
    with pytest.raises(ValueError, match="continued_after must rise to iter_sampling"):
        parts_of({"iter_sampling": 20, "continued_after": [30]})
