"""The per-user cache: where things are, and how a folder gets there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from filelock import FileLock

from gptbayes.toolchain.errors import ToolchainError


def cache_folder() -> Path:
    """The environment variable GPTBAYES_CACHE, or the user's cache folder.

    Raises
    ------
    ToolchainError
        If its path has spaces, which make cannot handle.
    """
    given = os.environ.get("GPTBAYES_CACHE")
    folder = Path(given).expanduser() if given else platformdirs.user_cache_path("gptbayes")
    folder = folder.absolute()
    if any(character.isspace() for character in str(folder)):
        raise ToolchainError(
            f"the cache folder {str(folder)!r} has spaces in its path, which make cannot handle: "
            "set GPTBAYES_CACHE to another folder"
        )
    return folder


def key(parts: Iterable[str | bytes]) -> str:
    """Twelve hexadecimal digits that change with any of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:12]


def lock(target: Path) -> FileLock:
    """The lock to hold while making or mending `target`; the system frees it if we are killed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(
            f"cannot write to the cache folder {target.parent}: {error.strerror}; "
            "set GPTBAYES_CACHE to a folder you may write to"
        ) from error
    return FileLock(target.parent / f".{target.name}.lock")


def folder_once(target: Path, fill: Callable[[Path], None]) -> Path:
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
    with lock(target):
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
