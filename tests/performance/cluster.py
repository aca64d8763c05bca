"""What do many chains cost a Dask scheduler, and how many bytes are a draw?

    python tests/performance/cluster.py [--units 1000] [--megabytes 1]

First, a few real draws of stage 10 with 27,649 weights: bytes per number in the CSV file and on
the way from a worker. Then units that compute nothing travel to two workers on this
machine and bring a file of random bytes back, in the same way as chains do: what is measured is the
time of the scheduler and of the caller, and the memory of the scheduler at its largest.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import psutil
from distributed import Client

from gptbayes import fit
from gptbayes.fit.remote import Workers
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage


@dataclass(frozen=True)
class Nothing:
    """A unit that computes nothing."""

    label: str
    file: str
    n_bytes: int


def make_file(unit):
    """Random bytes, which cannot be compressed."""
    Path(unit.file).write_bytes(os.urandom(unit.n_bytes))
    return [Path(unit.file)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--megabytes", type=float, default=1.0, help="that each brings back (1)")
    parser.add_argument("--draws", type=int, default=20, help="of which bytes are counted (20)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bytes_per_number(Path(work) / "run", asked.draws)
        scheduler_load(Path(work), asked.units, int(asked.megabytes * 1e6))


def bytes_per_number(folder, n_draws):
    """Of weights and log densities with 17 significant digits."""
    text = "".join(chr(ord("0") + k) for k in range(65)) * 9
    problem = make_problem(stage("10"), text, batch_size=32, n_embed=32)
    few = {"iter_warmup": 1, "iter_sampling": n_draws, "max_treedepth": 1}
    fit.nuts(problem, folder, chains=1, **few)
    n_weights = problem.stage.n_parameters(problem.design)
    n_numbers = n_draws * (n_weights + problem.n_targets)
    csv = (folder / "csv" / "chain-1.csv").read_bytes()
    sent, of_worker = timed(zlib.compress, csv, 1)
    again, of_caller = timed(zlib.decompress, sent)
    _, of_digest = timed(lambda: hashlib.sha256(again).digest())
    print(f"{n_draws} draws of {n_weights:,} weights and {problem.n_targets} log densities")
    for what, content in (("CSV", csv), ("sent by a worker", sent)):
        print(f"  {what:<20}{len(content) / n_numbers:6.1f} bytes per number")
    works = {"compression": of_worker, "decompression": of_caller, "digest": of_digest}
    for what, seconds in works.items():
        print(f"  {what:<20}{len(csv) / seconds / 1e6:6.0f} MB of CSV per second", flush=True)


def timed(function, *arguments):
    """What a function returns, and its seconds of the processor."""
    begun = time.process_time()
    value = function(*arguments)
    return value, time.process_time() - begun


def scheduler_load(folder, n_units, n_bytes):
    """Units that come and go."""
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_"]
    common = ["--scheduler-file", str(file)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = {"scheduler": ["--port", "0"], "worker": ["--nthreads", "4", "--nworkers", "2"]}
    processes = []
    try:
        for what, each in options.items():
            started = [*command[:2], f"{command[2]}{what}", "--no-dashboard", *common, *each]
            processes.append(subprocess.Popen(started, cwd=folder, **quiet))
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2)
            scheduler, caller = psutil.Process(processes[0].pid), psutil.Process()
            before = seconds_of(scheduler), seconds_of(caller), time.perf_counter()
            largest = run(client.get_executor(), folder, n_units, n_bytes, scheduler)
            now = seconds_of(scheduler), seconds_of(caller), time.perf_counter()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    of_scheduler, of_caller, wall = (b - a for a, b in zip(before, now, strict=True))
    print(f"{n_units:,} units that bring {n_bytes / 1e6:g} MB each, in {wall:.0f} s")
    print(f"  scheduler{of_scheduler / n_units * 1e3:10.1f} ms of processor per unit")
    print(f"  caller{of_caller / n_units * 1e3:13.1f} ms")
    print(f"  scheduler{largest / 1e6:10.0f} MB at its largest")


def run(executor, folder, n_units, n_bytes, scheduler):
    """All units; the memory of the scheduler at its largest, as far as it was seen."""
    largest = 0
    with Workers(executor, folder) as workers:
        units = [Nothing(f"unit {k}", str(folder / f"unit-{k}"), n_bytes) for k in range(n_units)]
        pending = {workers.submit(make_file, unit): unit for unit in units}
        while pending:
            for future in workers.wait(pending):
                unit = pending.pop(future)
                if again := workers.receive(future):
                    pending[again] = unit
                else:
                    Path(unit.file).unlink()
            largest = max(largest, scheduler.memory_info().rss)
    return largest


def seconds_of(process):
    """Of the processor."""
    used = process.cpu_times()
    return used.user + used.system


if __name__ == "__main__":
    main()
