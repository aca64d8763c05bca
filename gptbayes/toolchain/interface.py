"""What is asked of cmdstanpy: the one module that imports it.

Only what its documentation promises is used, with keyword arguments throughout, so that version
2.0, which its authors announce, finds nothing here that it removes: no ``compile`` method, no
positional arguments, no reading of fits from CSV files, no private method. What a running program
prints is read from a file that a small script beside the program writes; cmdstanpy takes any
executable.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptbayes import home


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


# It makes a folder without a name of its own when it is imported, which stays if we are killed.
with _temporary_files_in(home.temporary_folder()):
    import cmdstanpy

VERSION: str = cmdstanpy.__version__

OLDEST_CMDSTAN = (2, 37) if int(VERSION.split(".")[0]) >= 2 else (2, 33)
"""2.33 is the first with Pathfinder; cmdstanpy 2.0 itself asks for 2.37."""

_SCRIPT = """\
#!/bin/sh
# Run the program beside this script; what it prints goes to a file beside its output file. The
# pipe to cmdstanpy stays open as descriptor 3: it reads in a loop, which would never wait.
program=${0%.logged}
output= previous=
for word in "$@"; do
  case $previous,$word in output,file=*) output=${word#file=} ;; esac
  previous=$word
done
[ -n "$output" ] || exec "$program" "$@"
exec "$program" "$@" 3>&1 > "${output%.*}.console" 2>&1
"""


def find() -> Path | None:
    """Where cmdstanpy finds an installed CmdStan, whatever the environment says."""
    given = os.environ.pop("CMDSTAN", None)
    try:
        return Path(cmdstanpy.cmdstan_path())
    except ValueError:
        return None
    finally:
        os.environ.pop("CMDSTAN", None)  # cmdstanpy sets it to what it found
        if given is not None:
            os.environ["CMDSTAN"] = given


def use(folder: Path) -> None:
    """Let cmdstanpy work with the CmdStan in a folder from now on, and say errors only."""
    cmdstanpy.set_cmdstan_path(str(folder))
    cmdstanpy.enable_logging()  # makes its logger, which later would undo what follows
    logging.getLogger("cmdstanpy").setLevel(logging.ERROR)


def version_in_use() -> str:
    """The version of the CmdStan in use, such as ``2.35``, or ``?``."""
    version = cmdstanpy.cmdstan_version() or ("?",)
    return ".".join(str(part) for part in version)


def install(version: str, cores: int) -> bool:
    """Download and build an official release; whether that worked."""
    return bool(cmdstanpy.install_cmdstan(version=version, cores=cores))


def compile_program(
    source: Path, header: Path | None, stanc: Mapping[str, Any], cpp: Mapping[str, Any]
) -> None:
    """Compile a Stan program beside its source, and put the script that logs it there.

    Raises
    ------
    ValueError
        With what the compilers said.
    """
    executable = cmdstanpy.compile_stan_file(
        source, stanc_options=dict(stanc), cpp_options=dict(cpp), user_header=header
    )
    script = _logged(Path(executable))
    script.write_text(_SCRIPT, encoding="utf-8")
    script.chmod(0o755)


def script() -> str:
    """The text of the script, on which what `compile_program` makes depends."""
    return _SCRIPT


def run(executable: str | Path, method: str, **arguments: Any) -> Any:
    """Run a compiled program.

    While it runs, `last_iteration` of its output folder tells how far it is.

    Parameters
    ----------
    executable : path
        As `gptbayes.toolchain.compile_program` gives it.
    method : str
        A method of `cmdstanpy.CmdStanModel`: ``sample``, ``optimize``, ``pathfinder``, ...
    **arguments
        Of that method.

    Returns
    -------
    cmdstanpy.CmdStanMCMC, CmdStanMLE, CmdStanPathfinder, ...

    Raises
    ------
    RuntimeError
        If the program fails.
    """
    logged = _logged(Path(executable))
    model = cmdstanpy.CmdStanModel(exe_file=str(logged if logged.exists() else executable))
    if method == "sample":
        arguments = {"show_progress": False, **arguments}
    return getattr(model, method)(**arguments)


def console(folder: Path) -> Path | None:
    """The file of what the program that writes to a folder has printed so far.

    None before it has printed anything, and where the folder is gone, as it is once the program has
    ended and its draws have been moved.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    found = [
        folder / name
        for pattern in ("*.console", "*stdout*.txt", "*.txt")
        for name in fnmatch.filter(names, pattern)
    ]
    return next((path for path in found if _size(path)), None)


def last_iteration(folder: Path) -> int:
    """The last iteration of which the sampler that writes to a folder has told; 0 before."""
    path = console(folder)
    if path is None:
        return 0
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, _size(path) - 4096))
        whole = re.findall(rb"Iteration:\s*(\d+) /", file.read())
        return int(whole[-1]) if whole else 0
    return 0


def _logged(executable: Path) -> Path:
    return executable.with_name(f"{executable.name}.logged")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
