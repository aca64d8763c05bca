"""The command line of a compiled program: draws held against mathematics, files, messages."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from gptbayes import toolchain

from .conftest import DATA, read

SEED = "random seed=20261122"
POINT = {"mu": 0.4, "tau": 1.7, "weight": [0.2, 0.3, 0.5], "z": [[0.1, -0.2, 0.3], [0, 0.5, -1]]}


def stan_is_2_35() -> bool:
    """Of the two versions that the engine is built from, 2.35 and 2.39, whether it is the first."""
    return toolchain.describe().cmdstan.startswith("2.35")


def standard_errors(draws: np.ndarray, mean: float, effective: float) -> float:
    """How many Monte Carlo standard errors the mean of draws is away from the truth."""
    return abs(draws.mean() - mean) / (draws.std() / math.sqrt(effective))


@pytest.mark.parametrize(
    "algorithm",
    [
        "algorithm=hmc metric=diag_e",
        "algorithm=hmc metric=dense_e",
        "algorithm=hmc metric=unit_e",
        "algorithm=hmc engine=nuts max_depth=8 stepsize=0.5 metric=diag_e adapt delta=0.9",
        "algorithm=hmc engine=static int_time=2 metric=diag_e",
        "algorithm=hmc engine=static int_time=2 metric=dense_e",
        "algorithm=hmc engine=static int_time=2 metric=unit_e",
        "adapt engaged=0 algorithm=hmc stepsize=0.3",
        "adapt engaged=0 algorithm=hmc engine=static int_time=2 stepsize=0.2 metric=dense_e",
    ],
)
def test_sampling_finds_the_posterior(known, algorithm):
    draws = known.csv(f"sample num_samples=4000 {algorithm} {SEED}")
    assert len(draws.rows) == 4000
    # Bounds are five standard errors at an effective sample size of 800 of 4000 draws.
    assert standard_errors(draws.column("mu"), DATA.mean, 800) < 5
    assert draws.column("mu").std() == pytest.approx(DATA.sd, rel=0.12)
    assert standard_errors(draws.column("tau"), 1.5, 800) < 5
    assert standard_errors(draws.column("weight.3"), 0.5, 800) < 5
    assert np.allclose(draws.columns("weight").sum(axis=1), 1, atol=1e-12)


def test_draws_of_chains_in_one_process_equal_those_of_separate_processes(known):
    words = f"sample num_samples=50 num_warmup=100 num_chains=2 id=3 {SEED}"
    known.run(f"{words} output file=together.csv sig_figs=17")
    for chain in (3, 4):
        alone = known.csv(f"sample num_samples=50 num_warmup=100 id={chain} {SEED}", "alone.csv")
        np.testing.assert_array_equal(read(known.path(f"together_{chain}.csv")).rows, alone.rows)
    assert not np.array_equal(
        read(known.path("together_3.csv")).rows, read(known.path("together_4.csv")).rows
    )


def test_thinning_keeps_every_third_draw(known):
    every = known.csv(f"sample num_samples=31 num_warmup=50 {SEED}")
    thinned = known.csv(f"sample num_samples=31 num_warmup=50 thin=3 {SEED}")
    np.testing.assert_array_equal(thinned.rows, every.rows[::3])


def test_warmup_is_written_if_asked_for(known):
    bare = known.csv(f"sample num_samples=30 num_warmup=70 {SEED}")
    whole = known.csv(f"sample num_samples=30 num_warmup=70 save_warmup=1 {SEED}")
    assert len(whole.rows) == 100
    np.testing.assert_array_equal(whole.rows[70:], bare.rows)


def test_metric_is_saved_and_read_back(known):
    table = known.csv(f"sample num_samples=5 adapt save_metric=1 algorithm=hmc {SEED}")
    saved = json.loads(known.path("output_metric.json").read_text())
    metric = next(
        line
        for line, before in zip(table.comments[1:], table.comments, strict=False)
        if before.startswith("# Diagonal elements")
    )
    assert [float(x) for x in metric.strip("# ").split(",")] == pytest.approx(
        saved["inv_metric"], rel=1e-5
    )
    # Ten iterations of warmup are too few to adapt a metric: it stays as it was read.
    again = known.csv(
        f"sample num_samples=5 num_warmup=10 algorithm=hmc metric_file=output_metric.json {SEED}"
    )
    assert metric in again.comments
    bad = dict(saved, inv_metric=saved["inv_metric"][1:])
    known.path("short.json").write_text(json.dumps(bad))
    assert known.run("sample algorithm=hmc metric_file=short.json").returncode == 1


@pytest.mark.parametrize("algorithm", ["lbfgs", "bfgs", "newton"])
@pytest.mark.parametrize(("jacobian", "tau"), [(0, 1.0), (1, 1.5)])
def test_optimum_is_the_analytic_mode(known, algorithm, jacobian, tau):
    mode = known.csv(f"optimize algorithm={algorithm} jacobian={jacobian} {SEED}")
    assert mode.column("mu")[0] == pytest.approx(DATA.mean, abs=1e-4)
    assert mode.column("tau")[0] == pytest.approx(tau, abs=1e-3)
    assert np.allclose(mode.columns("z"), 0, atol=1e-3)


def test_optimizer_saves_its_iterations(known):
    path = known.csv(f"optimize save_iterations=1 {SEED}")
    assert len(path.rows) > 3
    assert path.column("lp__")[-1] == path.column("lp__").max()


def test_laplace_has_the_curvature_at_the_mode(known):
    known.csv(f"optimize jacobian=1 {SEED}", "mode.csv")
    draws = known.csv(f"laplace mode=mode.csv draws=4000 {SEED}")
    assert standard_errors(draws.column("mu"), DATA.mean, 4000) < 4
    assert draws.column("mu").std() == pytest.approx(DATA.sd, rel=0.05)
    # log tau has density exp(3 u - 2 exp(u)): second derivative -3 at its mode
    assert np.log(draws.column("tau")).std() == pytest.approx(3**-0.5, rel=0.05)


def test_pathfinder_single_paths_and_their_files(known):
    draws = known.csv(f"pathfinder num_paths=3 num_draws=600 save_single_paths=1 {SEED}")
    assert len(draws.rows) == 1000
    # Resampled draws repeat: a quarter of them counts, and the approximation is not exact.
    assert standard_errors(draws.column("mu"), DATA.mean, 250) < 5
    for path in (1, 2, 3):
        assert len(read(known.path(f"output_path_{path}.csv")).rows) == 600
        iterations = json.loads(known.path(f"output_path_{path}.json").read_text())
        assert iterations["1"]["iter"] == 1


@pytest.fixture(params=[0, 1])
def resample(request, known):
    """When it resamples, Stan 2.39 draws other random numbers for the single paths."""
    if request.param and not stan_is_2_35():
        pytest.skip("Stan 2.35 alone draws the same with and without resampling")
    return request.param


def test_without_resampling_there_are_the_draws_of_all_paths(known, resample):
    words = "pathfinder num_paths=3 num_draws=600"
    known.csv(f"{words} save_single_paths=1 psis_resample={resample} {SEED}", "output.csv")
    raw = known.csv(f"{words} psis_resample=0 {SEED}", "raw.csv")
    if "path__" in raw.names:  # Stan 2.39 writes a path when it is done
        raw = raw._replace(rows=raw.rows[np.argsort(raw.column("path__"), kind="stable")])
    stacked = np.vstack([read(known.path(f"output_path_{p}.csv")).rows for p in (1, 2, 3)])
    np.testing.assert_array_equal(raw.rows, stacked)


def test_one_path_is_the_first_of_several(known, resample):
    words = f"num_draws=100 psis_resample={resample} {SEED}"
    known.csv(f"pathfinder num_paths=2 save_single_paths=1 {words}")
    one = known.csv(f"pathfinder num_paths=1 {words}", "one.csv")
    np.testing.assert_array_equal(one.rows, read(known.path("output_path_1.csv")).rows)


@pytest.mark.parametrize("algorithm", ["meanfield", "fullrank"])
def test_variational_approximation_is_near(known, algorithm):
    draws = known.csv(f"variational algorithm={algorithm} {SEED}")
    assert len(draws.rows) == 1001  # the mean, then the draws
    assert draws.column("mu")[1:].mean() == pytest.approx(DATA.mean, abs=0.4 * DATA.sd + 0.1)


def test_generated_quantities_reproduce_those_of_the_fit(known):
    fit = known.csv(f"sample num_samples=40 {SEED}", "fit.csv")
    again = known.csv("generate_quantities fitted_params=fit.csv", "gq.csv")
    np.testing.assert_allclose(again.columns("log_lik"), fit.columns("log_lik"), rtol=1e-12)
    np.testing.assert_array_equal(again.column("above"), fit.column("above"))


def log_density(mu: float, tau: float, weight: list, z: list, *, jacobian: bool) -> float:
    """Of known.stan without the constants that `~` drops; on the constrained scale, if wanted."""
    density = -0.5 * sum((y - mu) ** 2 for y in DATA.y) - 0.5 * (mu / DATA.prior_sd) ** 2
    density += 2 * math.log(tau) - 2 * tau
    density += math.log(weight[0]) + 2 * math.log(weight[1]) + 4 * math.log(weight[2])
    density -= 0.5 * np.sum(np.square(z))
    if jacobian:  # of log tau, and of the simplex
        density += math.log(tau) + np.sum(np.log(weight)) + log_jacobian_constant()
    return density


def log_jacobian_constant() -> float:
    """Of a simplex of three, beside the product of its elements.

    Stan 2.35 breaks it like a stick; in 2.39 it is the softmax of isometric coordinates.
    """
    return 0.0 if stan_is_2_35() else 0.5 * math.log(3)


@pytest.mark.parametrize("jacobian", [False, True])
def test_log_density_and_gradient_at_a_point(known, jacobian):
    known.path("point.json").write_text(json.dumps(POINT))
    at = known.csv(f"log_prob constrained_params=point.json jacobian={int(jacobian)}")
    assert at.column("lp__")[0] == pytest.approx(log_density(**POINT, jacobian=jacobian), 1e-12)
    in_mu = sum(y - POINT["mu"] for y in DATA.y) - POINT["mu"] / DATA.prior_sd**2
    assert at.column("g_mu")[0] == pytest.approx(in_mu, rel=1e-12)
    in_log_tau = 2 + jacobian - 2 * POINT["tau"]
    assert at.column("g_tau")[0] == pytest.approx(in_log_tau, rel=1e-12)
    np.testing.assert_allclose(at.columns("g_z")[0], -np.array(POINT["z"]).T.ravel(), atol=1e-15)


def test_log_density_on_the_unconstrained_scale(known):
    points = np.random.default_rng(5).normal(size=(3, 10))
    known.path("points.json").write_text(json.dumps({"params_r": points.tolist()}))
    at = known.csv("log_prob unconstrained_params=points.json")
    np.testing.assert_allclose(at.columns("g_z"), -points[:, 4:], atol=1e-15)


def test_diagnose_agrees_with_finite_differences(known):
    done = known.run(f"diagnose {SEED}")
    assert done.returncode == 0
    assert "TEST GRADIENT MODE" in done.stdout
    assert known.run(f"diagnose test=gradient error=1e-300 {SEED}").returncode != 0


def test_program_without_parameters_runs_at_once(external):
    draws = external.csv(f"sample num_samples=1000 {SEED}")
    assert (draws.column("doubled") == 7).all()
    assert standard_errors(draws.column("noise"), 7, 1000) < 4
    assert external.run("pathfinder").returncode == 1


def test_initial_values(known):
    def first(words: str) -> float:
        return known.csv(f"optimize save_iterations=1 {words} {SEED}").column("mu")[0]

    known.path("start.json").write_text(json.dumps(POINT))
    assert first("init=0") == 0
    assert first("init=start.json") == POINT["mu"]
    assert abs(first("init=0.01")) < 0.01
    for chain, mu in ((1, -1.0), (2, 1.0)):
        known.path(f"starts_{chain}.json").write_text(json.dumps(dict(POINT, mu=mu)))
    known.run(
        "sample num_samples=1 num_warmup=1 save_warmup=1 num_chains=2 "
        "algorithm=hmc stepsize=1e-9 adapt engaged=0 init=starts.json"
    )
    assert read(known.path("output_1.csv")).column("mu")[0] == pytest.approx(-1, abs=1e-4)
    assert read(known.path("output_2.csv")).column("mu")[0] == pytest.approx(1, abs=1e-4)


def test_header_tells_how_it_came_about(known):
    done = known.run("method=sample num_samples=3 adapt delta=0.9 id=2 random seed=7")
    assert done.returncode == 0
    text = known.path("output.csv").read_text()
    for line in (
        "# model = known_model",
        "# method = sample (Default)",
        "#     num_samples = 3",
        "#       delta = 0.9",
        "#       gamma = 0.05 (Default)",
        "#         metric = diag_e (Default)",
        "# id = 2",
        "#   seed = 7",
        "#   file = data.json",
        "# num_threads = 1 (Default)",
    ):
        assert f"{line}\n" in text
    assert re.search(r"# start_datetime = \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", text)


def test_config_and_profile_are_written(known):
    known.run("sample num_samples=3 output save_cmdstan_config=1 profile_file=times.csv")
    config = json.loads(known.path("output_config.json").read_text())
    assert config["model_name"] == "known_model"
    assert config["method"]["value"] == "sample"
    assert config["method"]["sample"]["adapt"]["delta"] == 0.8
    assert config["method"]["sample"]["algorithm"]["hmc"]["engine"]["nuts"]["max_depth"] == 10
    names, row = known.path("times.csv").read_text().splitlines()
    profile = dict(zip(names.split(","), row.split(","), strict=True))
    assert profile["name"] == "likelihood"
    assert float(profile["total_time"]) > 0
    assert int(profile["autodiff_calls"]) > 1000


@pytest.mark.parametrize("words", ["help", "help-all", "sample help", "sample adapt help-all"])
def test_help(known, words):
    done = known.run(words, data="")
    assert done.returncode == 0
    assert "sample" in done.stdout or "adapt" in done.stdout


def test_info(known):
    done = known.run("info", data="")
    assert done.returncode == 0
    assert "stan_version_major = 2" in done.stdout
    assert "STAN_THREADS=false" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Usage"),
        ("data file=data.json", "A method must be specified!"),
        ("nonsense", "nonsense is either mistyped or misplaced."),
        ("sample delta=0.9", "sample adapt delta=<double>"),
        ("sample num_samples=-1", '-1 is not a valid value for "num_samples"'),
        ("sample num_samples=ten", 'ten is not a valid value for "num_samples"'),
        ("sample thin=0", '0 is not a valid value for "thin"'),
        ("sample adapt delta=1.5", "Valid values: 0 < delta < 1"),
        ("sample save_warmup=perhaps", "Valid values: [0, 1]"),
        ("sample algorithm=hmc metric=odd", "Valid values: unit_e, diag_e, dense_e"),
        ("sample id=1 id=2", "id=2 is either mistyped or misplaced."),
        ("sample init=-3", '-3 is not a valid value for "init"'),
        ("sample random seed=4294967296", "is not a valid value"),
        ("sample output sig_figs=19", "-1 <= sig_figs <= 18"),
        ("sample num_threads=2", "num_threads == 1"),
        ("sample num_warmup=0 data file=data.json", "must be greater than zero if adaptation"),
        ("sample num_chains=2 algorithm=hmc engine=static data file=data.json", "unavailable"),
        ("sample data file=missing.json", 'Can\'t open specified file, "missing.json"'),
        ("sample data file=empty.json", "variable does not exist"),
        ("sample data file=short.json", "mismatch in dimension declared and found"),
        ("sample data file=broken.json", "Error"),
        ("sample init=bad.json data file=data.json", "must be greater than or equal to 0"),
        ("sample init=missing.json data file=data.json", "Can't open specified file"),
        ("sample output file=no/such/folder.csv data file=data.json", "Can't open output file"),
        ("laplace data file=data.json", "Argument mode file"),
        ("laplace mode=data.csv data file=data.json", "Can't open specified file"),
        ("generate_quantities data file=data.json", "Argument fitted_params file"),
        ("generate_quantities fitted_params=o.csv output file=o.csv", "must be different"),
        ("log_prob data file=data.json", "No input parameters provided"),
    ],
)
def test_bad_input_gets_a_message_and_a_failure(known, words, message):
    known.path("empty.json").write_text("{}")
    known.path("short.json").write_text('{"N": 5, "y": [1, 2], "prior_sd": 1}')
    known.path("broken.json").write_text('{"N": 5,')
    known.path("bad.json").write_text(json.dumps(dict(POINT, tau=-1)))
    done = known.run(words, data="")
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "terminate called" not in done.stderr


def test_interrupted_run_leaves_whole_rows(known):
    words = "sample num_samples=100000000 num_warmup=100 output refresh=0 data file=data.json"
    process = subprocess.Popen([known.executable, *words.split()], cwd=known.folder)
    try:
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) != 0
    finally:
        process.kill()
    text = known.path("output.csv").read_text()
    assert text.endswith("\n")
    table = read(known.path("output.csv"))
    assert len(table.rows) > 10
    assert table.rows.shape[1] == len(table.names)


def test_full_disk_is_an_error(known):
    done = known.run("sample num_samples=2000 output file=/dev/full")
    assert done.returncode == 1
    assert "disk full" in done.stderr
