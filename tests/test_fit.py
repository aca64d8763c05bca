"""Fits through the real CmdStan: the programs, the run directory, resuming."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from densities import compiled, stan_density
from problems import UNEQUAL_PRIORS, bigram_of_two_characters, small_problem
from scipy.integrate import dblquad
from scipy.special import expit, log_expit
from scipy.stats import norm

from gptbayes import fit, toolchain
from gptbayes.diagnostics.sampler import mode_findings
from gptbayes.fit.draws import check_csv, write_csv
from gptbayes.fit.sampling import PRIOR_DEFAULTS, STAN_DEFAULTS
from gptbayes.fit.units import make_unit
from gptbayes.groups import select
from gptbayes.inference import open_run, superchains_of
from gptbayes.model.forward import token_log_prob
from gptbayes.model.log_density import log_posterior, log_posterior_gradient, ravel
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES
from gptbayes.stats.summary import summarise

pytestmark = pytest.mark.usefixtures("programs")


def test_program_and_numpy_define_the_same_posterior(problem, rng):
    """Value and gradient, against central differences, at draws from the prior."""
    problem = replace(problem, priors=UNEQUAL_PRIORS, likelihood_weight=0.7)
    model, n_draws = compiled(problem), 3
    draws = prior_draws(problem, n_draws, rng)
    stan = problem.stage.to_stan(draws, problem.design)
    for i in range(n_draws):
        here = {name: value[i] for name, value in stan.items()}
        theirs = stan_density(model, problem, here)
        ours = log_posterior(problem, {name: value[i] for name, value in draws.items()})
        assert theirs.value == pytest.approx(ours, abs=1e-10, rel=1e-12)
        for name in here:  # one element of each parameter
            index = tuple(rng.integers(n) for n in here[name].shape)
            slopes = []
            for step in (1e-5, -1e-5):
                moved = {n: v.copy() for n, v in here.items()}
                moved[name][index] += step
                there = problem.stage.from_stan(moved, problem.design)
                slopes.append(log_posterior(problem, there))
            slope = (slopes[0] - slopes[1]) / 2e-5
            assert theirs.gradient[name][index] == pytest.approx(slope, abs=1e-6, rel=1e-6), name


def test_log_lik_of_draws_agrees_with_numpy(problem, tmp_path):
    folder = fit.pathfinder(problem, tmp_path / "run", paths=1, draws=20, seed=2)
    (draws,) = fit.read_draws(folder)
    ours = problem.stage.from_stan(draws.variables, problem.design)
    log_lik = token_log_prob(problem.stage, ours, problem.training)
    np.testing.assert_allclose(draws.variables["log_lik"], log_lik, atol=1e-10)
    new_tokens = draws.variables["new_tokens"]
    assert new_tokens.shape == (20, 4)
    assert 1 <= new_tokens.min() <= new_tokens.max() <= problem.design.vocab_size
    # Pathfinder keeps the constants that `target` drops for NUTS.
    constants = sum(
        ours[p.name][0].size * norm.logpdf(0, scale=problem.priors.scale(p))
        for p in problem.stage.parameters
    )
    lp = constants + log_posterior(problem, ours)
    np.testing.assert_allclose(draws.method_variables["lp"], lp, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("nuts", {"iter_sampling": 1000}), ("hmc", {"iter_sampling": 4000, "thin": 4})],
)
def test_bigram_of_two_characters_agrees_with_quadrature(tmp_path, method, settings):
    """The posterior mean of p(b | a) is a two-dimensional integral over a row of logits."""
    problem = bigram_of_two_characters()
    windows = problem.training
    counts = [((windows.x == 0) & (windows.y == k)).sum() for k in (0, 1)]

    def weight(v, u):
        log_lik = counts[0] * log_expit(u - v) + counts[1] * log_expit(v - u)
        return np.exp(log_lik - (u**2 + v**2) / (2 * 1.3**2))

    norm, _ = dblquad(weight, -9, 9, -9, 9)
    top, _ = dblquad(lambda v, u: weight(v, u) * expit(v - u), -9, 9, -9, 9)
    folder = getattr(fit, method)(problem, tmp_path / "run", chains=4, seed=1, **settings)
    theta = open_run(folder).posterior["token_embedding"].isel(token=0)
    p = 1 / (1 + np.exp(theta.isel(embed=0) - theta.isel(embed=1)))
    summary = summarise(p)
    assert abs(summary["mean"] - top / norm) < 4 * summary["mcse_mean"]
    assert summary["mcse_mean"] < 0.004


def test_without_likelihood_the_posterior_is_the_prior(tmp_path):
    problem = small_problem("03", likelihood_weight=0.0)
    folder = fit.nuts(problem, tmp_path / "run", chains=2, iter_sampling=500, seed=1)
    idata = open_run(folder)
    assert idata.attrs["target"] == "prior"
    for p in problem.stage.parameters:
        squares = summarise((idata.posterior[p.name] / problem.priors.scale(p)) ** 2)
        z = (squares["mean"] - 1) / squares["mcse_mean"]
        assert abs(z).max() < 5


def test_prior_run_has_the_prior_draws(problem, tmp_path):
    """The same run directory and groups; every number survives the way through CSV and netCDF."""
    idata = open_run(fit.prior(problem, tmp_path / "run", draws=30, seed=5))
    assert (idata.attrs["method"], idata.attrs["target"]) == ("prior", "prior")
    drawn = prior_draws(problem, 30, np.random.default_rng(5))
    for name, values in drawn.items():
        np.testing.assert_array_equal(idata.posterior[name].values[0], values)
    log_lik = token_log_prob(problem.stage, drawn, problem.training)
    np.testing.assert_array_equal(idata.log_likelihood["log_lik"].values[0], log_lik)
    new_tokens = idata.posterior_predictive["new_tokens"].values
    assert new_tokens.shape == (1, 30, problem.n_new_tokens)
    assert 0 <= new_tokens.min() <= new_tokens.max() < problem.design.vocab_size
    before = (tmp_path / "run" / "csv" / "prior-1.csv").stat().st_mtime_ns
    fit.prior(problem, tmp_path / "run", draws=30, seed=5)
    assert (tmp_path / "run" / "csv" / "prior-1.csv").stat().st_mtime_ns == before


def test_interrupted_fit_resumes(runs, tmp_path):
    """A missing chain is run again to the same draws; the other chain is not touched."""
    folder = tmp_path / "copy"
    shutil.copytree(runs["nuts"], folder)
    whole = fit.read_draws(folder)
    kept, lost = folder / "csv" / "chain-1.csv", folder / "csv" / "chain-2.csv"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    with pytest.raises(ValueError, match=r"not finished, chain-2\.csv missing"):
        fit.read_draws(folder)
    again = small_problem("05")
    fit.nuts(again, folder, chains=2, iter_warmup=150, iter_sampling=100, seed=3)
    assert kept.stat().st_mtime_ns == before
    for ours, theirs in zip(fit.read_draws(folder), whole, strict=True):
        for name, value in theirs.variables.items():
            np.testing.assert_array_equal(ours.variables[name], value)


def test_working_directory_stays_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit.pathfinder(small_problem("02"), "run", paths=1, draws=5)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    names = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    json_files = {"config.json", "data.json", "manifest.json", "random-1.json"}
    assert names - {".manifest.json.lock"} == {".lock", "path-1.csv", *json_files}


def test_seeds_and_chains_differ(runs, tmp_path):
    first, second = fit.read_draws(runs["nuts"])
    assert not np.array_equal(first.variables["key"], second.variables["key"])
    other = fit.pathfinder(small_problem("05"), tmp_path / "run", paths=1, draws=5, seed=4)
    same = fit.read_draws(runs["pathfinder"])[0].variables["key"][:5]
    assert not np.array_equal(fit.read_draws(other)[0].variables["key"], same)


def test_chains_start_from_different_paths(tmp_path):
    settings = {"chains": 2, "iter_warmup": 20, "iter_sampling": 10, "init": "pathfinder"}
    run = fit.nuts(small_problem("02"), tmp_path / "run", **settings)
    starts = [json.loads((run / "init" / f"pathfinder-{k}.json").read_text()) for k in (1, 2)]
    assert starts[0] != starts[1]


def test_superchains_share_starting_points(tmp_path):
    problem = small_problem("02")
    settings = {"iter_warmup": 30, "iter_sampling": 10, "init": "random", "seed": 2}
    folder = fit.nuts(problem, tmp_path / "run", chains=6, superchains=3, **settings)
    assert len(list((folder / "init").glob("random-*.json"))) == 3
    lines = [path.read_text() for path in sorted((folder / "csv").glob("chain-*.csv"))]
    assert [re.search(r"random-(\d)\.json", text)[1] for text in lines] == list("112233")
    idata = open_run(folder)
    assert superchains_of(idata) == [0, 0, 1, 1, 2, 2]
    some = select(idata, ["posterior"], chain=[1, 4, 5])
    assert superchains_of(some) == [0, 2, 2]
    draws = idata.posterior["lm_head_offset"].values
    assert len(np.unique(draws[:, -1, 0])) == 6
    with pytest.raises(ValueError, match=r"settings\.superchains is 3 there, 2 here"):
        fit.nuts(problem, folder, chains=6, superchains=2, **settings)


def test_runs_without_superchains_setting_resume(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs["nuts"], folder)
    config = fit.read_config(folder)
    assert config["settings"].pop("superchains") is None
    fit.directory.write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=r"config\.json is damaged or was changed"):
        fit.read_config(folder)
    (folder / "manifest.json").unlink()
    fit.nuts(small_problem("05"), folder, chains=2, iter_warmup=150, iter_sampling=100, seed=3)
    assert superchains_of(open_run(folder)) is None


def test_chains_start_at_modes_of_different_seeds(tmp_path):
    """Where L-BFGS stopped there is no slope, and the log density is above that of any draw."""
    problem = small_problem("02")
    settings = {"chains": 2, "iter_warmup": 30, "iter_sampling": 20, "seed": 2}
    folder = fit.nuts(problem, tmp_path / "run", init="optimize", **settings)
    starts = [json.loads((folder / "init" / f"optimize-{k}.json").read_text()) for k in (1, 2)]
    points = [
        ravel(problem.stage, problem.stage.from_stan(start, problem.design)) for start in starts
    ]
    assert np.abs(points[0] - points[1]).max() > 0.1
    values, gradients = log_posterior_gradient(problem)(np.stack(points))
    assert np.abs(gradients).max() < 0.05
    assert (values > open_run(folder).sample_stats["lp"].max().item() + 10).all()


@pytest.mark.parametrize("iter_warmup", [15, 60, 200])
def test_prior_metric_is_not_adapted(tmp_path, iter_warmup):
    """Stan's adaptation must leave it alone, however long or short, and find a step size."""
    problem = small_problem("09", priors=UNEQUAL_PRIORS, likelihood_weight=0.2)
    lengths = {"iter_warmup": iter_warmup, "iter_sampling": 10}
    out = fit.nuts(problem, tmp_path / "run", chains=1, metric="prior", init="random", **lengths)
    variances = np.concatenate(
        [
            np.full(problem.stage.shape(p, problem.design), problem.priors.scale(p) ** 2).ravel()
            for p in problem.stage.parameters
        ]
    )
    assert len(set(variances)) > 5
    np.testing.assert_allclose(_adapted_metric(out), variances, rtol=1e-4)
    (draws,) = fit.read_draws(out)
    assert 0.01 < draws.method_variables["stepsize"][0] < 1


@pytest.mark.parametrize(
    ("metric", "usual"), [("prior", PRIOR_DEFAULTS), ("unit_e", STAN_DEFAULTS)]
)
def test_defaults_depend_on_the_metric(tmp_path, metric, usual):
    folder = fit.nuts(small_problem("02"), tmp_path / "run", iter_sampling=4, metric=metric)
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert {name: settings[name] for name in usual} == usual
    told = (folder / "csv" / "chain-1.csv").read_text()
    assert f"num_warmup = {usual['iter_warmup']}" in told
    assert re.search(rf"\bdelta = {usual['adapt_delta']}", told)
    assert f"max_depth = {usual['max_treedepth']}" in told


@pytest.mark.parametrize("iter_warmup", [20, 99, 150])
def test_diagonal_metric_is_adapted_in_a_short_warm_up(tmp_path, iter_warmup):
    """Left to itself, Stan 2.35 stays at the identity below 150 iterations."""
    lengths = {"iter_warmup": iter_warmup, "iter_sampling": 5}
    problem = small_problem("02")
    out = fit.nuts(problem, tmp_path / "run", chains=1, metric="diag_e", init="random", **lengths)
    metric = _adapted_metric(out)
    assert metric.shape == (problem.stage.n_parameters(problem.design),)
    assert np.ptp(metric) > 0.1


def _adapted_metric(folder):
    lines = (folder / "csv" / "chain-1.csv").read_text().splitlines()
    (at,) = (k for k, line in enumerate(lines) if line.startswith("# Diagonal elements"))
    return np.array([float(each) for each in lines[at + 1].removeprefix("# ").split(",")])


def test_process_pool_gives_the_same_draws(tmp_path):
    """Units are plain values: a pool of processes takes them as a pool of threads does."""
    problem = small_problem("02")
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        folder = fit.pathfinder(problem, tmp_path / "a", paths=2, draws=5, executor=pool)
    own = fit.pathfinder(problem, tmp_path / "b", paths=2, draws=5)
    for ours, theirs in zip(fit.read_draws(folder), fit.read_draws(own), strict=True):
        np.testing.assert_array_equal(ours.variables["log_lik"], theirs.variables["log_lik"])


def test_units_can_be_pickled(tmp_path):
    run = fit.directory.Run(tmp_path, tmp_path / "exe", 1)
    unit = make_unit(run, "chain 1", "sample", {"chains": 1})
    assert pickle.loads(pickle.dumps(unit)) == unit


def test_progress_reaches_the_end(tmp_path):
    seen = []
    problem = small_problem("02")
    fit.nuts(
        problem,
        tmp_path / "run",
        chains=1,
        iter_warmup=50,
        iter_sampling=50,
        on_progress=seen.append,
    )
    assert seen[-1] == [fit.Progress("chain 1", 100, 100, True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed is 3 there, 4 here"),
        ({"iter_sampling": 99}, "settings.iter_sampling is 100 there, 99 here"),
    ],
)
def test_another_configuration_is_refused(runs, changes, message):
    settings = {"chains": 2, "iter_warmup": 150, "iter_sampling": 100, "seed": 3, **changes}
    with pytest.raises(ValueError, match=message):
        fit.nuts(small_problem("05"), runs["nuts"], **settings)
    with pytest.raises(ValueError, match="another configuration"):
        fit.optimize(small_problem("05"), runs["nuts"])


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="not empty and not a run directory"):
        fit.optimize(small_problem("01"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_too_large_a_fit_is_refused_before_it_starts(tmp_path):
    with pytest.raises(RuntimeError, match=r"need about .* MB of .*, got"):
        fit.nuts(small_problem("05"), tmp_path / "run", iter_sampling=9 * 10**7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains must be a positive integer, got 0"),
        ({"init": "zero"}, "init must be one of pathfinder, random, optimize, got 'zero'"),
        ({"metric": "full"}, "metric must be one of prior, diag_e, dense_e, unit_e, got 'full'"),
        ({"superchains": 3}, "superchains must divide chains, got 3 and 4"),
        ({"superchains": 0}, "superchains must be a positive integer, got 0"),
        ({"adapt_delta": 1.0}, "adapt_delta must be between 0 and 1, got 1.0"),
        ({"seed": -1}, "seed must be an integer between 0"),
    ],
)
def test_unusable_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        fit.nuts(small_problem("01"), tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_truncated_and_corrupted_csv_are_named(runs, tmp_path):
    text = (runs["nuts"] / "csv" / "chain-1.csv").read_text()
    path = tmp_path / "chain-1.csv"
    scrambled = text[:-5000] + text[-5000:].replace("0.", "zero.")
    for damaged in (text[: len(text) // 2], scrambled, "", "not a csv\n"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"chain-1\.csv is (truncated|corrupted)"):
            fit.read_csv(path, 100)


def test_rows_too_many_or_too_short_are_named(runs, tmp_path):
    lines = (runs["nuts"] / "csv" / "chain-1.csv").read_text().splitlines(keepends=True)
    draws = [k for k, line in enumerate(lines) if not line.startswith(("#", "lp__"))]
    path, middle = tmp_path / "chain-1.csv", draws[50]
    twice = [*lines[:middle], lines[middle], *lines[middle:]]
    short = [*lines[:middle], lines[middle].rpartition(",")[0] + "\n", *lines[middle + 1 :]]
    for damaged, message in ((twice, "must have 100 draws, got more"), (short, "row 51 must have")):
        path.write_text("".join(damaged))
        for read in (fit.read_csv, check_csv):
            with pytest.raises(ValueError, match=rf"chain-1\.csv is truncated .*{message}"):
                read(path, 100)


def test_every_bit_of_a_number_survives(tmp_path, monkeypatch, rng):
    """Through text and back, whatever the number, and however much is parsed at a time."""
    bits = rng.integers(2**64, size=(7, 5, 300), dtype=np.uint64)
    values = bits.view(np.float64)
    values = np.where(np.isnan(values), 0.1, values)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    write_csv(tmp_path / "some.csv", {"lp__": values[:, 0, 0], "x": values})
    for n_bytes in (1, 15_000, 10**9):
        monkeypatch.setattr(fit.draws, "CHUNK_BYTES", n_bytes)
        back = fit.read_csv(tmp_path / "some.csv", 7)
        np.testing.assert_array_equal(back.variables["x"], values)
        np.testing.assert_array_equal(back.method_variables["lp"], values[:, 0, 0])


def test_an_optimizer_that_stops_early_says_so(tmp_path, runs):
    """What it found is kept, as CmdStan writes it, with a warning."""
    folder = fit.optimize(small_problem("05"), tmp_path / "run", starts=2, max_iterations=3)
    assert [each.converged for each in fit.read_draws(folder)] == [False, False]
    _, stopped = mode_findings(open_run(folder))
    assert not stopped.ok
    assert "from 2 of 2 starting points, also from the one that is shown" in stopped.text
    assert len(mode_findings(open_run(runs["optimize"]))) == 1


def test_a_failed_line_search_ends_an_optimizer_early(tmp_path):
    """At the kink of a Laplace density the gradient never vanishes."""
    program = tmp_path / "kink.stan"
    program.write_text(
        "parameters { vector[2] x; }\nmodel { target += -sum(abs(x - [1, 2]')) * 1e8; }\n"
    )
    exe = toolchain.compile_program(program, [])
    (tmp_path / "csv").mkdir()
    (tmp_path / "data.json").write_text("{}")
    unit = make_unit(fit.directory.Run(tmp_path, exe, 1), "start 1", "optimize", {"seed": 1})
    fit.run_unit(unit)
    mode = fit.read_csv(tmp_path / "csv" / "start-1.csv", 1)
    assert not mode.converged
    np.testing.assert_allclose(mode.variables["x"][0], [1, 2], atol=1e-3)


def test_failed_chain_reports_the_message_of_stan(tmp_path):
    """A data file that lacks a variable, as Stan reports it; nothing is moved into place."""
    exe = fit.executable_of(STAGES["01"], "stan").path
    (tmp_path / "csv").mkdir()
    (tmp_path / "data.json").write_text("{}")
    unit = make_unit(fit.directory.Run(tmp_path, exe, 1), "start 1", "optimize", {})
    with pytest.raises(RuntimeError, match=r"start 1 failed: .*vocab_size"):
        fit.run_unit(unit)
    assert list((tmp_path / "csv").iterdir()) == []
