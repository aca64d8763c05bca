"""Run directories: their configuration, their lock, and checks before a fit starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np

from gptbayes import __version__
from gptbayes.corpus import whole_number
from gptbayes.files import remove_leftovers, replacing
from gptbayes.fit import manifest, schema
from gptbayes.fit.programs import Program, executable_of
from gptbayes.fit.resources import check_resources
from gptbayes.model.problem import Problem
from gptbayes.model.stan_data import from_stan_data, stan_data
from gptbayes.toolchain import ensure_cmdstan, interface


def read_config(folder: str | Path) -> dict:
    """Read the configuration of a run directory.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict
        Stage, design, priors, method, settings, seed and versions, see `run_directory`.

    Raises
    ------
    ValueError
        If the folder is not a run directory, is of a newer version, or its configuration is
        malformed, damaged or changed by hand.
    """
    path = Path(folder) / "config.json"
    try:
        config = schema.read(path, schema.Config)
    except FileNotFoundError:
        raise ValueError(
            f"a run directory has a config.json, got {folder}, which has none"
        ) from None
    schema.check_settings(path, config)
    manifest.verify(Path(folder), path, _CHANGED)
    return json.loads(path.read_bytes())


def read_problem(folder: str | Path) -> Problem:
    """Read the problem of a run directory.

    Parameters
    ----------
    folder : path

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If the folder is not a run directory, or its data cannot be read.
    """
    config = read_config(folder)
    path = Path(folder) / "data.json"
    try:
        schema.read(path, schema.Data)
    except FileNotFoundError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    manifest.verify(Path(folder), path, "run the same fit again to write it anew")
    try:
        return from_stan_data(
            json.loads(path.read_bytes()),
            stage_number=config["stage"],
            characters=tuple(config["characters"]),
            source=config["source"],
        )
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is malformed: {_reason(error)}") from None


_CHANGED = f"restore it from a copy, or, if the change is meant, delete {manifest.FILE}"


def _reason(error):
    return f"it has no {error}" if isinstance(error, KeyError) else error


@dataclass(frozen=True)
class Run:
    """An open run directory.

    Attributes
    ----------
    folder : pathlib.Path
        Absolute.
    executable : pathlib.Path or None
        The compiled Stan program; None for a run without Stan.
    seed : int
    program : callable, optional
        Tells other machines what the program is made of.
    shared : bool
        Whether other processes run other units of it at the same time.
    """

    folder: Path
    executable: Path | None
    seed: int
    program: Callable[[], Program] | None = None
    shared: bool = False


@contextlib.contextmanager
def run_directory(
    problem, out, method, settings, seed, n_draws, *,
    kernels="auto", stan=True, growing=None, shared=False,
) -> Iterator[Run]:  # fmt: skip
    """Check, create and lock a run directory, and compile its program.

    Parameters
    ----------
    problem : Problem
    out : path
    method : str
    settings : dict
        Settings of the method, ready for JSON.
    seed : int
    n_draws : int
        Total number of draws, to estimate disk and memory.
    kernels : {"auto", "stan", "c++"}
        See `gptbayes.fit.programs`. For a run that exists, "auto" is its own choice.
    stan : bool
        False if the method needs neither Stan nor a program.
    growing : str, optional
        The setting that may be larger than that of the run which is there: it is then continued,
        and ``continued_after`` in its settings has the former value.
    shared : bool
        Whether other processes, maybe of other machines, run other units of the same run at the
        same time. The directory is then not locked, and nothing is recorded in its manifest: a
        later call does so.

    Yields
    ------
    Run

    Raises
    ------
    ValueError
        If the seed is out of range, the folder holds anything else than a run of this
        configuration, or another process has locked it.
    RuntimeError
        If disk or memory are too small.
    """
    seed = checked_seed(seed)
    folder = Path(out)
    config = _config(problem, method, settings, seed)
    if stan and kernels != "auto":
        config["kernels"] = kernels
    data = stan_data(problem)
    check_writable("the configuration", config)
    check_writable("the data", data)
    _check_configuration(folder, config, growing)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if shared else _locked(folder):
        check_resources(problem, folder, n_draws, settings)
        for name in ("csv", "init"):  # before anything is compiled: it may not be allowed
            (folder / name).mkdir(exist_ok=True)
            remove_leftovers(folder / name)
        remove_leftovers(folder)
        if stan:
            ensure_cmdstan()
        executable = _executable(problem.stage, folder, kernels) if stan else None
        if growing:
            _grow(folder, settings, growing)
        if not (folder / "config.json").exists():
            used = {"kernels": executable.kernels} if executable else {}
            versions = {"versions": _versions(stan), "schema": schema.SCHEMA}
            write_json(folder / "config.json", {**config, **used, **versions})
        write_json(folder / "data.json", data)
        if not shared:
            manifest.record(folder, [folder / "config.json", folder / "data.json"])
        if executable is None:
            yield Run(folder.absolute(), None, seed)
        else:
            of = (executable.path, problem.stage, executable.kernels)
            yield Run(folder.absolute(), executable.path, seed, lambda: Program.of(*of), shared)


@contextlib.contextmanager
def _locked(folder):
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _lock_error(folder) from None
    except NotImplementedError:  # of filelock, where the file system has no locks at all
        raise OSError(f"{folder} cannot be locked: its file system has no locks") from None
    with lock:
        yield


def _lock_error(folder):
    """Why a lock was not had: filelock waits for locks that are held and for those that fail."""
    try:
        import fcntl

        with open(folder / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except ImportError:
        pass
    except OSError as error:
        return OSError(f"{folder} cannot be locked: {error}")
    return ValueError(f"another process is working on {folder}")


def _executable(stage, folder, kernels):
    if kernels == "auto" and (folder / "config.json").exists():
        kernels = read_config(folder).get("kernels", "stan")
    return executable_of(stage, kernels)


def _config(problem, method, settings, seed):
    data = json.dumps(stan_data(problem), sort_keys=True).encode()
    return {
        "stage": problem.stage.number,
        "method": method,
        "settings": settings,
        "seed": seed,
        "source": problem.source,
        "design": {name: int(size) for name, size in asdict(problem.design).items()},
        "priors": asdict(problem.priors),
        "likelihood_weight": problem.likelihood_weight,
        "characters": list(problem.vocabulary.characters),
        "data_sha256": hashlib.sha256(data).hexdigest(),
    }


def _versions(stan):
    if not stan:
        return {"gptbayes": __version__, "numpy": np.__version__}
    return {
        "gptbayes": __version__,
        "cmdstanpy": interface.VERSION,
        "cmdstan": interface.version_in_use(),
    }


def _grow(folder, settings, growing):
    """Note in the configuration of a run that it is continued; what was made of it is outdated."""
    path = folder / "config.json"
    if not path.exists():
        return
    there = read_config(folder)
    before = there["settings"]
    if settings[growing] > before[growing]:
        after = [*before.get("continued_after", []), before[growing]]
        new = {**before, growing: settings[growing], "continued_after": after}
        for derived in ("posterior.nc", "symmetry.nc"):
            (folder / derived).unlink(missing_ok=True)
        _write_config(folder, {**there, "settings": new})


def note_setups(folder: Path, setups: Mapping[str, str]) -> None:
    """Note which files of a run were made on a machine with another set-up than this one's.

    Parameters
    ----------
    folder : pathlib.Path
        A run directory.
    setups : mapping of str to str
        Machine and set-up by name of the file.
    """
    there = read_config(folder) if setups else {}
    noted = {**there.get("setups", {}), **setups}
    if noted != there.get("setups", {}):
        _write_config(folder, {**there, "setups": noted})
        manifest.record(folder, [folder / "config.json"])


def _write_config(folder, config):
    manifest.forget(folder, folder / "config.json")  # killed between the two, either is whole
    write_json(folder / "config.json", config)


def _check_configuration(folder, config, growing=None):
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"a run needs a directory, got the file {folder}")
    if not (folder / "config.json").exists():
        begun = {folder / name for name in ("csv", "init")}  # before it was interrupted
        if any(_visible(folder) - begun) or any(_visible(each) for each in begun):
            raise ValueError(
                f"{folder} is not empty and not a run directory, choose another directory"
            )
        return
    there = read_config(folder)
    defaults = {f"settings.{k}": v for k, v in schema.default_settings(there["method"]).items()}
    existing, new = {**defaults, **_flat(there)}, _flat(config)
    differing = [key for key in new if new[key] != existing.get(key)]
    grown = f"settings.{growing}"
    if differing == [grown] and new[grown] > existing[grown]:
        return
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ValueError(
            f"{folder} holds a run of another configuration: {key} is {existing.get(key)!r} there, "
            f"{new[key]!r} here{more}; choose another directory"
        )


def _visible(folder):
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path for path in paths if not path.name.startswith(".")}


def _flat(config):
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": each for name, each in value.items()})
        else:
            flat[key] = value
    return flat


def checked_seed(seed) -> int:
    """Convert a seed to a Python integer.

    Parameters
    ----------
    seed : int or NumPy integer

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is not an integer between 0 and 2**32 - 1.
    """
    try:
        return whole_number("seed", seed, least=0, most=2**32 - 1)
    except ValueError:
        raise ValueError(f"seed must be an integer between 0 and 2**32 - 1, got {seed!r}") from None


def check_writable(what: str, value) -> None:
    """Refuse what could be computed but not be saved, or not be read as it was written.

    Strings go into JSON, which escapes everything, and into netCDF, which takes UTF-8 without the
    null character; numbers must be finite, for JSON has no others.

    Parameters
    ----------
    what : str
        For the message.
    value
        Of what `json.dumps` takes.

    Raises
    ------
    ValueError
        If a text has no UTF-8, or a number is not finite or of another kind than Python's.
    """
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} of this run cannot be saved: {error}") from None
    if "\\u0000" in written:
        raise ValueError(f"{what} of this run cannot be saved: a text has a null character")


def write_json(path: Path, value) -> None:
    """Write a JSON file atomically, so that a reader never finds an incomplete file.

    A file that has this content is left alone: on a network file system, whoever reads a file that
    is replaced may fail.

    Parameters
    ----------
    path : pathlib.Path
    value
        Anything that `json.dumps` accepts.
    """
    text = json.dumps(value).encode()
    if path.is_file() and path.read_bytes() == text:
        return
    with replacing(path) as partial:
        partial.write_bytes(text)
