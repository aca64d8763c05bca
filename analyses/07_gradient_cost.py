# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The cost of a gradient
#
# *How long does a gradient take, and how much faster are other ways to write it?*
#
# NUTS spends its time on gradients, a hundred or more for each draw. Three implementations of the
# likelihood are compared:
#
# - `stan/loops/` is written as the equations are, with loops over sequences and tokens, as in the
#   tutorial.
# - `stan/functions/` computes the same numbers with matrix operations for all tokens at once,
#   wherever Stan has one. It is the reference, and harder to read.
# - `stan/kernels/` is one C++ function for the likelihood and its analytic gradient. Fits use it
#   where there is a compiler.
#
# Four stages are compiled with each of the three and timed, which takes ten minutes the first time.
# Other software is compared by `make bench`.

# %% tags=["parameters"]
runs = "runs/demo"  # folder of the figure
stages = ["01", "05", "08", "12"]
n_turns = 5  # repetitions of each timing
seconds = 0.5  # of processor time for each timing, about
functions = True  # time the functions of stage 12 one by one as well

# %%
import csv
import logging
import resource
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cmdstanpy import CmdStanModel

from gptbayes import plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.corpus import zen_of_python
from gptbayes.fit import executable_of
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES, stan_folder
from gptbayes.model.stan_data import stan_data
from gptbayes.toolchain import compile_program

MAX_TREEDEPTH = 5
LOOPS, FUNCTIONS = stan_folder() / "loops", stan_folder() / "functions"
logging.getLogger("cmdstanpy").disabled = True  # it warns that such short chains do not converge
globals().update(settings_from(globals()))
folder = output_folder(runs)

# %% [markdown]
# ## The measurement
#
# The time of a gradient is the processor time of a NUTS run divided by its number of gradients.
# Start-up and reading the data are excluded by taking the difference of a long and a short run.
# Processor time excludes waiting for other processes. Runs have a fixed length, no adaptation and a
# tiny step size, so that all three programs evaluate the same number of gradients at the same
# points. The programs take turns.
#
# `profile("likelihood")` in the programs counts the gradients.


# %%
class Run(NamedTuple):
    """Of CmdStan: seconds of the processor, and number of gradients."""

    seconds: float
    gradients: int


def children_seconds():
    """Processor time of all processes that this one has started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(executable, problem, iterations):
    """One short chain."""
    with tempfile.TemporaryDirectory() as output:
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
            output_dir=output,
            show_progress=False,
        )
        used = children_seconds() - before
        (profile,) = Path(output).glob("*profile*.csv")
        with profile.open() as lines:
            row = next(csv.DictReader(lines))
    return Run(used, int(row["autodiff_calls"]))


def milliseconds_by_turns(executables, problem):
    """Of one gradient, (turn, executable)."""
    iterations = [
        1 + int(np.ceil(seconds * 6 / run(each, problem, 6).seconds)) for each in executables
    ]

    def one(executable, iterations):
        short, long = (run(executable, problem, n) for n in (1, 1 + iterations))
        return 1e3 * (long.seconds - short.seconds) / (long.gradients - short.gradients)

    return np.array([list(map(one, executables, iterations)) for _ in range(n_turns)])


def ratio(times, slow, fast):
    """Of two executables' times: median over turns, and the extremes."""
    each = times[:, slow] / times[:, fast]
    return f"{np.median(each):5.2f} ({each.min():.2f} to {each.max():.2f})"


# %% [markdown]
# ## Three implementations of each stage

# %%
problems = {
    number: make_problem(
        STAGES[number],
        zen_of_python().lower(),
        batch_size=64,
        block_size=8,
        **STAGES[number].applicable(n_embed=8, n_head=2, n_layer=2),
    )
    for number in stages
}


def executables(stage):
    """Of one stage: loops, matrix operations, C++."""
    return (
        compile_program(stage.program, [LOOPS, FUNCTIONS]),
        executable_of(stage, "stan").path,
        executable_of(stage, "c++").path,
    )


print("compiling what is not compiled yet, two at a time", file=sys.stderr)
with ThreadPoolExecutor(max_workers=2) as pool:
    compiled = dict(zip(stages, pool.map(executables, (STAGES[n] for n in stages)), strict=True))

print(f"One gradient of the log posterior: medians of {n_turns} turns, and extremes of ratios\n")
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

# %%
fig, (ax,) = plots.figure(height=3.6)
for row, times in enumerate(milliseconds.values()):
    ax.plot(times, [row] * len(times), color="0.7", lw=1.5, zorder=1)
labels = (("s", "loops"), ("o", "matrix operations"), ("D", "C++"))
for k, (marker, label) in enumerate(labels):
    times = [each[k] for each in milliseconds.values()]
    ax.plot(times, range(len(times)), marker, color=plots.COLORS[k], label=label)
names = [f"{number} {STAGES[number].title.lower()}" for number in stages]
ax.set_yticks(range(len(names)), names)
ax.set(xscale="log", ylim=(len(names) - 0.4, -0.6), xlabel="one gradient, milliseconds")
ticks = (0.03, 0.1, 0.3, 1, 3, 10, 30)
ax.set_xticks(ticks, [str(tick) for tick in ticks])
ax.spines[["top", "right"]].set_visible(False)
ax.legend(loc="lower left")
plots.show(fig, save=folder / "07-gradient.png")

# %% [markdown]
# ## The functions of stage 12, one by one
#
# Stage 12 uses all functions. Each in turn is taken from `loops/`, and the others stay as they are.

# %%
FILES = {
    "layer_norm": ["layer_norm"],
    "linear": ["linear"],
    "feed_forward": ["feed_forward"],
    "attention, dropout": ["attention", "dropout"],  # the masked one uses the other's helpers
}
if functions and "12" in stages:
    print("Stage 12 with one function from loops/, relative to none:\n")
    for name, files in FILES.items():
        with tempfile.TemporaryDirectory() as changed:
            for file in files:
                shutil.copy(LOOPS / f"{file}.stanfunctions", changed)
            mixed = compile_program(STAGES["12"].program, [changed, FUNCTIONS])
        times = milliseconds_by_turns([compiled["12"][1], mixed], problems["12"])
        print(f"  {name:<22}{ratio(times, 1, 0)}", flush=True)

# %%
slowest, reference, fastest = milliseconds[stages[-1]]
print(f"One draw of a hundred gradients of stage {stages[-1]}:")
for name, each in (("loops", slowest), ("functions", reference), ("kernels", fastest)):
    print(f"  {name:<11}{each / 10:.3f} seconds")

# %% [markdown]
# ## The answer
#
# Matrix operations are several times faster than loops, and the factor grows with the number of
# parts that a stage has. Both do the same arithmetic. They differ in the number of nodes of the
# autodiff graph: the product of a matrix with one token stores the whole matrix for the reverse
# pass, once per token instead of once. This concerns `linear`, and with it the feed-forward layer;
# attention has the longest loops, over pairs of positions. Looking up embeddings and the log
# probability of each token gain nothing, and are written in one way only.
#
# C++ gains another factor, small for the bigram and about ten for the other stages. Between two
# functions of Stan every number is a node of its own, with a place for its derivative. In C++ the
# whole likelihood is one node. Its derivative is derived by hand and computed for several sequences
# at a time with vector instructions.
