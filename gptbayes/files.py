"""Files that are there whole or not at all, and what killed processes left of them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

ABANDONED_AGE = 86_400.0
"""Seconds after which an unfinished file of another machine's process counts as a leftover."""

_numbers = itertools.count()


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside another one, which takes its place when it is complete.

    Parameters
    ----------
    path : path
        What is to be written.

    Yields
    ------
    pathlib.Path
        To write to. It is removed if the block fails.
    """
    path = Path(path)
    name = f".{path.name}.part-{_machine()}-{os.getpid()}-{next(_numbers)}"
    partial = path.with_name(name)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files of `replacing` whose process is gone.

    Parameters
    ----------
    folder : pathlib.Path
        Only files in this folder itself are looked at.
    """
    for path in folder.glob(".*.part-*"):
        with contextlib.suppress(OSError, ValueError):
            machine, process, _ = path.name.rpartition(".part-")[2].rsplit("-", 2)
            age = time.time() - path.stat().st_mtime
            gone = not _is_running(int(process)) if machine == _machine() else age > ABANDONED_AGE
            if gone:
                path.unlink()


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is allowed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _machine():
    return platform.node().replace("/", "_") or "machine"


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
