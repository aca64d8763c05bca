"""The per-user cache: where things are, and how a folder gets there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from gptbayes import home
from gptbayes.files import replacing, sha256
from gptbayes.toolchain.errors import ToolchainError

_DIGESTS = ".digests.json"
_log = logging.getLogger("gptbayes")
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


def folder_once(
    target: Path, fill: Callable[[Path], object], checked: tuple[str, ...] = ("**/*",)
) -> Path:
    """Make a folder once, whoever asks and however often, and never by halves.

    The folder is filled under another name beside its place and renamed when it is complete.
    One process fills it, others wait. What a killed process left behind is swept away. A folder
    whose files are not those that were written, as after a fault of the disk, is made again: a
    damaged library would end the process that loads it without a word.

    Parameters
    ----------
    target
        Where the folder shall be.
    fill
        Called with an empty folder that it fills; what it raises is raised.
    checked
        Patterns of the files whose digests are kept in the folder and compared.

    Returns
    -------
    Path
        `target`.
    """
    if target.is_dir() and not _damaged(target, checked):
        return target
    with locked(target):
        damaged = target.is_dir() and _damaged(target, checked)
        if target.is_dir() and not damaged:
            return target
        prefix = f".{target.name}.part-"
        for left_behind in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            if damaged:
                _log.warning("%s is damaged (%s) and is made again", target, damaged)
                target.rename(part / "damaged")  # programs that run have it open
                shutil.rmtree(part / "damaged", ignore_errors=True)
            fill(part)
            _write_digests(part, checked)
            part.chmod(0o755)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _damaged(folder: Path, checked: tuple[str, ...]) -> str:
    """The first file that is not as it was written, an empty text if all are."""
    path = folder / _DIGESTS
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        for name, digest in written.items():
            if (folder / name).is_file() and sha256(folder / name) == digest:
                continue
            return name
    except FileNotFoundError:  # of a version that kept none
        with contextlib.suppress(OSError):
            _write_digests(folder, checked)
    except (OSError, ValueError, AttributeError):
        return path.name
    return ""


def _write_digests(folder: Path, checked: tuple[str, ...]) -> None:
    paths = sorted({path for pattern in checked for path in folder.glob(pattern)})
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    digests = {str(path.relative_to(folder)): sha256(path) for path in files}
    with replacing(folder / _DIGESTS) as partial:
        partial.write_text(json.dumps(digests), encoding="utf-8")


def _is_plain(character: str) -> bool:
    """Whether make and the shell take a character as it is: letters of any script, and some."""
    plain = character.isalnum() or character in "/._-+@~"
    return plain or (ord(character) > 127 and not character.isspace())
