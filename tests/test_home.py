"""Folders for temporary files, of many processes that begin and end at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPEN_AND_CLOSE = """
import atexit, sys, time
from gptbayes import home
for _ in range(int(sys.argv[1])):
    folder = home.temporary_folder()
    for _ in range(3):
        time.sleep(0)
        assert (folder / "lock").exists(), f"{folder} was removed"
    atexit._run_exitfuncs()
    home._temporary.clear()
    assert not folder.exists()
"""


@pytest.mark.slow
def test_nobody_removes_the_folder_of_a_process_that_runs(tmp_path, monkeypatch):
    """A folder can be found by others before its maker has locked it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_CLOSE, "200"], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in started:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told.decode()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = "import os; from gptbayes import home; home.temporary_folder(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    code = "from gptbayes import home; print(home.temporary_folder())"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir()) == []
