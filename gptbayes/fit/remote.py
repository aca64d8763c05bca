"""Units of work on machines that share no disk with this one: Dask's workers.

A unit travels as values: the contents of its files, and its program as the number of a stage or as
its sources. The worker compiles the program into its own cache, where one of its threads or
processes does so and the others wait, and sends what the unit made back compressed. The caller
writes it in place as if it had been made here.
"""

from __future__ import annotations

import functools
import logging
import pickle
import platform
import shutil
import tempfile
import threading
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gptbayes import __version__, home
from gptbayes.files import replacing
from gptbayes.fit.programs import Program
from gptbayes.processes import end_descendants
from gptbayes.toolchain import ToolchainError, describe, system

WATCH_SECONDS = 0.5
"""A worker looks so often how far a unit is, and whether it is still wanted."""

_LOST = (
    "the connection to the Dask scheduler was lost; finished units are saved, the same command "
    "resumes the run"
)
_log = logging.getLogger("gptbayes")


class Returned(NamedTuple):
    """What a worker sends back.

    Attributes
    ----------
    files : list of (str, bytes)
        Compressed contents of what the unit made, by name, in the order in which they are written.
    outdated : list of str
        Files of the unit that are no longer needed.
    machine, setup : str
        The name of the machine, and what it computes with, see `setup_of_this_machine`.
    """

    files: list[tuple[str, bytes]]
    outdated: list[str]
    machine: str
    setup: str


class Unable(NamedTuple):
    """A worker that cannot run units: its address, its machine and the reason."""

    worker: str
    machine: str
    reason: str


@dataclass(frozen=True)
class RemoteUnit:
    """A unit of work without anything that is on the disk of the caller.

    Attributes
    ----------
    task : callable
        ``task(unit)`` runs it and returns the paths of the files that it made.
    unit : object
        A dataclass whose paths mean nothing to a worker.
    done : callable or None
        ``done(unit)`` is how far it is.
    root, executable : str
        The folder of its files, and its program, at the caller.
    files : list of (str, bytes)
        Compressed contents of what it reads, by name below ``root``.
    program : Program or None
    version : str
        Of gptbayes at the caller.
    topic : str
        Of Dask's events that tell the caller how far it is.
    """

    task: Callable[[Any], list[Path]]
    unit: Any
    done: Callable[[Any], int] | None
    root: str
    executable: str
    files: list[tuple[str, bytes]]
    program: Program | None
    version: str
    topic: str


class Workers:
    """Hands units of work to an executor; for one of Dask, as values.

    Parameters
    ----------
    executor : concurrent.futures.Executor
    root : path
        The folder of all files of the units.
    executable : path, optional
        The program of the units.
    program : callable, optional
        Tells what it is made of; asked for Dask only.

    Attributes
    ----------
    done : dict of str to int
        How far units on Dask's workers are, by label.
    setups : dict of str to str
        Machine and set-up of each file that was made with another set-up than this machine's.
    """

    def __init__(
        self,
        executor: Executor,
        root: str | Path,
        executable: str | Path = "",
        program: Callable[[], Program] | None = None,
    ):
        self.executor, self.root, self.executable = executor, Path(root), str(executable)
        self.done: dict[str, int] = {}
        self.setups: dict[str, str] = {}
        self._is_remote = is_remote(executor)
        self._program = program() if program and self._is_remote else None
        self._sent: dict[Future, RemoteUnit] = {}
        self._unable: set[str] = set()
        self._topic = f"gptbayes-{uuid.uuid4().hex}"

    def __enter__(self) -> Workers:
        if self._is_remote:
            self._client.subscribe_topic(self._topic, self._hear)
        return self

    def __exit__(self, *_):
        if self._is_remote and self._client.status == "running":
            self._client.unsubscribe_topic(self._topic)

    def submit(
        self,
        task: Callable[[Any], list[Path]],
        unit: Any,
        inputs: Iterable[str | Path] = (),
        done: Callable[[Any], int] | None = None,
    ) -> Future:
        """Run ``task(unit)``, which reads the files ``inputs`` below the root."""
        if not self._is_remote:
            return self.executor.submit(task, unit)
        paths = [Path(path) for path in inputs]
        files = [
            (path.relative_to(self.root).as_posix(), zlib.compress(path.read_bytes()))
            for path in paths
        ]
        values = (str(self.root), self.executable, files, self._program, __version__, self._topic)
        return self._send(RemoteUnit(task, unit, done, *values))

    def wait(self, futures: Collection[Future]) -> set[Future]:
        """Those that are done, after a fifth of a second at most.

        Raises
        ------
        RuntimeError
            If the scheduler has closed the connection: then none is ever done.
        """
        if self._is_remote:
            connection = self._client.scheduler_comm
            if connection is None or connection.closed():
                raise RuntimeError(_LOST)
        return wait(futures, timeout=0.2, return_when=FIRST_COMPLETED).done

    def receive(self, future: Future) -> Future | None:
        """Take what a unit made.

        Returns
        -------
        Future or None
            Another one if the unit is run again, by another worker.

        Raises
        ------
        RuntimeError
            If the unit, every worker that had it, or the scheduler failed.
        """
        if not self._is_remote:
            future.result()
            return None
        sent = self._sent.pop(future)
        try:
            returned = future.result()
        except (RuntimeError, ValueError, OSError):
            raise
        except CancelledError:
            raise RuntimeError(_LOST) from None
        except Exception as error:  # of Dask, for example KilledWorker
            raise RuntimeError(f"Dask's workers failed: {error}") from None
        if isinstance(returned, Unable):
            return self._send_elsewhere(sent, returned)
        _write(self.root, returned.files, zlib.decompress)
        for name in returned.outdated:
            (self.root / name).unlink(missing_ok=True)
        if returned.setup != setup_of_this_machine():
            made = f"{returned.machine}: {returned.setup}"
            self.setups |= {name: made for name, _ in returned.files}
        return None

    @property
    def _client(self):
        return self.executor._client  # type: ignore[attr-defined]

    def _send(self, unit, **where):
        import cloudpickle  # comes with Dask

        how = {"pure": False, **where}  # not pure: a unit that is sent again is run again
        future = self.executor.submit(pickle.loads, cloudpickle.dumps(_Call(unit)), **how)
        self._sent[future] = unit
        return future

    def _send_elsewhere(self, unit, told):
        reason = f"the worker {told.worker} on {told.machine} {told.reason}"
        if told.worker not in self._unable:
            self._unable.add(told.worker)
            _log.warning("%s; its units go to others", reason)
        able = [worker for worker in self._client.nthreads() if worker not in self._unable]
        if not able:
            raise RuntimeError(f"no worker is able: {reason}")
        return self._send(unit, workers=able)

    def _hear(self, event):
        _, (label, done) = event
        self.done[label] = done


class _Call:
    """What is a call of `_run_remotely` once a worker reads it.

    The scheduler would import this package to read a function of it, and answers nobody meanwhile:
    on a slow disk long enough to lose its connections. It does not read bytes.
    """

    def __init__(self, unit):
        self.unit = unit

    def __reduce__(self):
        return _run_remotely, (self.unit,)


def is_remote(executor: Executor | None) -> bool:
    """Whether workers of an executor may have disks of their own: those of Dask."""
    return type(executor).__module__.partition(".")[0] == "distributed"


@functools.cache  # it starts two programs, and is asked of each unit
def setup_of_this_machine() -> str:
    """What draws depend on beside their seeds: the processor, CmdStan and the compiler."""
    toolchain = describe()
    return f"{system.processor()}, CmdStan {toolchain.cmdstan}, {toolchain.compiler}"


def _run_remotely(remote):
    from distributed import get_worker

    worker, machine = get_worker(), platform.node()
    if remote.version != __version__:
        reason = f"has gptbayes {__version__}, this is {remote.version}"
        return Unable(worker.address, machine, reason)
    try:
        executable = str(remote.program.compiled()) if remote.program else ""
    except ToolchainError as error:
        return Unable(worker.address, machine, f"cannot compile: {error}")
    root = Path(tempfile.mkdtemp(dir=home.temporary_folder()))
    try:
        _write(root, remote.files, zlib.decompress)
        unit = _moved(remote.unit, remote.root, str(root), {remote.executable: executable})
        with _watched(worker, remote, unit, root):
            made = [Path(path) for path in remote.task(unit)]
        files = [(p.relative_to(root).as_posix(), zlib.compress(p.read_bytes(), 1)) for p in made]
        outdated = [name for name, _ in remote.files if not (root / name).exists()]
        return Returned(files, outdated, machine, setup_of_this_machine())
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _watched(worker, remote, unit, root) -> Iterator[None]:
    """Tell the caller how far a unit is, and end its programs when nobody waits for it any more."""
    key, over, told = worker.get_current_task(), threading.Event(), -1

    def watch():
        nonlocal told
        while not over.wait(WATCH_SECONDS):
            task = worker.state.tasks.get(key)
            if task is None or task.state == "cancelled":
                end_descendants([root.name])
            elif remote.done and (now := remote.done(unit)) != told:
                told = now
                worker.log_event(remote.topic, (unit.label, told))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _moved(value, old, new, others):
    """A dataclass with the paths of another folder, and other strings in place of some."""
    if isinstance(value, str):
        below = f"{value}/".startswith(f"{old}/")
        return new + value[len(old) :] if below else others.get(value, value)
    if isinstance(value, dict):
        return {name: _moved(each, old, new, others) for name, each in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    now = {field.name: getattr(value, field.name) for field in fields(value)}
    then = {name: _moved(each, old, new, others) for name, each in now.items()}
    return replace(value, **then) if any(then[k] is not now[k] for k in now) else value


def _write(root, files, content_of):
    for name, content in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(root / name) as partial:
            partial.write_bytes(content_of(content))
