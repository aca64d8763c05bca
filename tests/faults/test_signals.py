"""Signals in every phase of a command: one line, no process and no temporary file left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from problems import TEXT

from gptbayes import home
from gptbayes.files import ABANDONED_AGE, remove_leftovers, replacing
from gptbayes.fit import read_draws
from gptbayes.processes import descendants, end_descendants

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
WORD = {signal.SIGINT: "interrupted", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Started:
    """The command with a temporary folder of its own, in a session of its own."""

    def __init__(self, tmp_path, *arguments, before=()):
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "gptbayes", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            start_new_session=True,
        )

    def wait_for(self, something, seconds=300):
        deadline = time.monotonic() + seconds
        while not something():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(self, number):
        """Send a signal to the parent alone; its error output, and how long programs lived on."""
        begun = time.monotonic()
        self.process.send_signal(number)
        while any(b"/models/" in line for line in sessions(self.process.pid)):
            time.sleep(0.01)
        seconds = time.monotonic() - begun
        _, errors = self.process.communicate(timeout=60)
        return errors, seconds

    def left_behind(self):
        """Processes of the session, and temporary files."""
        return sessions(self.process.pid), list(self.temporary.iterdir())


def is_locked(path):
    """Whether a process holds the file locked; it is there a moment before it is locked."""
    return f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


def sessions(leader):
    """Processes of a session that are no zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) == leader and state != "Z":
            found.append((folder / "cmdline").read_bytes())
    return found


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    sizes = ["--block-size", 5, "--batch-size", 11, "--n-embed", 6, "--n-head", 3]
    text = ["--text", tmp_path / "text.txt", "--out", tmp_path / "run"]
    return ["fit", "--stage", "05", *text, *sizes]


def one_line(errors, number):
    lines = [line for line in errors.splitlines() if line.startswith("gptbayes: ")]
    return len(lines) == 1 and WORD[number] in lines[0] and "Traceback" not in errors


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("method", ["nuts", "smc"])
def test_a_signal_to_the_parent_alone_while_it_samples(
    arguments, tmp_path, survived, number, method
):
    """Finished chains stay, and the same command runs those that are missing."""
    more = {
        "nuts": ["--chains", 5, "--warmup", 300, "--draws", 300],
        "smc": ["--replicates", 2, "--chains", 40, "--moves", 20],
    }[method]
    started = Started(tmp_path, *arguments, "--method", method, *more)
    pattern = {"nuts": "csv/chain-*.csv", "smc": "csv/replicate-*/level-2.npz"}[method]
    started.wait_for(lambda: list(tmp_path.glob(f"run/{pattern}")))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"run/{pattern}")}
    errors, seconds = started.send(number)
    assert started.process.returncode == 1, errors
    assert one_line(errors, number), errors
    assert seconds < 2
    assert started.left_behind() == ([], [])
    assert not [path for path in tmp_path.glob("run/**/.*") if not path.name.endswith(".lock")]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    survived("signals while it samples")


@pytest.mark.usefixtures("programs")
def test_what_was_kept_is_used(arguments, tmp_path):
    more = ["--chains", 3, "--warmup", 300, "--draws", 200]
    started = Started(tmp_path, *arguments, *more)
    first = tmp_path / "run" / "csv" / "chain-1.csv"
    started.wait_for(lambda: list(tmp_path.glob("run/csv/chain-*.csv")))
    started.send(signal.SIGTERM)
    kept = {path: path.stat().st_mtime_ns for path in first.parent.glob("chain-*.csv")}
    again = Started(tmp_path, *arguments, *more)
    _, errors = again.process.communicate(timeout=300)
    assert again.process.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(read_draws(tmp_path / "run")) == 3


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("reached", ["gptbayes.signals", "numpy", "rich.console", "gptbayes.cli"])
def test_a_signal_during_imports(tmp_path, survived, number, reached):
    """The interpreter tells which modules it has imported."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "gptbayes", "fit", "--stage", "05"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.rpartition("|")[2].strip() == reached:
            break
    time.sleep(0.02)  # from the import of the module to its use
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors[-2000:]
    assert one_line(errors, number), errors[-2000:]
    assert not list(temporary.iterdir())
    assert sessions(process.pid) == []
    survived("signals during imports")


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_in_code_that_was_a_string(tmp_path, number):
    """Dataclasses are made of such code; Python remembers interrupts that pass through it."""
    inside = f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(5)"
    (tmp_path / "command.py").write_text(
        f"import sys\nfrom gptbayes import signals\nsys.exit(signals.run(lambda: exec({inside!r})))"
    )
    arguments = [sys.executable, "-m", "command"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert one_line(done.stderr, number), done.stderr


@pytest.mark.usefixtures("programs")
def test_a_signal_that_is_ignored_stays_ignored(arguments, tmp_path):
    """Under nohup a fit survives the end of its terminal."""
    more = ["--chains", 1, "--warmup", 300, "--draws", 100]
    started = Started(tmp_path, *arguments, *more, before=["nohup"])
    started.wait_for(lambda: list(tmp_path.glob("run/csv/.chain-1.csv.part-*")))
    started.process.send_signal(signal.SIGHUP)
    _, errors = started.process.communicate(timeout=300)
    assert started.process.returncode == 0, errors


@pytest.mark.slow
def test_leftovers_of_a_killed_command_are_removed_by_the_next(tmp_path):
    """A temporary folder of a living process stays."""
    started = Started(tmp_path, "setup", "--check")
    started.wait_for(lambda: any(map(is_locked, started.temporary.glob("gptbayes-tmp-*/lock"))))
    (folder,) = started.temporary.iterdir()
    started.process.send_signal(signal.SIGSTOP)
    beside = Started(tmp_path, "fit", "--stage", "13")
    beside.process.communicate(timeout=60)
    assert folder.is_dir()
    os.killpg(started.process.pid, signal.SIGKILL)
    started.process.communicate()
    assert folder.is_dir()
    after = Started(tmp_path, "fit", "--stage", "13")
    after.process.communicate(timeout=60)
    assert list(started.temporary.iterdir()) == []


def test_unfinished_files_of_dead_processes_are_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    with replacing(tmp_path / "posterior.nc") as mine:
        mine.write_text("half")
        head, _, number = mine.name.rpartition("-")
        machine = head.rpartition("-")[0]
        dead = tmp_path / f"{machine}-{gone.pid}-{number}"
        fresh = tmp_path / f".posterior.nc.part-elsewhere-{gone.pid}-0"
        old = tmp_path / f".posterior.nc.part-elsewhere-{gone.pid}-1"
        for path in (dead, fresh, old, tmp_path / ".lock"):
            path.touch()
        os.utime(old, (0, time.time() - ABANDONED_AGE - 60))
        remove_leftovers(tmp_path)
        assert set(tmp_path.iterdir()) == {mine, fresh, tmp_path / ".lock"}
    assert (tmp_path / "posterior.nc").read_text() == "half"


@pytest.mark.slow
def test_what_does_not_end_by_itself_is_killed():
    """Those with other words in their command line go on."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)  # stubborn"
    ended = subprocess.Popen([sys.executable, "-c", stubborn])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # other"])
    time.sleep(0.5)
    assert {ended.pid, other.pid} <= set(descendants())
    begun = time.monotonic()
    end_descendants(["# stubborn"], patience=0.5)
    assert 0.4 < time.monotonic() - begun < 2
    assert ended.wait(timeout=1) == -signal.SIGKILL
    assert other.poll() is None
    end_descendants(["# other"])
    assert other.wait(timeout=1) == -signal.SIGTERM


def test_a_process_has_one_temporary_folder():
    folder = home.temporary_folder()
    assert folder == home.temporary_folder()
    assert folder.stat().st_mode & 0o77 == 0
