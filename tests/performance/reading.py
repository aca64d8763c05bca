"""What does it cost to read draws back, in time and memory?

    python tests/performance/reading.py [--draws 1000] [--work FOLDER]

Stage 10 at two sizes, 2,108 and 27,649 parameters, and 256 values of ``log_lik`` in each draw. Four
chains of CSV are made from a few draws of a real NUTS run, repeated; 210 MB and 2.4 GB of text.
Each way of reading runs in a process of its own, from files that are in the system's cache, and
says its wall time and by how much the process grew at its largest (Linux only). What returns the
draws cannot grow by less than they take.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import arviz as az
import cmdstanpy
import numpy as np

from gptbayes import fit, inference
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES

SIZES = {"2,108 parameters": (28, 8), "27,649 parameters": (65, 32)}  # V, C
N_REAL, CHAINS = 20, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="in each of 4 chains (1000)")
    parser.add_argument("--work", type=Path, help="where the files go (a temporary folder)")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help="beginnings of their names")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "RUN"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        way, folder = chosen.measure
        print(json.dumps(measured(WAYS[way], Path(folder))))
        return
    with tempfile.TemporaryDirectory(dir=chosen.work) as work:
        for name, (vocab_size, n_embed) in SIZES.items():
            folder = Path(work) / name
            n_bytes = make_run(folder, vocab_size, n_embed, chosen.draws)
            text = sum(path.stat().st_size for path in (folder / "csv").glob("*.csv"))
            print(
                f"\n{CHAINS} x {chosen.draws} draws, {name}: {text / 1e6:,.0f} MB of CSV, "
                f"{n_bytes / 1e6:,.0f} MB in memory\n"
            )
            for way in (name for name in WAYS if name.startswith(tuple(chosen.ways))):
                command = [sys.executable, __file__, "--measure", way, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
                print(f"  {way:<52}{seconds:8.1f} s {megabytes:8,.0f} MB", flush=True)


def from_cmdstanpy(folder):
    """As ArviZ's documentation does it."""
    fitted = cmdstanpy.from_csv(sorted(str(path) for path in (folder / "csv").glob("*.csv")))
    return az.from_cmdstanpy(fitted, log_likelihood="log_lik")


def from_cmdstanpy_saved(folder):
    from_cmdstanpy(folder).to_netcdf(str(folder / "arviz.nc"), engine="netcdf4")


def only_numbers(folder):
    for _ in fit.iter_draws(folder):
        pass


def only_whether_whole(folder):
    for path in (folder / "csv").glob("*.csv"):
        fit.draws.check_csv(path, fit.read_config(folder)["settings"]["iter_sampling"])


WAYS = {
    "check_csv: is every row there?": only_whether_whole,
    "iter_draws: the numbers, a chain at a time": only_numbers,
    "open_run, first time: prior draws, netCDF and all": inference.open_run,
    "open_run, again: from netCDF": inference.open_run,
    "arviz.from_cmdstanpy": from_cmdstanpy,
    "arviz.from_cmdstanpy, then to_netcdf": from_cmdstanpy_saved,
}


def measured(way, folder):
    """Seconds, and megabytes that the process grew by."""
    logging.getLogger("cmdstanpy").disabled = True
    before = largest()
    start = time.perf_counter()
    way(folder)
    seconds = time.perf_counter() - start
    return seconds, (largest() - before) / 1024


def largest():
    """Kilobytes that this process had at its largest; Linux's own count, for this program only."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def make_run(folder, vocab_size, n_embed, n_draws):
    """A run directory as NUTS leaves it; the size of its draws in bytes."""
    characters = [chr(ord("0") + k) for k in range(vocab_size)]
    rng = np.random.default_rng(1)
    text = "".join([*characters, *rng.choice(characters, size=500)])
    problem = make_problem(STAGES["10"], text, batch_size=32, n_embed=n_embed)
    fit.nuts(
        problem,
        folder,
        chains=1,
        iter_warmup=1,
        iter_sampling=N_REAL,
        init="random",
        max_treedepth=1,
    )
    config = fit.read_config(folder)
    config["settings"] |= {"chains": CHAINS, "iter_sampling": n_draws}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").unlink()  # of the files as they were
    first = folder / "csv" / "chain-1.csv"
    text = repeated(first.read_text(), n_draws)
    for k in range(CHAINS):
        (folder / "csv" / f"chain-{k + 1}.csv").write_text(text)
    return 8 * CHAINS * n_draws * (problem.stage.n_parameters(problem.design) + problem.n_targets)


def repeated(text, n_draws):
    """The CSV file of a longer run of the same chain, whose draws come again and again."""
    lines = text.splitlines(keepends=True)
    is_draw = [not line.startswith(("#", "lp__")) for line in lines]
    first = is_draw.index(True)
    draws = [line for line, each in zip(lines, is_draw, strict=True) if each]
    head = re.sub(r"(num_samples = )\d+", rf"\g<1>{n_draws}", "".join(lines[:first]))
    many = draws * (n_draws // len(draws)) + draws[: n_draws % len(draws)]
    return "".join([head, *many, *lines[first + len(draws) :]])


if __name__ == "__main__":
    main()
