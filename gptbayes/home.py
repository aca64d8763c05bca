"""A cache folder for libraries that want one when they are imported, where the user has none.

ArviZ 0.2x makes a folder below the user's cache when it is imported, and no program that imports
it starts where that cannot be made: without a home, with a read-only one, in a container whose
user is unknown. Matplotlib complains and goes on with a temporary folder of its own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs

_temporary: list[Path] = []


def provide_cache_folder() -> None:
    """Give this process, and those that it starts, a temporary cache folder if there is none."""
    if _temporary:
        return
    if not Path(os.environ.get("HOME", "/")).is_absolute():  # then the list of users has it
        del os.environ["HOME"]
    cache, config = platformdirs.user_cache_path(), platformdirs.user_config_path()
    if _can_write(cache) and _can_write(config):
        return
    folder = Path(tempfile.mkdtemp(prefix="gptbayes-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not _can_write(cache):
        _temporary.append(folder)
        os.environ["XDG_CACHE_HOME"] = str(folder)


def is_temporary(folder: Path) -> bool:
    """Whether a folder is below one that `provide_cache_folder` made."""
    return any(each in folder.parents for each in _temporary)


def _can_write(folder: Path) -> bool:
    """Whether a folder is there, or could be made, and files can be made in it."""
    if not folder.is_absolute():  # "~", where nobody knows what it stands for
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
