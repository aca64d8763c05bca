"""What does a gradient cost, and what do whole matrices buy?

    python analyses/07_what_a_gradient_costs.py [RUNS]

NUTS spends its time on gradients, a hundred or more for each draw. The tutorial reads like the
equations: for each sequence, for each token, multiply, look back, add. The bricks of `stan/loops/`
are written like that. Those of `stan/functions/`, which the fits use, compute the same numbers for
all tokens at once wherever there is an operation for it. They are harder to read. Is it worth it?

All twelve stages are compiled with the one set and with the other, which takes a quarter of an hour
the first time. For that reason this script is no part of `make demo`.
"""

import csv
import logging
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
from gptbayes.stages import STAGES, stan_folder
from gptbayes.standata import pose, stan_data
from gptbayes.toolchain import compile_program

logging.getLogger("cmdstanpy").setLevel(logging.ERROR)
runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
runs.mkdir(parents=True, exist_ok=True)
functions, loops = stan_folder() / "functions", stan_folder() / "loops"
N_PAIRS = 5

# ## What is measured
#
# Stan times the block `profile("likelihood")` of each program: building the expression and going
# back through it, and counts how often that happened. The prior is outside, and costs little. A run
# here is of fixed length, without adaptation and with a tiny step, so that both variants see the
# same points and do the same number of gradients. They run by turns; a busy moment of the machine
# then hits both, and the ratio within a pair is better known than either time.
#
# One more number needs no clock. Automatic differentiation keeps a node for each operation whose
# derivative it will need, and calls a function at each on the way back.


class Cost(NamedTuple):
    """Of one gradient of the log likelihood: milliseconds, and nodes with a derivative to call."""

    milliseconds: float
    nodes: float


def cost(executable, problem):
    """The cost of a gradient, as a mean over some hundred of them."""
    with tempfile.TemporaryDirectory() as folder:
        CmdStanModel(exe_file=str(executable)).sample(
            data=stan_data(problem),
            chains=1,
            seed=1,
            inits=0.5,
            iter_warmup=0,
            iter_sampling=6,
            adapt_engaged=False,
            step_size=1e-3,
            max_treedepth=5,
            save_profile=True,
            output_dir=folder,
            show_progress=False,
        )
        (profile,) = Path(folder).glob("*profile*.csv")
        with profile.open() as lines:
            row = next(csv.DictReader(lines))
    n_gradients = int(row["autodiff_calls"])
    return Cost(1e3 * float(row["total_time"]) / n_gradients, int(row["chain_stack"]) / n_gradients)


def by_turns(executables, problem):
    """Costs (pair, executable, [milliseconds, nodes]): each executable once per pair."""
    return np.array([[cost(exe, problem) for exe in executables] for _ in range(N_PAIRS)])


def ratio(costs):
    """Of the second executable's times to the first's: median over pairs, and the extremes."""
    each = costs[:, 1, 0] / costs[:, 0, 0]
    return f"{np.median(each):5.2f} ({each.min():.2f} to {each.max():.2f})"


# ## The ladder, twice

problems = {
    number: pose(
        stage, zen_of_python().lower(), batch_size=64, block_size=8, n_embed=8, n_head=2, n_layer=2
    )
    for number, stage in STAGES.items()
}
print("compiling what is not compiled yet, two at a time", file=sys.stderr)
wanted = [(stage.program, [bricks]) for stage in STAGES.values() for bricks in (functions, loops)]
with ThreadPoolExecutor(max_workers=2) as pool:
    compiled = list(pool.map(compile_program, *zip(*wanted, strict=True)))
pairs = dict(zip(STAGES, zip(compiled[::2], compiled[1::2], strict=True), strict=True))

print(f"One gradient of the log likelihood, medians of {N_PAIRS} runs by turns:\n")
print("stage  weights     functions         loops   ratio of times       ratio of nodes")
milliseconds = {}
for number, problem in problems.items():
    costs = by_turns(pairs[number], problem)
    milliseconds[number], nodes = np.median(costs, axis=0).T
    print(
        f"{number:>5}{problem.stage.n_parameters(problem.design):>9,}"
        f"{milliseconds[number][0]:>11.2f} ms{milliseconds[number][1]:>11.2f} ms"
        f"   {ratio(costs):<21}{nodes[1] / nodes[0]:.1f}",
        flush=True,
    )

fig, (ax,) = plots.figure(height=3.6)
for row, times in enumerate(milliseconds.values()):
    ax.plot(times, [row, row], color="0.7", lw=1.5, zorder=1)
for k, (marker, label) in enumerate((("o", "whole matrices"), ("s", "token by token"))):
    times = [each[k] for each in milliseconds.values()]
    ax.plot(times, range(len(times)), marker, color=plots.COLOURS[k], label=label)
names = [f"{number} {stage.title.lower()}" for number, stage in STAGES.items()]
ax.set_yticks(range(len(names)), names)
ax.set(xscale="log", ylim=(len(names) - 0.4, -0.6), xlabel="one gradient, milliseconds")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(loc="lower left")
fig.savefig(runs / "07-gradient.png", dpi=150)
plt.close(fig)

# ## Which brick is it?
#
# The last stage has all of them. Each in turn is taken from `loops/`, and the others stay.

BRICKS = {
    "token_log_likelihood": ["token_log_likelihood"],
    "embedding": ["embedding"],
    "layer_norm": ["layer_norm"],
    "linear": ["linear"],
    "feed_forward": ["feed_forward"],
    "attention, dropout": ["attention", "dropout"],  # the masked one uses the other's helpers
}
vectorised = pairs["12"][0]
print("\nStage 12 with one brick from loops/, relative to none:\n")
for name, files in BRICKS.items():
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copy(loops / f"{file}.stanfunctions", folder)
        mixed = compile_program(STAGES["12"].program, [folder, functions])
    costs = by_turns([vectorised, mixed], problems["12"])
    print(f"  {name:<22}{ratio(costs)}", flush=True)
print(f"\nFigure: {runs / '07-gradient.png'}")
