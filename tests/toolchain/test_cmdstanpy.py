"""cmdstanpy drives the engine as it drives CmdStan."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cmdstanpy
import numpy as np
import pytest

import gptbayes
from gptbayes import toolchain
from gptbayes.toolchain import interface

from .conftest import DATA, PROGRAMS


@pytest.fixture
def data():
    return {"N": len(DATA.y), "y": DATA.y, "prior_sd": DATA.prior_sd}


@pytest.fixture(scope="session")
def model(known_executable):
    return cmdstanpy.CmdStanModel(exe_file=str(known_executable))


def test_sample_and_generate_quantities(model, data):
    fit = model.sample(data, chains=2, iter_sampling=500, seed=1, sig_figs=12, show_progress=False)
    assert fit.draws().shape == (500, 2, len(fit.column_names))
    assert fit.metric_type == "diag_e"
    assert fit.inv_metric.shape == (2, 10)
    assert fit.stan_variable("z").shape == (1000, 2, 3)
    assert abs(fit.stan_variable("mu").mean() - DATA.mean) < 5 * DATA.sd / 400**0.5
    again = model.generate_quantities(data, fit, seed=1, sig_figs=12)
    np.testing.assert_allclose(
        again.stan_variable("log_lik"), fit.stan_variable("log_lik"), atol=1e-6
    )


def test_sample_takes_a_metric_and_starts(model, data):
    metric = {"inv_metric": [0.5] * 10}
    fit = model.sample(
        data,
        chains=2,
        iter_warmup=10,
        iter_sampling=5,
        inv_metric=metric,
        inits={"mu": 1.0},
        step_size=0.1,
        max_treedepth=5,
        adapt_delta=0.9,
        seed=1,
        show_progress=False,
    )
    np.testing.assert_array_equal(fit.inv_metric, np.full((2, 10), 0.5))


def test_optimize_laplace_pathfinder_variational(model, data):
    # With six digits the elements of a simplex may not sum to one, which Stan refuses to read.
    mode = model.optimize(data, seed=1, jacobian=True, sig_figs=17)
    assert mode.stan_variable("mu") == pytest.approx(DATA.mean, abs=1e-3)
    laplace = model.laplace_sample(data, mode=mode, seed=1, draws=100)
    assert laplace.draws().shape[0] == 100
    paths = model.pathfinder(data, seed=1, num_paths=2, draws=100)
    assert paths.stan_variable("weight").shape == (100, 3)
    normal = model.variational(data, seed=1, draws=100, require_converged=False)
    assert normal.variational_sample.shape[0] == 100


def test_log_prob_and_diagnose(model, data):
    point = {"mu": 0.4, "tau": 1.7, "weight": [0.2, 0.3, 0.5], "z": np.zeros((2, 3)).tolist()}
    at = model.log_prob(point, data, sig_figs=12)
    in_mu = sum(y - 0.4 for y in DATA.y) - 0.4 / DATA.prior_sd**2
    assert at["g_mu"][0] == pytest.approx(in_mu, rel=1e-9)
    table = model.diagnose(point, data)
    assert len(table) == 10
    assert (table["error"].abs() < 1e-6).all()


def test_info_of_source_and_executable(known_executable):
    source = str(PROGRAMS / "known.stan")
    options = {"include-paths": [str(PROGRAMS)]}
    model = cmdstanpy.CmdStanModel(
        stan_file=source, exe_file=str(known_executable), stanc_options=options
    )
    assert set(model.src_info()["parameters"]) == {"mu", "tau", "weight", "z"}
    assert model.exe_info()["STAN_THREADS"] == "false"


def test_user_header_defines_a_declared_function(external_executable):
    model = cmdstanpy.CmdStanModel(exe_file=str(external_executable))
    fit = model.sample({"x": 1.25}, chains=1, fixed_param=True, iter_sampling=9, seed=1)
    assert (fit.stan_variable("doubled") == 2.5).all()


@pytest.mark.skipif(
    not os.environ.get("GPTBAYES_SLOW_TESTS"),
    reason="builds a second, threaded command line (two minutes): set GPTBAYES_SLOW_TESTS=1",
)
def test_threads_give_the_same_draws(model, data):
    executable = toolchain.compile_program(
        PROGRAMS / "known.stan", [PROGRAMS], cpp_options={"STAN_THREADS": True}
    )
    threaded = cmdstanpy.CmdStanModel(exe_file=str(executable))
    assert threaded.exe_info()["STAN_THREADS"] == "true"
    options = {"chains": 2, "iter_sampling": 50, "seed": 3, "show_progress": False}
    together = threaded.sample(data, parallel_chains=2, **options)
    alone = model.sample(data, **options)
    np.testing.assert_array_equal(together.draws(), alone.draws())
    paths = threaded.pathfinder(data, seed=3, num_paths=4, num_threads=2, psis_resample=False)
    np.testing.assert_array_equal(
        paths.draws(), model.pathfinder(data, seed=3, num_paths=4, psis_resample=False).draws()
    )


def test_a_working_folder_may_vanish_while_one_looks_into_it(tmp_path):
    """A program ends, and its folder is removed, at any moment between two looks."""
    folder, stop = tmp_path / "working", threading.Event()

    def come_and_go():
        while not stop.is_set():
            folder.mkdir()
            (folder / "output.console").write_text("Iteration: 7 / 10\n")
            shutil.rmtree(folder)

    with ThreadPoolExecutor(max_workers=1) as pool:
        worker = pool.submit(come_and_go)
        try:
            seen = {interface.last_iteration(folder) for _ in range(20_000)}
        finally:
            stop.set()
        worker.result()
    assert seen <= {0, 7}


def test_what_a_program_prints_is_read_while_it_runs_and_after(known_executable, data, tmp_path):
    assert interface.last_iteration(tmp_path) == 0
    options = {"chains": 1, "iter_warmup": 150, "iter_sampling": 50, "seed": 1}
    fit = interface.run(known_executable, "sample", data=data, output_dir=str(tmp_path), **options)
    assert fit.draws().shape[:2] == (50, 1)
    assert interface.last_iteration(tmp_path) == 200
    text = interface.console(tmp_path).read_text()
    assert text.startswith("method = sample")
    console = interface.console(tmp_path)
    lines = text.splitlines()
    middle = next(i for i, line in enumerate(lines) if line.startswith("Iteration: 100 "))
    console.write_text("\n".join(lines[: middle + 1]) + "\nIteration: 2")  # half a line
    assert interface.last_iteration(tmp_path) == 100


def test_a_failing_program_leaves_its_reason(known_executable, data, tmp_path):
    with pytest.raises(RuntimeError):
        interface.run(
            known_executable, "optimize", data={**data, "prior_sd": -1.0}, output_dir=str(tmp_path)
        )
    assert "prior_sd" in interface.console(tmp_path).read_text()


def test_the_script_beside_a_program_passes_everything_on(known_executable):
    script = known_executable.with_name(f"{known_executable.name}.logged")
    plain, logged = (
        subprocess.run([program, "info"], capture_output=True, text=True)
        for program in (known_executable, script)
    )
    assert (plain.returncode, plain.stdout) == (logged.returncode, logged.stdout)
    assert "stan_version_major = 2" in logged.stdout
    assert subprocess.run([script, "nonsense"], capture_output=True).returncode == 1


def test_cmdstanpy_2_asks_for_a_newer_cmdstan(monkeypatch):
    assert interface.OLDEST_CMDSTAN == (2, 33)
    monkeypatch.setattr(cmdstanpy, "__version__", "2.0.0")
    try:
        assert importlib.reload(interface).OLDEST_CMDSTAN == (2, 37)
    finally:
        monkeypatch.undo()
        importlib.reload(interface)


def test_nothing_private_of_cmdstanpy_is_used():
    for path in Path(gptbayes.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert "CmdStan" not in "".join(map(ast.unparse, node.bases)), path
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("cmdstanpy."):
                assert "._" not in ast.unparse(node).replace(".__version__", ""), path


def test_the_pipe_of_a_program_is_open_until_it_ends(known_executable, tmp_path):
    """cmdstanpy reads it in a loop, which would keep a core busy if it were closed."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 0.5\necho said\ntouch ended\n")
    program.chmod(0o755)
    script = known_executable.with_name(f"{known_executable.name}.logged")
    logged = shutil.copy(script, tmp_path / "program.logged")
    arguments = [logged, "output", f"file={tmp_path / 'draws.csv'}"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=tmp_path) as running:
        assert running.stdout.read() == b""
        assert (tmp_path / "ended").exists()
    assert (tmp_path / "draws.console").read_text() == "said\n"
