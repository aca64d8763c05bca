"""The cores that this process may use, and the processes that it started and how they are ended.

Imports the standard library only, so that the command can use it before anything else is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

PATIENCE = 1.0
"""Seconds that a process has to end by itself before it is killed."""


def n_cores() -> int:
    """Count the cores that this process may use, which are not always all that there are.

    Returns
    -------
    int
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def descendants() -> dict[int, str]:
    """The command line of every running process below this one, by its number.

    Returns
    -------
    dict of int to str
        Empty on a system that does not tell.
    """
    table = _from_proc() if Path("/proc/self/stat").exists() else _from_ps()
    below, found = [os.getpid()], dict[int, str]()
    while below:
        below = [pid for pid, (parent, _) in table.items() if parent in below and pid not in found]
        found |= {pid: table[pid][1] for pid in below}
    return found


def end_descendants(words: Iterable[str] = ("",), patience: float = PATIENCE) -> None:
    """End processes below this one, by force those that have not ended in time.

    Parameters
    ----------
    words : iterable of str
        Those whose command line has one of these; by default all.
    patience : float
        Seconds between asking and force.
    """
    words, begun = list(words), time.monotonic()
    while chosen := [pid for pid, line in descendants().items() if any(w in line for w in words)]:
        late = time.monotonic() - begun
        if late > patience + 1:  # the system itself holds them, as a disk that does not answer
            return
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if late > patience else signal.SIGTERM)
        time.sleep(0.02)


def _from_proc():
    """Parent and command line by process, of those that are no zombies."""
    table = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                table[int(folder.name)] = int(parent), line.decode(errors="surrogateescape")
    return table


def _from_ps():
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,command="]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.split(maxsplit=3) for line in lines.splitlines()]
    return {int(r[0]): (int(r[1]), r[3]) for r in rows if len(r) == 4 and r[2][0] != "Z"}
