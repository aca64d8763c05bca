"""HMC: its posterior, the lengths of its trajectories, and that it is treated as NUTS is."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from problems import UNEQUAL_PRIORS, small_problem
from scipy.stats import kstest

import gptbayes as gb
from gptbayes import fit
from gptbayes.cli import main
from gptbayes.diagnostics.sampler import sampler_findings, sampler_health
from gptbayes.fit.continuation import continued_arguments
from gptbayes.fit.directory import Run
from gptbayes.fit.hmc_statistics import n_leapfrog, nominal_step_size
from gptbayes.fit.parts import File, Part
from gptbayes.fit.units import STATIC_HMC, make_unit
from gptbayes.inference import open_run
from gptbayes.model.stages import STAGES
from gptbayes.stats.summary import summarise
from gptbayes.toolchain.static_hmc import run_static_hmc
from gptbayes.validate.exact_marginals import ALPHA, check_exact_marginals, family_wise_p

pytestmark = pytest.mark.usefixtures("programs")
SETTINGS = {"chains": 2, "iter_warmup": 60, "seed": 4}


@pytest.fixture(scope="module")
def run(programs, tmp_path_factory):
    """A fit of stage 05, to be read only."""
    folder = tmp_path_factory.mktemp("hmc") / "run"
    return fit.hmc(small_problem("05"), folder, iter_sampling=2000, thin=4, seed=2)


@pytest.fixture(scope="module")
def idata(run):
    return open_run(run)


@pytest.mark.slow
@pytest.mark.parametrize("number", STAGES)
def test_hmc_agrees_with_exact_marginals(number, tmp_path):
    """At level 0.01 / 12 each, so that all stages together fail once in a hundred seeds."""
    problem = small_problem(number, batch_size=6)
    answers = check_exact_marginals(
        open_run(fit.hmc(problem, tmp_path / "run", iter_sampling=2000, seed=1))
    )
    assert family_wise_p(answers) > ALPHA / len(STAGES), answers.to_dataframe()


def test_hmc_and_nuts_have_the_same_posterior(run, idata, tmp_path):
    """Each log probability, whose chains agree, and the log density; standard errors of both."""
    nuts = open_run(fit.nuts(gb.fit.read_problem(run), tmp_path / "nuts", iter_sampling=800))
    for of in (lambda each: each.log_likelihood["log_lik"], lambda each: each.sample_stats["lp"]):
        ours, theirs = (summarise(of(each)) for each in (idata, nuts))
        error = np.hypot(ours["mcse_mean"], theirs["mcse_mean"])
        assert float(abs((ours["mean"] - theirs["mean"]) / error).max()) < 5
        assert float(ours["r_hat"].max()) < 1.03


def test_lengths_are_uniform_and_the_number_of_steps_is_stans(idata, run, tmp_path):
    """Gradients are counted by Stan's profile of the likelihood."""
    stats = idata.sample_stats
    for k in range(4):
        step = nominal_step_size(run / "csv" / f"chain-{k + 1}.csv")
        lengths = stats["step_size"].values[k] * stats["n_steps"].values[k]
        middle = step * n_leapfrog(step, 1.5)
        assert 1.5 - step < middle <= 1.5
        assert kstest(lengths / middle, "uniform", (0.8, 0.4)).pvalue > 1e-4
    program = fit.executable_of(STAGES["05"], "auto").path
    for step in (0.29, 0.149):  # five steps of 0.29, ten of 0.149, and a part of one more
        out = tmp_path / str(step)
        out.mkdir()
        run_static_hmc(
            program,
            data=run / "data.json",
            output_dir=out,
            inits=run / "init" / "random-1.json",
            metric="diag_e",
            inv_metric=run / "init" / "metric.json",
            seed=1,
            chain_ids=[1],
            iter_warmup=0,
            iter_sampling=40,
            thin=1,
            int_time=1.5,
            step_size_jitter=0.2,
            step_size=step,
            adapt_engaged=False,
        )
        names, numbers = (out / "profile.csv").read_text().split()
        calls = int(numbers.split(",")[names.split(",").index("autodiff_calls")])
        # One more for each trajectory, at its start, and a few to begin with.
        assert 0 <= calls - 40 * (n_leapfrog(step, 1.5) + 1) <= 3


@pytest.mark.parametrize("length", [0.5, 1.5, 3.0, 4.7])
def test_how_far_a_trajectory_turns(tmp_path, length):
    """Without likelihood, what the finding says of correlations is their exact value."""
    problem = small_problem("02", priors=UNEQUAL_PRIORS, likelihood_weight=0.0)
    settings = {"trajectory_length": length, "adapt_delta": 0.95, "iter_sampling": 1000, "thin": 1}
    idata = open_run(fit.hmc(problem, tmp_path / "run", chains=2, seed=3, **settings))
    health = sampler_health(idata)
    draws = idata.posterior["lm_head_multiplier"].values.reshape(2, 1000, -1)
    for k in (0, 1):
        accepted, turned = (
            health[name].values[k] for name in ("acceptance_rate", "turn_correlation")
        )
        assert accepted > 0.9
        found = np.corrcoef(draws[k, 1:].ravel(), draws[k, :-1].ravel())[0, 1]
        assert found == pytest.approx(accepted * turned + 1 - accepted, abs=0.06)
    finding = sampler_findings(idata, health)[1]
    assert finding.ok == (length in (1.5, 4.7))


def test_where_nothing_is_accepted_transitions_diverge(run, idata):
    """With a huge step the energy error is far above 745, and the chain stays where it is."""
    assert not idata.sample_stats["diverging"].any()
    problem = gb.fit.read_problem(run)
    program = fit.executable_of(problem.stage, "auto").path
    of = Run(run, program, 1)
    before, part = File(run / "csv" / "chain-1.csv", 500), Part(2000, 20, 20)
    arguments = continued_arguments(of, problem, 1, before, part, "prior", 1)
    chosen = {"chain_ids": [1], "int_time": 1.5, "step_size_jitter": 0.2, "step_size": 1.5}
    chosen |= {"iter_sampling": 20, "thin": 1}
    unit = make_unit(of, "far", STATIC_HMC, {**arguments, **chosen}, n_draws=20)
    far = run / "csv" / "far.csv"
    try:
        fit.run_unit(unit)
        drawn = fit.read_csv(far, 20)
        diverged = fit.hmc_statistics.hmc_statistics(far, drawn.method_variables, 1.5)["divergent"]
        energies = drawn.method_variables["energy"]
    finally:
        far.unlink(missing_ok=True)
    assert diverged.sum() > 5
    accepted = drawn.method_variables["accept_stat"]
    np.testing.assert_array_equal(diverged, accepted == 0)
    still = (np.diff(drawn.variables["key"].reshape(20, -1), axis=0) == 0).all(axis=1)
    assert still[diverged[1:]].all()
    assert np.isfinite(energies).all()


def test_step_size_and_state_are_carried_over(tmp_path):
    """Old draws stay digit for digit; the step size is that of the adaptation."""
    problem, out = small_problem("02"), tmp_path / "run"
    fit.hmc(problem, out, iter_sampling=40, **SETTINGS)
    before = open_run(out).posterior["lm_head_multiplier"].values
    fit.hmc(problem, out, iter_sampling=120, **SETTINGS)
    fit.hmc(problem, out, iter_sampling=200, **SETTINGS)
    after = open_run(out)
    assert json.loads(after.attrs["settings"])["continued_after"] == [40, 120]
    new = after.posterior["lm_head_multiplier"].values
    np.testing.assert_array_equal(new[:, :20], before)
    assert len(np.unique(new.reshape(200, -1), axis=0)) > 120  # no part is another one again
    for k in (1, 2):
        steps = {nominal_step_size(p) for p in (out / "csv").glob(f"chain-{k}*.csv")}
        assert len(steps) == 1
    assert (after.sample_stats["n_steps"].values.std(axis=1) == 0).all()


def test_thinned_chains_are_the_others_with_gaps(tmp_path):
    problem = small_problem("02", n_new_tokens=0)  # whose random numbers would be others
    settings = {**SETTINGS, "chains": 1}
    fit.hmc(problem, tmp_path / "whole", iter_sampling=30, thin=1, **settings)
    fit.hmc(problem, tmp_path / "thinned", iter_sampling=30, thin=3, **settings)
    (whole,), (thinned,) = (fit.read_draws(tmp_path / name) for name in ("whole", "thinned"))
    for name, value in whole.variables.items():
        np.testing.assert_array_equal(thinned.variables[name], value[::3])


def test_an_interrupted_fit_resumes(tmp_path):
    """Whatever is missing is run again, with the same draws."""
    problem = small_problem("02")
    whole = fit.hmc(problem, tmp_path / "whole", iter_sampling=40, **SETTINGS)
    fit.hmc(problem, tmp_path / "cut", iter_sampling=40, **SETTINGS)
    for gone in (["csv/chain-2.csv"], ["csv/chain-1.csv", "init/warm-up-1.csv"]):
        for name in gone:
            (tmp_path / "cut" / name).unlink()
        fit.hmc(problem, tmp_path / "cut", iter_sampling=40, **SETTINGS)
        for one, other in zip(fit.read_draws(tmp_path / "cut"), fit.read_draws(whole), strict=True):
            for name, value in other.variables.items():
                np.testing.assert_array_equal(one.variables[name], value)
    damaged = tmp_path / "cut" / "init" / "warm-up-2.csv"
    damaged.write_bytes(damaged.read_bytes().replace(b"seconds (Total)", b"Seconds (Total)"))
    with pytest.raises(ValueError, match=r"warm-up-2\.csv"):
        fit.read_draws(tmp_path / "cut")
    drawn = fit.read_draws(whole)
    (whole / "init" / "warm-up-1.csv").unlink()
    without = fit.read_draws(whole)
    assert without[0].seconds < drawn[0].seconds
    assert without[1].seconds == drawn[1].seconds


def test_what_the_report_says(run, idata):
    analysis = gb.Analysis.of_run(run)
    health = sampler_health(idata)
    assert "max_treedepth_hits" not in health
    said = " ".join(each.text for each in sampler_findings(idata, health))
    assert "0 divergent transitions of 2000, which are one in 4 of all" in said
    assert "iterations of a parameter about which nothing was learned have a" in said
    assert "tree depth" not in said
    assert analysis.verdict.name
    written = gb.write_report(run, formats=["md"]).read_text()
    assert "HMC drew 2,000 times from the posterior, in 4 chains of 500 (one in 4" in written
    assert "with trajectories of 1.5 prior standard deviations, up to 20 % shorter" in written
    assert "max tree depth" not in written
    assert "duane1987hmc" in written
    assert "hoffman2014nuts" not in written


def test_runs_of_both_samplers_are_compared(run, tmp_path):
    """Refits are by the sampler of the run."""
    problem = gb.fit.read_problem(run)
    folders = [tmp_path / name for name in ("hmc", "nuts")]
    fit.hmc(problem, folders[0], chains=2, iter_sampling=200)
    fit.nuts(problem, folders[1], chains=2, iter_sampling=50)
    found = gb.compare.compare_runs(folders, refits=1)
    assert set(found.loo) == {"hmc", "nuts"}
    for folder in folders:
        (refit,) = (folder / "refits").glob("*/config.json")
        assert json.loads(refit.read_text())["method"] == folder.name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trajectory_length": -1}, "trajectory_length must be between 0 and 1,000, got -1"),
        ({"trajectory_length": "long"}, "trajectory_length must be positive, got 'long'"),
        ({"iter_sampling": 11}, "thin must divide iter_sampling, got 2 and 11"),
        ({"adapt_delta": 1.0}, "adapt_delta must be between 0 and 1, got 1.0"),
        ({"superchains": 3}, "superchains must divide chains, got 3 and 4"),
    ],
)
def test_unusable_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        fit.hmc(small_problem("01"), tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_the_command(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the cat sat on the mat, that cat. " * 8)
    fitted = ["fit", "--stage", "02", "--text", str(tmp_path / "text.txt"), "--method", "hmc"]
    out = ["--out", str(tmp_path / "run")]
    small = ["--chains", "2", "--draws", "40", "--trajectory-length", "2"]
    assert main([*fitted, *out, *small]) == 0
    assert open_run(tmp_path / "run").posterior.sizes["draw"] == 20
    capsys.readouterr()
    assert main([*fitted, *out, "--max-treedepth", "5"]) != 0
    told = capsys.readouterr().err
    assert "--max-treedepth has no effect with method hmc; nuts and smc have it" in told
    assert main([*fitted, *out, *small[:-1], "1"]) != 0
    assert "trajectory_length is 2.0 there, 1.0 here" in capsys.readouterr().err


def test_a_chain_that_fails_says_why(run, tmp_path):
    """Data that lack a variable, a program that cannot be started, and one that is killed."""
    (tmp_path / "csv").mkdir()
    (tmp_path / "data.json").write_text("{}")
    arguments = {
        **{"inits": run / "init" / "random-1.json", "metric": "diag_e", "chain_ids": [1]},
        **{"inv_metric": run / "init" / "metric.json", "iter_warmup": 5, "iter_sampling": 5},
        **{"thin": 1, "int_time": 1.5, "step_size_jitter": 0.2, "step_size": 0.1},
    }

    def failure(program):
        unit = make_unit(Run(tmp_path, program, 1), "chain 1", STATIC_HMC, arguments)
        with pytest.raises(RuntimeError) as error:
            fit.run_unit(unit)
        assert list((tmp_path / "csv").iterdir()) == []
        return str(error.value)

    assert "vocab_size" in failure(fit.executable_of(STAGES["05"], "auto").path)
    program = tmp_path / "program"
    assert "cannot be started" in failure(program)
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o755)
    assert f"was ended by signal {signal.SIGKILL.name}" in failure(program)
