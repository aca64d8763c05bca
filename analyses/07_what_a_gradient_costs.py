"""What does a gradient cost, and what does it buy to write it otherwise?

    python analyses/07_what_a_gradient_costs.py [RUNS]

NUTS spends its time on gradients, a hundred or more for each draw. The tutorial reads like the
equations: for each sequence, for each token, multiply, look back, add. The bricks of `stan/loops/`
are written like that. Those of `stan/functions/` compute the same numbers for all tokens at once
wherever there is an operation for it. They are harder to read. And `stan/kernels/` has no Stan in
it at all, but one C++ function for the likelihood and its gradient, which fits use where there is
a compiler. What does each step buy?

Four rungs of the ladder are compiled with each of the three, and measured: ten minutes the first
time. For that reason this script is no part of `make demo`. Other software is compared by
`make bench`.
"""

import csv
import logging
import resource
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from cmdstanpy import CmdStanModel

from gptbayes import plots
from gptbayes.corpus import zen_of_python
from gptbayes.fit import executable_of
from gptbayes.model.problem import make_problem, stan_data
from gptbayes.model.stages import STAGES, stan_folder
from gptbayes.toolchain import compile_program

logging.getLogger("cmdstanpy").disabled = True  # a chain this short does not converge, and says so
runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
runs.mkdir(parents=True, exist_ok=True)
functions, loops = stan_folder() / "functions", stan_folder() / "loops"
N_TURNS = 5
RUNGS = ("01", "05", "08", "12")
MAX_TREEDEPTH = 5

# ## What is measured
#
# The processor time of a NUTS run divided by its number of gradients: of a longer run less a short
# one, so that starting up and reading the data drop out. Processor time does not count waiting for
# a busy machine. A run is of fixed length, without adaptation and with a tiny step, so that both
# three see the same points and do the same number of gradients, and they run by turns.
#
# `profile("likelihood")` in the programs counts the gradients.


class Run(NamedTuple):
    """Of CmdStan: seconds of the processor, and number of gradients."""

    seconds: float
    gradients: int


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(executable, problem, iterations):
    with tempfile.TemporaryDirectory() as folder:
        before = children_seconds()
        CmdStanModel(exe_file=str(executable)).sample(
            data=stan_data(problem),
            chains=1,
            seed=1,
            inits=0.5,
            iter_warmup=0,
            iter_sampling=iterations,
            adapt_engaged=False,
            step_size=1e-3,
            max_treedepth=MAX_TREEDEPTH,
            save_profile=True,
            output_dir=folder,
            show_progress=False,
        )
        seconds = children_seconds() - before
        (profile,) = Path(folder).glob("*profile*.csv")
        with profile.open() as lines:
            row = next(csv.DictReader(lines))
    return Run(seconds, int(row["autodiff_calls"]))


def milliseconds_by_turns(executables, problem):
    """Of one gradient, (turn, executable). A run is half a second of each executable."""
    iterations = [1 + int(np.ceil(0.5 * 6 / run(each, problem, 6).seconds)) for each in executables]

    def one(executable, iterations):
        short, long = (run(executable, problem, n) for n in (1, 1 + iterations))
        return 1e3 * (long.seconds - short.seconds) / (long.gradients - short.gradients)

    turns = [list(map(one, executables, iterations)) for _ in range(N_TURNS)]
    return np.array(turns)


def ratio(times, slow, fast):
    """Of two executables' times: median over turns, and the extremes."""
    each = times[:, slow] / times[:, fast]
    return f"{np.median(each):5.2f} ({each.min():.2f} to {each.max():.2f})"


# ## The ladder, three times

problems = {
    number: make_problem(
        STAGES[number],
        zen_of_python().lower(),
        batch_size=64,
        block_size=8,
        n_embed=8,
        n_head=2,
        n_layer=2,
    )
    for number in RUNGS
}
print("compiling what is not compiled yet, two at a time", file=sys.stderr)


def executables(stage):
    """Of one stage: token by token, whole matrices, C++."""
    return (
        compile_program(stage.program, [loops, functions]),
        executable_of(stage, "stan").path,
        executable_of(stage, "c++").path,
    )


with ThreadPoolExecutor(max_workers=2) as pool:
    compiled = dict(zip(RUNGS, pool.map(executables, map(STAGES.get, RUNGS)), strict=True))

print(f"One gradient of the log posterior: medians of {N_TURNS} turns, and extremes of ratios\n")
print("stage  weights      loops  functions    kernels   loops/functions       functions/kernels")
milliseconds = {}
for number, problem in problems.items():
    times = milliseconds_by_turns(compiled[number], problem)
    milliseconds[number] = np.median(times, axis=0)
    columns = "".join(f"{each:>8.3f} ms" for each in milliseconds[number])
    print(
        f"{number:>5}{problem.stage.n_parameters(problem.design):>9,}{columns}"
        f"   {ratio(times, 0, 1):<22}{ratio(times, 1, 2)}",
        flush=True,
    )

fig, (ax,) = plots.figure(height=3.6)
for row, times in enumerate(milliseconds.values()):
    ax.plot(times, [row] * len(times), color="0.7", lw=1.5, zorder=1)
labels = (("s", "token by token"), ("o", "whole matrices"), ("D", "C++"))
for k, (marker, label) in enumerate(labels):
    times = [each[k] for each in milliseconds.values()]
    ax.plot(times, range(len(times)), marker, color=plots.COLOURS[k], label=label)
names = [f"{number} {STAGES[number].title.lower()}" for number in RUNGS]
ax.set_yticks(range(len(names)), names)
ax.set(xscale="log", ylim=(len(names) - 0.4, -0.6), xlabel="one gradient, milliseconds")
ticks = (0.03, 0.1, 0.3, 1, 3, 10, 30)
ax.set_xticks(ticks, [str(tick) for tick in ticks])
ax.spines[["top", "right"]].set_visible(False)
ax.legend(loc="lower left")
fig.savefig(runs / "07-gradient.png", dpi=150)
plt.close(fig)

# ## Which brick is it?
#
# The last stage has all of them. Each in turn is taken from `loops/`, and the others stay.

BRICKS = {
    "layer_norm": ["layer_norm"],
    "linear": ["linear"],
    "feed_forward": ["feed_forward"],
    "attention, dropout": ["attention", "dropout"],  # the masked one uses the other's helpers
}
vectorised = executable_of(STAGES["12"], "stan").path
print("\nStage 12 with one brick from loops/, relative to none:\n")
for name, files in BRICKS.items():
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copy(loops / f"{file}.stanfunctions", folder)
        mixed = compile_program(STAGES["12"].program, [folder, functions])
    times = milliseconds_by_turns([vectorised, mixed], problems["12"])
    print(f"  {name:<22}{ratio(times, 1, 0)}", flush=True)
print(f"\nFigure: {runs / '07-gradient.png'}")

# ## The answer
#
# Whole matrices are three times faster than token by token with attention and five times with
# everything, 4.7 instead of 25 milliseconds in stage 12. The arithmetic is the same in both. What
# differs is how finely it is cut: a product of a matrix with one token notes the whole matrix for
# the way back, 512 times instead of once. That is `linear`, and the feed-forward layer with it;
# attention has the longest loops, over pairs of positions. For looking up embeddings and for the
# log probability of each token there is nothing to gain, and these bricks are written in one way
# only, the plain one.
#
# C++ takes another four times from the bigram and ten to fifteen from the others: 0.3 milliseconds.
# Here too it is the cut. Between two bricks of Stan every number is a node of its own, with a place
# for its derivative; in C++ the whole likelihood is one node, whose derivative is worked out by
# hand, eight sequences at a time in a register. So a draw of a hundred gradients takes thirty
# milliseconds where it took half a second, and two and a half as the tutorial writes it.
