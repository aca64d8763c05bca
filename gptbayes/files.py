"""Files that are there whole or not at all, and what killed processes left of them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import os
import platform
import shutil
import tempfile
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
    partial = path.with_name(f"{_unfinished(path)}{next(_numbers)}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def work_folder(path: Path) -> Path:
    """Make a folder beside a file, in which the file is made; its name says by which process.

    Parameters
    ----------
    path : pathlib.Path
        What is to be written.

    Returns
    -------
    pathlib.Path
        To be removed when the file is there.

    See Also
    --------
    work_folder_of : One that a process uses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_unfinished(path), dir=path.parent))


def work_folder_of(path: Path) -> Path | None:
    """A folder in which a file is being made, None if there is none."""
    return next(path.parent.glob(f".{glob.escape(path.name)}.part-*"), None)


def made_in(path: Path) -> str:
    """The name of the file that is being made in a folder of `work_folder`; else nothing.

    Examples
    --------
    >>> made_in(Path(".chain-1.csv.part-machine-12-x")), made_in(Path("chain-1.csv"))
    ('chain-1.csv', '')
    """
    name, _, end = path.name.rpartition(".part-")
    return name.removeprefix(".") if end else ""


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove files of `replacing` and folders of `work_folder` whose process is gone.

    Parameters
    ----------
    folder : pathlib.Path
        Only what is in this folder itself is looked at.
    """
    for path in folder.glob(".*.part-*"):
        with contextlib.suppress(OSError, ValueError):
            machine, process, _ = path.name.rpartition(".part-")[2].rsplit("-", 2)
            age = time.time() - max(each.stat().st_mtime for each in (path, *path.rglob("*")))
            gone = not _is_running(int(process)) if machine == _machine() else age > ABANDONED_AGE
            if gone:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is allowed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _unfinished(path):
    return f".{path.name}.part-{_machine()}-{os.getpid()}-"


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
