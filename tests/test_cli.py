"""The command, as a user types it: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from problems import TEXT

from gptbayes.fit import read_draws

pytestmark = pytest.mark.usefixtures("programs")

COMMAND = [sys.executable, "-m", "gptbayes"]


def run(*arguments, before=(), **kwargs):
    """Run the command, started by another one if `before` has one."""
    command = [*before, *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def fit_arguments(text, out, *more):
    sizes = ["--block-size", 5, "--batch-size", 11, "--n-embed", 6, "--n-head", 3]
    return ["fit", "--stage", "05", "--text", text, *sizes, "--out", out, *more]


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["setup"],
        ["stages"],
        ["fit"],
        ["text"],
        ["attention"],
        ["symmetry"],
        ["mixing"],
        ["compare"],
        ["report"],
    ],
)
def test_help_shows_an_example(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert f"examples:\n  gptbayes {command[0] if command else 'fit'}" in done.stdout


def test_stages_lists_twelve():
    done = run("stages")
    assert done.returncode == 0
    for words in ("01", "Bigram", "12", "Final", "sa_proj_multiplier", "01-log-gamma"):
        assert words in done.stdout


def test_setup_says_what_there_is_and_checks_it():
    done = run("setup", "--check")
    assert done.returncode == 0, done.stderr
    assert "2.35" in done.stdout or "cmdstan" in done.stdout.lower()


def test_fit_and_report(text, tmp_path):
    out = tmp_path / "a run of Müller's"
    more = ["--method", "pathfinder", "--paths", 2, "--draws", 30]
    done = run(*fit_arguments(text, out, *more))
    assert done.returncode == 0, done.stderr
    assert "Pareto k" in done.stdout
    following = done.stdout.strip().rpartition("next: ")[2]
    assert shlex.split(following) == ["gptbayes", "report", str(out)]
    done = run("report", out)
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").is_file()
    assert done.stdout.strip() == str(out / "report.html")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "13"], "unknown stage '13', valid stages: 01, 02"),
        (["--stage", "05", "--text", "none.txt"], "none.txt, which does not exist"),
        (["--stage", "05", "--n-embed", "6", "--n-head", "4"], "divisible by n_head, got 6 and 4"),
        (["--stage", "05", "--n-embed", "0"], "n_embed must be a positive integer, got 0"),
        (["--stage", "05", "--block-size", "800"], "text must fill two windows"),
        (["--stage", "05", "--block-size", "0"], "block_size"),
        (["--stage", "05", "--prior", "attention=-1"], "scale attention must be positive"),
        (["--stage", "01-log-gamma", "--prior", "concentration=0"], "scale concentration must be"),
        (["--stage", "05", "--prior", "heads=1"], "unknown prior scale 'heads', valid ones"),
        (["--stage", "05", "--prior", "attention"], "--prior must be FAMILY=SCALE"),
        (["--stage", "05", "--likelihood-weight", "-1"], "likelihood_weight must be 0 or more"),
        (["--stage", "05", "--chains", "0"], "chains must be a positive integer, got 0"),
        (["--stage", "05", "--superchains", "3"], "superchains must divide chains, got 3 and 4"),
        (["--stage", "05", "--held-out", "1.5"], "held_out_fraction must be between 0 and 1"),
        (["--stage", "05", "--characters", "0"], "a positive integer, got 0"),
        (["--stage", "11", "--dropout", "1.5"], "dropout must be at least 0 and less than 1"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(tmp_path, arguments, message):
    done = run("fit", *arguments, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x7fELF\0\0", "is a binary file"),
        (b"caf\xe9 au lait", "must be UTF-8"),
    ],
)
def test_unreadable_text(tmp_path, content, message):
    (tmp_path / "text").write_bytes(content)
    done = run("fit", "--stage", "01", "--text", tmp_path / "text", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_report_of_what_is_no_run(tmp_path):
    done = run("report", tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("has none")


def test_corrupted_draws_are_reported_in_one_line(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs["optimize"], folder)
    (folder / "posterior.nc").unlink(missing_ok=True)
    csv = folder / "csv" / "start-1.csv"
    csv.write_bytes(csv.read_bytes()[:3000])
    done = run("report", folder)
    assert done.returncode == 2
    assert "start-1.csv is damaged or was changed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_compiler_or_make(text, tmp_path):
    """An empty cache and a PATH without tools: one line that says what to install."""
    environment = {
        **os.environ,
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name in ("CMDSTAN", "CXX", "GPTBAYES_CACHE"):
        environment.pop(name, None)
    done = run(*fit_arguments(text, tmp_path / "run"), env=environment)
    assert done.returncode == 1
    assert "install" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_room_for_the_draws(text, tmp_path):
    """Files may grow to 300 kB, as on a disk that is nearly full: one line, and no half a path."""
    small_files = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    out, more = tmp_path / "run", ["--method", "pathfinder", "--paths", 1, "--draws", 400]
    done = run(*fit_arguments(text, out, *more), before=(sys.executable, "-c", small_files))
    assert done.returncode == 1
    assert "path 1 failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((out / "csv").iterdir()) == []
    done = run(*fit_arguments(text, out, *more))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fit_keeps_finished_chains_and_goes_on(text, tmp_path, how):
    """Killed after the first chain, to the whole process group as Ctrl-C is; then run again."""
    out = tmp_path / "run"
    settings = ["--chains", 5, "--warmup", 300, "--draws", 200]
    arguments = [*COMMAND, *map(str, fit_arguments(text, out, *settings))]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not list(out.glob("csv/chain-*.csv")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, how)
    _, stderr = process.communicate(timeout=60)
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("csv/chain-*.csv")}
    assert 1 <= len(finished) < 5
    if how == signal.SIGINT:
        assert process.returncode == 1
        assert "Traceback" not in stderr
        assert "interrupted" in stderr
    done = run(*fit_arguments(text, out, *settings))
    assert done.returncode == 0, done.stderr
    for name, time_ns in finished.items():
        assert (out / "csv" / name).stat().st_mtime_ns == time_ns
    assert len(read_draws(out)) == 5
    assert not list(out.glob("csv/.chain*"))
