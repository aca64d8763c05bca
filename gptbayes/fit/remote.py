"""Units of work on machines that share no disk with this one: Dask's workers.

A unit travels as values: its data, starting point and metric as text, its program by the number of
the stage. The worker compiles the program into its own cache, where one of its threads or processes
does so and the others wait, and sends the CSV file back compressed.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gptbayes import __version__, home
from gptbayes.files import replacing
from gptbayes.fit.programs import executable_of
from gptbayes.model.stages import stage
from gptbayes.toolchain import ToolchainError

FILES = ("inits", "inv_metric")
"""Arguments of a unit that are names of files."""


class Returned(NamedTuple):
    """What a worker sends back.

    Attributes
    ----------
    csv : bytes
        The CSV file, compressed by zlib.
    sha256 : str
        Its digest before it was compressed.
    machine : str
        Where it ran.
    """

    csv: bytes
    sha256: str
    machine: str


@dataclass(frozen=True)
class RemoteUnit:
    """A unit of work without anything that is on the disk of the caller.

    Attributes
    ----------
    unit : Unit
        Its paths mean nothing to a worker.
    stage, kernels : str
        Which program, as for `gptbayes.fit.executable_of`.
    files : dict of str to bytes
        Contents of the data and of the arguments in `FILES`, compressed.
    version : str
        Of gptbayes at the caller.
    """

    unit: Any
    stage: str
    kernels: str
    files: dict[str, bytes]
    version: str


def is_remote(executor: Executor | None) -> bool:
    """Whether workers of an executor may have disks of their own: those of Dask."""
    return type(executor).__module__.partition(".")[0] == "distributed"


def pack(run, unit) -> RemoteUnit:
    """A unit with the contents of its files.

    Raises
    ------
    ValueError
        If its program is not one of this package.
    """
    if run.stage is None or run.stage.folder is not None:
        raise ValueError("Dask's workers run the programs of this package, not a changed one")
    paths = {"data": unit.data, **{k: unit.arguments[k] for k in FILES if k in unit.arguments}}
    files = {name: zlib.compress(Path(path).read_bytes()) for name, path in paths.items()}
    return RemoteUnit(unit, run.stage.number, run.kernels, files, __version__)


def run_remotely(remote: RemoteUnit, run_unit: Callable) -> Returned:
    """Run a unit on a worker.

    Raises
    ------
    RuntimeError
        If it fails there, if there is no compiler, or another version of gptbayes. The message
        names the machine.
    """
    machine, unit = platform.node(), remote.unit
    if remote.version != __version__:
        raise RuntimeError(
            f"the worker on {machine} has gptbayes {__version__}, this is {remote.version}: "
            "install the same version on all machines"
        )
    try:
        executable = executable_of(stage(remote.stage), remote.kernels).path
    except ToolchainError as error:
        raise RuntimeError(f"the worker on {machine} cannot compile: {error}") from None
    work = Path(tempfile.mkdtemp(dir=home.temporary_folder()))
    try:
        paths = {name: work / f"{name}.json" for name in remote.files}
        for name, path in paths.items():
            path.write_bytes(zlib.decompress(remote.files[name]))
        own = {name: str(path) for name, path in paths.items() if name in FILES}
        csv = work / "unit.csv"
        run_unit(
            replace(
                unit,
                executable=str(executable),
                data=str(paths["data"]),
                csv=str(csv),
                arguments={**unit.arguments, **own},
            )
        )
        content = csv.read_bytes()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Returned(zlib.compress(content, 1), hashlib.sha256(content).hexdigest(), machine)


def put_in_place(returned: Returned, csv: Path) -> None:
    """Write what a worker sent as if it had run here.

    Raises
    ------
    RuntimeError
        If it is not what the worker sent.
    """
    content = zlib.decompress(returned.csv)
    if hashlib.sha256(content).hexdigest() != returned.sha256:
        raise RuntimeError(f"{csv.name} was damaged on its way from {returned.machine}")
    with replacing(csv) as partial:
        partial.write_bytes(content)
