"""Processes that share a run directory and nothing else, one unit each: jobs of a cluster."""

from __future__ import annotations

import subprocess
import sys

import filelock
import numpy as np
import pytest
from problems import small_problem

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.fit.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("programs")
NUTS = ["fit", "--stage", "02", "--chains", "3", "--warmup", "40", "--draws", "30"]
SETTINGS = {"chains": 4, "superchains": 2, "iter_warmup": 30, "iter_sampling": 20, "seed": 2}


def same_draws(ours, theirs):
    for one, other in zip(fit.read_draws(ours), fit.read_draws(theirs), strict=True):
        for name, value in other.variables.items():
            np.testing.assert_array_equal(one.variables[name], value)


def test_one_process_for_each_chain(tmp_path):
    """All begin at once, in a folder that is not there; a last one checks and records."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "gptbayes", *NUTS, "--out", str(out)]
    tasks = [
        subprocess.Popen([*command, "--only", f"chain-{k}"], stderr=subprocess.PIPE, text=True)
        for k in (1, 2, 3)
    ]
    for task in tasks:
        _, told = task.communicate(timeout=300)
        assert task.returncode == 0, told
    written = {path: path.stat().st_mtime_ns for path in (out / "csv").iterdir()}
    assert {path.name for path in written} == {f"chain-{k}.csv" for k in (1, 2, 3)}
    assert main([*NUTS, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {"config.json", "csv/chain-1.csv", "csv/chain-3.csv"} <= set(read_manifest(out))
    assert main([*NUTS, "--out", str(tmp_path / "at-once")]) == 0
    same_draws(out, tmp_path / "at-once")


@pytest.mark.parametrize(
    "method, settings, words",
    [
        ("nuts", {**SETTINGS, "init": "pathfinder"}, ("chain", 4)),
        ("hmc", {**SETTINGS, "init": "pathfinder"}, ("chain", 4)),
        ("pathfinder", {"paths": 2, "draws": 5}, ("path", 2)),
        ("optimize", {"starts": 2}, ("start", 2)),
    ],
)
def test_nothing_is_locked_and_nothing_else_is_run(tmp_path, method, settings, words):
    run, problem, (word, count) = getattr(fit, method), small_problem("02"), words
    out = tmp_path / "run"
    out.mkdir()
    with filelock.FileLock(out / ".lock"), filelock.FileLock(out / ".manifest.json.lock"):
        run(problem, out, only=f"{word}-2", **settings)
    assert [path.name for path in (out / "csv").iterdir()] == [f"{word}-2.csv"]
    paths = {path.name for path in (out / "init").glob("path*.csv")}
    sampled = method in fit.MARKOV_CHAINS
    assert paths == ({"path-1.csv"} if sampled else set())  # of its superchain
    warmed = {path.name for path in (out / "init").glob("warm-up*.csv")}
    assert warmed == ({"warm-up-2.csv"} if method == "hmc" else set())
    run(problem, out, **settings)
    assert len(list((out / "csv").iterdir())) == count
    run(problem, tmp_path / "at-once", **settings)
    same_draws(out, tmp_path / "at-once")


def test_more_draws_one_chain_at_a_time(tmp_path):
    problem, settings = small_problem("02"), {**SETTINGS, "chains": 2}
    for out in ("run", "at-once"):
        fit.nuts(problem, tmp_path / out, **settings)
    settings["iter_sampling"] = 35
    for out, only in (("run", "chain-1"), ("run", "chain-2"), ("run", None), ("at-once", None)):
        fit.nuts(problem, tmp_path / out, only=only, **settings)
    same_draws(tmp_path / "run", tmp_path / "at-once")


def test_an_unknown_unit_is_told_of_the_others(tmp_path, capsys):
    assert main([*NUTS, "--out", str(tmp_path), "--only", "chain-4"]) == 2
    assert "only must be chain-1 to chain-3, got 'chain-4'" in capsys.readouterr().err
    smc = ["fit", "--stage", "02", "--method", "smc", "--only", "replicate-1"]
    assert main([*smc, "--out", str(tmp_path)]) == 2
    assert "--only has no effect with method smc" in capsys.readouterr().err
