"""The digest of every complete file of a run, so that damage is found when the file is read.

``manifest.json`` is written when a file is complete. Files that carry checksums of their own have
no entry: ``posterior.nc`` and ``symmetry.nc`` the digest of their contents, the levels of
sequential Monte Carlo those of the zip format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import filelock

from gptbayes.files import replacing, sha256
from gptbayes.fit import schema

FILE = "manifest.json"
PATIENCE = 60.0
"""Seconds to wait for another process that is writing the manifest."""


def record(folder: Path, paths: Iterable[Path]) -> None:
    """Record files as they are now.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.
    paths : iterable of pathlib.Path
        Complete files in it.

    Raises
    ------
    OSError
        If another process has locked the manifest for a minute.
    """
    digests = {_name(folder, path): sha256(path) for path in paths}
    lock = filelock.FileLock(folder / f".{FILE}.lock", timeout=PATIENCE)
    try:
        with lock:
            known = read_manifest(folder)
            kept = {name: digest for name, digest in known.items() if (folder / name).exists()}
            if known != (kept := kept | digests):
                _write(folder / FILE, dict(sorted(kept.items())))
    except filelock.Timeout:
        raise OSError(f"{folder / FILE} is locked by another process") from None


def forget(folder: Path, path: Path) -> None:
    """Remove the entry of a file that will be replaced.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.
    path : pathlib.Path
        A file in it.
    """
    known = read_manifest(folder)
    if known.pop(_name(folder, path), None):
        _write(folder / FILE, known)


def unrecorded(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Select the files of a run that have no entry in the manifest.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.
    paths : iterable of pathlib.Path
        Files in it.

    Returns
    -------
    list of pathlib.Path
    """
    known = read_manifest(folder)
    return [path for path in paths if _name(folder, path) not in known]


def verify(folder: Path, path: Path, remedy: str) -> None:
    """Check that a file has the digest that was recorded.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.
    path : pathlib.Path
        A file in it. A file without an entry passes.
    remedy : str
        What to do if it is damaged.

    Raises
    ------
    ValueError
        If it has another digest. The message names the file and the remedy.
    """
    digest = read_manifest(folder).get(_name(folder, path))
    if digest is not None and path.is_file() and sha256(path) != digest:
        raise ValueError(
            f"{path} is damaged or was changed: its digest is not that in {FILE}; {remedy}"
        )


def read_manifest(folder: Path) -> dict[str, str]:
    """Read the SHA-256 digests of the recorded files.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.

    Returns
    -------
    dict of str to str
        By the name of the file in the run directory; empty without a manifest.

    Raises
    ------
    ValueError
        If the manifest is damaged or of a newer version.
    """
    path = folder / FILE
    try:
        content = schema.read(path, schema.Manifest)
    except FileNotFoundError:
        return {}
    if content.sha256 != _digest(content.files):
        raise ValueError(
            f"{path} is damaged or was changed: its own digest is another; if the files beside it "
            "are whole, delete it"
        )
    return content.files


def _write(path, files):
    content = {"schema": schema.SCHEMA, "sha256": _digest(files), "files": files}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _digest(files):
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _name(folder, path):
    return Path(path).absolute().relative_to(Path(folder).absolute()).as_posix()
