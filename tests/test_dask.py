"""Fits on Dask workers that share no folder with the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from problems import small_problem

from gptbayes import fit
from gptbayes.fit import remote
from gptbayes.fit.directory import Run
from gptbayes.fit.units import make_unit
from gptbayes.toolchain import cache

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.usefixtures("programs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SETTINGS = {"chains": 3, "iter_warmup": 60, "iter_sampling": 40, "seed": 2}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A scheduler and two workers, started as commands; workers have a home of their own."""
    folder = tmp_path_factory.mktemp("dask")
    address, processes = start(folder, n_workers=2)
    yield address
    stop(processes)


def start(folder, n_workers):
    file = folder / "scheduler.json"
    common = [sys.executable, "-m", "distributed.cli"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = ["dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    processes = [subprocess.Popen([*module(common, command)], **quiet, cwd=folder)]
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    environment = {**os.environ, "GPTBAYES_CACHE": str(cache.cache_folder()), "HOME": str(folder)}
    for k in range(n_workers):
        own = folder / f"worker-{k}"
        own.mkdir()
        command = [
            "dask_worker",
            "--scheduler-file",
            str(file),
            "--nthreads",
            "1",
            "--no-dashboard",
        ]
        command += ["--no-nanny", "--local-directory", str(own)]
        processes.append(
            subprocess.Popen([*module(common, command)], **quiet, cwd=own, env=environment)
        )
    return str(file), processes


def module(common, command):
    name, *arguments = command
    return [*common[:2], f"{common[2]}.{name}", *arguments]


def stop(processes):
    for process in processes:
        process.kill()
        process.wait()


def same_draws(ours, theirs):
    for one, other in zip(fit.read_draws(ours), fit.read_draws(theirs), strict=True):
        for name, value in other.variables.items():
            np.testing.assert_array_equal(one.variables[name], value)


def test_workers_give_the_draws_of_this_machine(tmp_path, scheduler):
    """Digit for digit, with starting points by Pathfinder, and recorded as if they had run here."""
    problem = small_problem("02")
    settings = {**SETTINGS, "init": "pathfinder"}
    with distributed.Client(scheduler_file=scheduler) as client:
        client.wait_for_workers(2, timeout=120)
        there = fit.nuts(problem, tmp_path / "a", executor=client.get_executor(), **settings)
    here = fit.nuts(problem, tmp_path / "b", **settings)
    same_draws(there, here)
    assert {path.name for path in (there / "csv").iterdir()} == {
        f"chain-{k}.csv" for k in (1, 2, 3)
    }
    assert "csv/chain-3.csv" in fit.manifest.read_manifest(there)


def test_a_worker_that_is_killed_in_the_middle_of_a_chain(tmp_path):
    """Its unit runs on the other one, with the same draws."""
    problem = small_problem("05")
    settings = {**SETTINGS, "chains": 2, "iter_warmup": 300, "iter_sampling": 300}
    file, processes = start(tmp_path, n_workers=2)
    try:
        with distributed.Client(scheduler_file=file) as client:
            client.wait_for_workers(2, timeout=120)
            killer = threading.Timer(1.0, processes[1].send_signal, [signal.SIGKILL])
            killer.start()
            there = fit.nuts(problem, tmp_path / "a", executor=client.get_executor(), **settings)
            killer.join()
            assert processes[1].wait(timeout=5) == -signal.SIGKILL
    finally:
        stop(processes)
    same_draws(there, fit.nuts(problem, tmp_path / "b", **settings))


def test_another_version_and_a_changed_program_are_refused(tmp_path):
    run = Run(tmp_path, tmp_path / "exe", 1, small_problem("01").stage, "stan")
    (tmp_path / "data.json").write_text("{}")
    packed = remote.pack(run, make_unit(run, "chain 1", "sample", {}))
    with pytest.raises(RuntimeError, match=r"worker on .* has gptbayes .*, this is 0\.0\.1"):
        remote.run_remotely(replace(packed, version="0.0.1"), fit.run_unit)
    changed = replace(run, stage=replace(run.stage, folder=tmp_path))
    with pytest.raises(ValueError, match="not a changed one"):
        remote.pack(changed, make_unit(run, "chain 1", "sample", {}))


def test_no_scheduler_is_told_in_one_line(tmp_path):
    command = [sys.executable, "-m", "gptbayes", "fit", "--stage", "01", "--out", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, command), "--scheduler", "tcp://127.0.0.1:9"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no Dask scheduler at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
