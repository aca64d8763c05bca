"""Units of work: one chain, path or optimization each, run by any executor."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gptbayes.files import made_in, work_folder, work_folder_of
from gptbayes.fit import manifest
from gptbayes.fit.directory import Run, note_setups
from gptbayes.fit.draws import NOT_CONVERGED, check_csv
from gptbayes.fit.remote import Workers
from gptbayes.processes import end_descendants, n_cores
from gptbayes.toolchain import interface
from gptbayes.toolchain.static_hmc import run_static_hmc

_FILES = ("inits", "inv_metric")
"""Arguments of a unit that are paths of files."""

STATIC_HMC = "static_hmc"
"""The method of `gptbayes.toolchain.static_hmc.run_static_hmc`."""

SIG_FIGS = 17
"""Significant digits in the CSV files: enough to write a double without loss."""


class Progress(NamedTuple):
    """Progress of one unit of work.

    Attributes
    ----------
    label : str
        For example "chain 2".
    done, total : int
        Iterations of a chain; 0 or 1 of 1 for a path or an optimization.
    begun : bool
        False while the unit waits for a free worker.
    note : str
        What is known so far, for the reader.
    """

    label: str
    done: int
    total: int
    begun: bool
    note: str = ""


@dataclass(frozen=True)
class Unit:
    """One process of CmdStan, described by plain values that any executor can pickle.

    Attributes
    ----------
    label : str
        Name in progress and error messages, for example "chain 2".
    method : str
        Name of a method of `cmdstanpy.CmdStanModel`, or `STATIC_HMC`.
    executable, data, csv : str
        Paths of the compiled program, its data, and the CSV file to be written.
    arguments : dict
        Keyword arguments of the method.
    total : int
        Iterations of a chain, for progress; 1 for other methods.
    n_draws : int
        Number of rows of a complete CSV file.
    """

    label: str
    method: str
    executable: str
    data: str
    csv: str
    arguments: dict
    total: int
    n_draws: int

    @property
    def inputs(self) -> list[str]:
        """Paths of the files that it reads."""
        return [self.data, *(self.arguments[k] for k in _FILES if k in self.arguments)]


def make_unit(
    run: Run, label: str, method: str, arguments: dict, *, total=1, n_draws=1, folder="csv"
) -> Unit:
    """Make a unit of work of a run.

    Parameters
    ----------
    run : Run
    label, method : str
        As in `Unit`.
    arguments : dict
        As in `Unit`. The seed is that of the run unless the arguments have one.
    total, n_draws : int
        As in `Unit`.
    folder : str
        Folder of the CSV file inside the run directory.

    Returns
    -------
    Unit
    """
    return Unit(
        label=label,
        method=method,
        executable=str(run.executable),
        data=str(run.folder / "data.json"),
        csv=str(run.folder / folder / f"{label.replace(' ', '-')}.csv"),
        arguments={"seed": run.seed, **arguments},
        total=total,
        n_draws=n_draws,
    )


def run_unit(unit: Unit) -> list[Path]:
    """Run one unit in a temporary folder, then move its CSV file into place.

    Parameters
    ----------
    unit : Unit

    Returns
    -------
    list of pathlib.Path
        The CSV file.

    Raises
    ------
    RuntimeError
        If CmdStan fails or its CSV file is incomplete.
    """
    csv = Path(unit.csv)
    work = work_folder(csv)
    try:
        try:
            # CmdStan always writes a profile: keep it out of the user's working directory.
            options = {"output_dir": str(work), "sig_figs": SIG_FIGS, **unit.arguments}
            if unit.method == STATIC_HMC:
                run_static_hmc(unit.executable, data=unit.data, **options)
            else:
                options |= {"data": unit.data, "save_profile": True}
                interface.run(unit.executable, unit.method, **options)
        except RuntimeError as error:
            reason = _reason(unit, work, error)
            if _early_stop(unit, work) is None:
                raise RuntimeError(f"{unit.label} failed: {reason}") from None
        (result,) = (path for path in work.glob("*.csv") if "profile" not in path.name)
        try:
            check_csv(result, unit.n_draws)
        except ValueError as error:
            free = shutil.disk_usage(work).free
            raise RuntimeError(
                f"{unit.label} failed: {error}; {free / 1e6:,.0f} MB of disk are free"
            ) from None
        if early_stop := _early_stop(unit, work):
            with open(result, "a", encoding="utf-8") as file:
                file.write(f"# {NOT_CONVERGED}: {early_stop}\n")
        os.replace(result, csv)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [csv]


def run_units(
    run: Run,
    units: Sequence[Unit],
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> None:
    """Run the units whose CSV files do not exist yet, and record those that are complete.

    Those of a run that is shared with other processes are recorded by a later call.

    Parameters
    ----------
    run : Run
    units : sequence of Unit
    executor : concurrent.futures.Executor, optional
        By default a pool with one worker for each core of this machine. The workers of a Dask
        client, ``client.get_executor()``, need share no disk with this machine.
    on_progress : callable, optional
        Called several times a second with the progress of all units.

    Raises
    ------
    RuntimeError
        If a unit fails. Waiting units are then cancelled, and finished units are kept.
    ValueError
        If a file that exists is damaged.
    """
    missing = [unit for unit in units if not Path(unit.csv).exists()]
    if not run.shared:
        _check_finished(run, [unit for unit in units if Path(unit.csv).exists()])
    if executor is not None:
        _run_on(executor, run, missing, units, on_progress)
    elif missing:
        with ThreadPoolExecutor(max_workers=min(len(missing), n_cores())) as pool:
            _run_on(pool, run, missing, units, on_progress)


def _check_finished(run, units):
    """Files of an interrupted run are whole; the last may not have been recorded."""
    rows = {Path(unit.csv): unit.n_draws for unit in units}
    for path in rows:
        manifest.verify(run.folder, path, "delete it and run the same fit again")
    if unrecorded := manifest.unrecorded(run.folder, rows):
        for path in unrecorded:
            check_csv(path, rows[path])
        manifest.record(run.folder, unrecorded)


def _run_on(executor, run, missing, units, on_progress):
    with Workers(executor, run.folder, run.executable, run.program) as workers:
        pending = {
            workers.submit(run_unit, unit, unit.inputs, _iterations): unit for unit in missing
        }
        with given_up_together(executor, pending, lambda: filter(None, map(_work_of, missing))):
            while pending:
                finished = {future: pending.pop(future) for future in workers.wait(pending)}
                _take(run, workers, finished, pending)
                if on_progress:
                    on_progress(progress_of(units, workers.done))


def _take(run, workers, finished, pending):
    """Take what finished units made, put those that run again back, then raise the first error."""
    complete, errors = [], []
    for future, unit in finished.items():
        try:
            again = workers.receive(future)
        except Exception as error:
            errors.append(error)
            continue
        if again:
            pending[again] = unit
        else:
            complete.append(Path(unit.csv))
    if complete and not run.shared:
        manifest.record(run.folder, complete)
        note_setups(run.folder, workers.setups)
    if errors:
        raise errors[0]


@contextmanager
def given_up_together(
    executor: Executor, futures: Iterable[Future], folders: Callable[[], Iterable[Path]]
) -> Iterator[None]:
    """If the block fails, cancel the futures that wait; if it is interrupted, end those that run.

    A terminal sends Ctrl-C to the running programs as well. Other senders mean this process alone,
    which without this would wait for all programs to finish.

    Parameters
    ----------
    executor : Executor
        A pool of threads of this process, or any other: then those that run are left to it.
    futures : iterable of Future
        As they are when the block ends. Each that runs has a program running.
    folders : callable
        Temporary folders of running programs, which their command lines name.
    """
    try:
        yield
    except BaseException as error:
        left = list(futures)
        for future in left:
            future.cancel()
        if isinstance(error, KeyboardInterrupt) and isinstance(executor, ThreadPoolExecutor):
            while not all(future.done() for future in left):
                end_descendants([folder.name for folder in folders()])
                time.sleep(0.02)
        raise


def progress_of(units: Sequence[Unit], elsewhere: Mapping[str, int]) -> list[Progress]:
    """How far units are.

    Each folder is listed once: a search for the files of each of a thousand chains takes seconds.

    Parameters
    ----------
    units : sequence of Unit
    elsewhere : mapping of str to int
        Iterations of those that run on other machines, by label.

    Returns
    -------
    list of Progress
    """
    folders = {Path(unit.csv).parent for unit in units}
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    works = {path.with_name(made): path for path in there if (made := made_in(path))}
    found = []
    for unit in units:
        path, label = Path(unit.csv), unit.label
        work = works.get(path)
        if path in there:
            found.append(Progress(label, unit.total, unit.total, True))
        elif label in elsewhere:
            found.append(Progress(label, elsewhere[label], unit.total, True))
        else:
            found.append(Progress(label, _iterations_in(work, unit), unit.total, work is not None))
    return found


def _iterations(unit):
    """How many iterations a unit that runs on this machine has done."""
    return _iterations_in(_work_of(unit), unit)


def _iterations_in(work, unit):
    return 0 if work is None else min(interface.last_iteration(work), unit.total)


def _early_stop(unit, work):
    """Why the optimizer stopped before it converged, in its words; its best point is kept.

    Where the density has kinks, as that of ReLU units has, line searches fail at times.
    """
    console = interface.console(work) if unit.method == "optimize" else None
    said = console.read_text(errors="replace") if console else ""
    return next((line.strip() for line in said.splitlines() if _EARLY_STOP.search(line)), None)


def _work_of(unit):
    """The folder in which a unit runs, None if it does not."""
    return work_folder_of(Path(unit.csv))


def _reason(unit, work, error):
    """The last line of CmdStan's output, or how the program ended without any."""
    console = interface.console(work)
    lines = [] if console is None else console.read_text(errors="replace").splitlines()
    messages = [line.strip() for line in lines if line.strip()]
    if messages and not messages[-1].startswith("Iteration:"):  # then it was in the middle
        return messages[-1]
    found = re.search(r"retcodes=\[(-?\d+)\]", str(error))
    if not found:
        return " ".join(str(error).split())
    status = int(found[1])
    if status == _NOT_STARTED:
        try:
            subprocess.run([unit.executable, "info"], capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.SubprocessError) as reason:
            return f"{unit.executable} cannot be started: {reason}"
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else f"{-status}"
        why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"{unit.executable} was ended by signal {name}{why}"
    return f"{unit.executable} ended with status {status} and no message"


_EARLY_STOP = re.compile("Line search failed|Maximum number of iterations hit")
_NOT_STARTED = -1
"""What cmdstanpy calls the status of a program that the system refused to start."""
