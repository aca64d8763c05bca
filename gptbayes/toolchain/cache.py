"""The per-user cache: where things are, and how a folder gets there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from gptbayes import home
from gptbayes.toolchain.errors import ToolchainError

_NAMES = {" ": "a space", "\t": "a tab", "\n": "a line break"}


def cache_folder() -> Path:
    """The environment variable GPTBAYES_CACHE, or the user's cache folder.

    Raises
    ------
    ToolchainError
        If there is none, or its path has characters that make or the shell would not take as
        they are.
    """
    given = os.environ.get("GPTBAYES_CACHE")
    try:
        folder = Path(given).expanduser() if given else platformdirs.user_cache_path("gptbayes")
    except RuntimeError as error:  # of expanduser: a user without a home
        raise ToolchainError(f"GPTBAYES_CACHE={given}: {error}") from None
    if not given and (home.is_temporary(folder) or not folder.is_absolute()):
        raise ToolchainError(
            "the user has no cache folder to write to: set GPTBAYES_CACHE to one that is kept"
        )
    folder = folder.absolute()
    bad = next((each for each in str(folder) if not _is_plain(each)), None)
    if bad is not None:
        raise ToolchainError(
            f"the cache folder {str(folder)!r} has {_NAMES.get(bad, repr(bad))} in its path, which "
            "make or the shell would not take as it is: set GPTBAYES_CACHE to another folder"
        )
    return folder


def key(parts: Iterable[str | bytes]) -> str:
    """Twelve hexadecimal digits that change with any of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold a lock while making or mending `target`; the system frees it if we are killed.

    Raises
    ------
    ToolchainError
        If its folder cannot be written to.
    """
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter of disks that know no locks
        raise ToolchainError(
            f"cannot write to the cache folder {target.parent}: "
            f"{getattr(error, 'strerror', None) or error}; "
            "set GPTBAYES_CACHE to a folder you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def folder_once(target: Path, fill: Callable[[Path], object]) -> Path:
    """Make a folder once, whoever asks and however often, and never by halves.

    The folder is filled under another name beside its place and renamed when it is complete.
    One process fills it, others wait. What a killed process left behind is swept away.

    Parameters
    ----------
    target
        Where the folder shall be.
    fill
        Called with an empty folder that it fills; what it raises is raised.

    Returns
    -------
    Path
        `target`.
    """
    if target.is_dir():
        return target
    with locked(target):
        if target.is_dir():
            return target
        prefix = f".{target.name}.part-"
        for left_behind in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            fill(part)
            part.chmod(0o755)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _is_plain(character: str) -> bool:
    """Whether make and the shell take a character as it is: letters of any script, and some."""
    plain = character.isalnum() or character in "/._-+@~"
    return plain or (ord(character) > 127 and not character.isspace())
