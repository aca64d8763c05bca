"""Units of work: one chain, path or start each, run by any executor."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cmdstanpy

from gptbayes.fit.directory import Run
from gptbayes.fit.draws import check_csv

SIG_FIGS = 17
"""Digits in the CSV files: as many as a double has, so that what is recomputed agrees."""


class Progress(NamedTuple):
    """How far one unit of work is.

    Attributes
    ----------
    label : str
        For example "chain 2".
    done, total : int
        Iterations of NUTS; 0 or 1 of 1 for a path or a start of the optimiser.
    begun : bool
        False while it waits for a free worker.
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
    """One process of CmdStan: everything it needs, as plain values that any executor can carry.

    Attributes
    ----------
    label : str
        What it is, in words.
    method : str
        A method of `cmdstanpy.CmdStanModel`.
    executable, data, csv : str
        Paths: the compiled program, its data, and where the result goes.
    arguments : dict
        Keyword arguments of the method.
    total : int
        For progress: iterations of NUTS, else 1.
    n_draws : int
        Rows that a complete CSV file has.
    """

    label: str
    method: str
    executable: str
    data: str
    csv: str
    arguments: dict
    total: int
    n_draws: int


def unit_of(
    run: Run, label: str, method: str, arguments: dict, *, total=1, n_draws=1, folder="csv"
) -> Unit:
    """A unit of a run; ``arguments`` may bring a seed of their own."""
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


def run_unit(unit: Unit) -> None:
    """Run one unit in a folder of its own, then move its CSV file into place."""
    csv = Path(unit.csv)
    work = Path(tempfile.mkdtemp(prefix=f".{csv.stem}-", dir=csv.parent))
    try:
        model = _ObservedModel(exe_file=unit.executable)
        model.progress_file = csv.with_suffix(".progress")
        model.progress_file.write_text("0")
        run = getattr(model, unit.method)
        try:
            # CmdStan writes the profile somewhere in any case: here, not where the user stands.
            files = {"data": unit.data, "output_dir": str(work), "save_profile": True}
            run(**files, sig_figs=SIG_FIGS, **unit.arguments)
        except RuntimeError as error:
            raise RuntimeError(f"{unit.label} failed: {_reason(work, error)}") from None
        (result,) = (path for path in work.glob("*.csv") if "profile" not in path.name)
        try:
            check_csv(result, unit.n_draws)
        except ValueError as error:
            raise RuntimeError(f"{unit.label} failed: {error}; is the disk full?") from None
        os.replace(result, csv)
    finally:
        csv.with_suffix(".progress").unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)


def run_units(
    units: Sequence[Unit],
    executor: Executor | None = None,
    on_progress: Callable[[list[Progress]], None] | None = None,
) -> None:
    """Run those units whose result is not there yet.

    Parameters
    ----------
    units : sequence of Unit
    executor : concurrent.futures.Executor, optional
        A pool of this machine's cores by default.
    on_progress : callable, optional
        Called now and then with the progress of all units.

    Raises
    ------
    RuntimeError
        If a unit fails. Those that have not begun are not begun; finished ones stay.
    """
    missing = [unit for unit in units if not Path(unit.csv).exists()]
    if executor is not None:
        _wait([executor.submit(run_unit, unit) for unit in missing], units, on_progress)
    elif missing:
        with ThreadPoolExecutor(max_workers=min(len(missing), n_cores())) as pool:
            _wait([pool.submit(run_unit, unit) for unit in missing], units, on_progress)


def n_cores() -> int:
    """How many cores this process may use, which is not always all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _ObservedModel(cmdstanpy.CmdStanModel):
    """A CmdStanModel that leaves the last iteration number it heard of in a small file.

    A file and not a callback, so that it works from any executor's worker. Where cmdstanpy has
    no such hook, only the progress is lost.
    """

    progress_file: Path

    def _run_cmdstan(self, *args, **kwargs):
        def listen(line, _index):
            _, found, rest = line.partition("Iteration:")
            if found:
                self.progress_file.write_text(rest.split("/")[0].strip())

        super()._run_cmdstan(*args, **{**kwargs, "progress_hook": listen})


def _wait(futures: list[Future], units, on_progress) -> None:
    """Wait for all units; after the first failure or Ctrl-C, start none that has not begun."""
    pending = set(futures)
    try:
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            if on_progress:
                on_progress([_progress(unit) for unit in units])
    finally:
        for future in pending:
            future.cancel()


def _progress(unit):
    csv = Path(unit.csv)
    if csv.exists():
        return Progress(unit.label, unit.total, unit.total, True)
    file = csv.with_suffix(".progress")
    try:
        return Progress(unit.label, int(file.read_text()), unit.total, True)
    except (OSError, ValueError):  # not begun, or being written at this moment
        return Progress(unit.label, 0, unit.total, file.exists())


def _reason(work, error):
    """The last thing that CmdStan said, in one line."""
    consoles = sorted(work.glob("*stdout*.txt")) + sorted(work.glob("*.txt"))
    lines = [line.strip() for path in consoles[:1] for line in path.read_text().splitlines()]
    said = [line for line in lines if line]
    return said[-1] if said else str(error).splitlines()[0]
