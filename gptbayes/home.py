"""Folders for what is no result: a cache where the user has none, and temporary files.

ArviZ 0.2x makes a folder below the user's cache when it is imported, and no program that imports
it starts where that cannot be made: without a home, with a read-only one, in a container whose
user is unknown. Matplotlib complains and goes on with a temporary folder of its own.

Temporary files of a process are in one folder, which the process holds locked and removes at its
end. If it is killed, the system frees the lock, and the next process removes the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PREFIX = "gptbayes-tmp-"
_temporary: dict[int, Path] = {}
_caches: list[Path] = []


def provide_cache_folder() -> None:
    """Give this process, and those that it starts, a temporary cache folder if there is none."""
    if _caches:
        return
    if not Path(os.environ.get("HOME", "/")).is_absolute():  # then the list of users has it
        del os.environ["HOME"]
    cache, config = platformdirs.user_cache_path(), platformdirs.user_config_path()
    if _can_write(cache) and _can_write(config):
        return
    folder = temporary_folder()
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not _can_write(cache):
        _caches.append(folder)
        os.environ["XDG_CACHE_HOME"] = str(folder)


def is_temporary(folder: Path) -> bool:
    """Whether a folder is below one that `provide_cache_folder` made."""
    return any(each in folder.parents for each in _caches)


def temporary_folder() -> Path:
    """A folder for temporary files of this process, which is removed when it ends.

    Those of processes that were killed are removed first.

    Returns
    -------
    pathlib.Path
        The same whenever this process asks.
    """
    import atexit  # not at the top: without these the package is imported in half the time
    import tempfile

    process = os.getpid()
    if process not in _temporary:
        _remove_abandoned(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            lock = _locked(folder / "lock", os.O_CREAT)
        except BlockingIOError:  # another process came between, and is removing it
            return temporary_folder()
        _temporary[process] = folder
        atexit.register(_remove, folder, process, lock)
    return _temporary[process]


def _remove(folder, process, lock):
    import shutil

    if os.getpid() == process:  # not in a fork of it
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(parent):
    """Remove folders whose process was killed: their lock is free."""
    import shutil

    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
        except OSError:
            continue
        try:
            lock = _locked(folder / "lock", 0)
        except BlockingIOError:
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(path, flags):
    """A descriptor of a file that this process has locked; None where no file can be locked.

    Raises
    ------
    BlockingIOError
        If another process holds it, or removed it before we had it.
    """
    import fcntl

    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        if flags and not path.parent.exists():
            raise BlockingIOError from None
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(lock).st_nlink:
            raise BlockingIOError
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return lock


def _can_write(folder: Path) -> bool:
    """Whether a folder is there, or could be made, and files can be made in it."""
    if not folder.is_absolute():  # "~", where nobody knows what it stands for
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
