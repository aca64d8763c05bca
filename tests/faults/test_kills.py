"""Processes killed at random moments, no room, two at once: the same command, the same draws."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from problems import TEXT

from gptbayes.fit import read_draws
from gptbayes.processes import descendants

SEED = int(os.environ.get("FAULTS_SEED", "16"))
MANY = int(os.environ.get("FAULTS_MANY", "1"))

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("programs")]


class Fits:
    """The same fit again and again, each in a folder of its own."""

    def __init__(self, folder):
        self.folder, text = folder, folder / "text.txt"
        text.write_text(TEXT)
        sizes = ["--block-size", 5, "--batch-size", 11, "--n-embed", 6]
        length = ["--chains", 3, "--warmup", 150, "--draws", 150]
        self.arguments = ["fit", "--stage", "03", "--text", text, *sizes, *length]
        begun = time.monotonic()
        self.whole = folder / "whole"
        assert self.ended(self.start(self.whole))[0] == 0
        self.seconds = time.monotonic() - begun
        self.draws = read_draws(self.whole)

    def start(self, out, *, before=(), **options):
        """The command, perhaps after another that starts it."""
        command = [sys.executable, "-m", "gptbayes", *map(str, self.arguments), "--out", str(out)]
        return subprocess.Popen(
            [*before, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def ended(self, process):
        """Its status and what it said."""
        _, told = process.communicate(timeout=300)
        assert "Traceback" not in told
        return process.returncode, told

    def resumed(self, out):
        """The same command finishes the run, with the draws of one that nothing happened to."""
        status, told = self.ended(self.start(out))
        assert status == 0, told
        for ours, theirs in zip(read_draws(out), self.draws, strict=True):
            for name, value in theirs.variables.items():
                np.testing.assert_array_equal(ours.variables[name], value)
        hidden = [path.name for path in out.rglob(".*") if not path.name.endswith(".lock")]
        assert hidden == []
        return True


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    return Fits(tmp_path_factory.mktemp("kills"))


def programs():
    """Compiled programs that this process started, through others."""
    return [pid for pid, line in descendants().items() if "/models/" in line]


@pytest.mark.parametrize("victim", ["the command", "a chain"])
def test_killed_at_a_random_moment(fits, tmp_path, survived, victim):
    chosen, killed = random.Random(f"{SEED} {victim}"), 0
    for k in range(2 * MANY):
        out = tmp_path / str(k)
        process = fits.start(out)
        if victim == "the command":
            time.sleep(chosen.uniform(0.1, 0.9) * fits.seconds)
            process.kill()
            happened = True
        else:
            happened = kill_a_chain(process, chosen.uniform(0, 0.2))
        status, told = fits.ended(process)
        if victim == "a chain" and happened and status:  # 0: it was asked for its version only
            assert "was ended by signal SIGKILL" in told, told
        assert fits.resumed(out)
        if happened and status:
            killed += 1
            survived(f"kills of {victim}")
    assert killed > 0


def kill_a_chain(process, seconds):
    """Wait until a chain runs, and then a while; whether one was there to be killed."""
    while process.poll() is None and not programs():
        time.sleep(0.01)
    time.sleep(seconds)
    for pid in programs()[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def test_no_room_for_a_file(fits, tmp_path, survived):
    """Files may not grow beyond a random size, as on a full disk."""
    chosen = random.Random(SEED)
    largest = max(path.stat().st_size for path in (fits.whole / "csv").iterdir())
    for k in range(2 * MANY):
        out, most = tmp_path / str(k), int(largest ** chosen.uniform(0.5, 0.99))
        status, told = fits.ended(fits.start(out, before=limited(most)))
        assert status in (1, 2), told
        assert len([line for line in told.splitlines() if line.startswith("gptbayes: ")]) == 1
        assert fits.resumed(out)
        survived("files without room")


def limited(most):
    """Start a command whose files have at most so many bytes."""
    code = (
        "import os, resource, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return sys.executable, "-c", code


def test_two_commands_on_one_folder(fits, tmp_path, survived):
    """One works, and the other is refused or finds the run finished."""
    for k in range(MANY):
        out = tmp_path / str(k)
        both = [fits.start(out), fits.start(out)]
        ends = [fits.ended(process) for process in both]
        assert 0 in [status for status, _ in ends], ends
        assert all(status == 0 or "another process" in told for status, told in ends), ends
        assert fits.resumed(out)
        survived("simultaneous fits of one folder")
