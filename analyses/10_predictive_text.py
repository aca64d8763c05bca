"""What does a posterior buy over a mode, when the question is the next character?

    python analyses/10_predictive_text.py [RUNS]                       # the Zen of Python
    python analyses/10_predictive_text.py runs/buys --text shakespeare.txt

A mode is found in seconds and a posterior in minutes. Both say what comes next, and on text that
was held out it can be counted how well. Here stage 05 is fitted to more and more of one text, from
8 sequences of 8 characters to 256, in every way that there is: the best mode, Pathfinder with and
without importance weights, NUTS, and NUTS with its chains stacked. The held-out text is the same
throughout.

The first run takes a quarter of an hour on one core for 20,000 characters of a long text, and two
minutes for the Zen of Python; run again, it reads what is there.
"""

import argparse
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gptbayes import fit
from gptbayes.cli import progress_bars
from gptbayes.corpus import keep_frequent, read_text, zen_of_python
from gptbayes.inference import open_run
from gptbayes.stages import STAGES
from gptbayes.standata import pose

T = 8
SIZES = (8, 16, 32, 64, 128, 256)

logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("runs", type=Path, nargs="?", default=Path("runs/buys"))
parser.add_argument("--text", type=Path, help="a text of your own (the Zen of Python)")
parser.add_argument("--characters", type=int, default=20_000, help="of the text's beginning")
parser.add_argument("--keep", type=int, default=27, help="so many of its most frequent characters")
parser.add_argument("--stage", default="05", choices=STAGES)
parser.add_argument("--sizes", type=int, nargs="+", help="training sequences (8 to 256 that fit)")
parser.add_argument("--chains", type=int, default=4)
parser.add_argument("--warmup", type=int, default=300)
parser.add_argument("--draws", type=int, default=1000)
parser.add_argument("--jobs", type=int, default=2, help="chains at a time")
parser.add_argument("--seed", type=int, default=1)
asked = parser.parse_args()
asked.runs.mkdir(parents=True, exist_ok=True)
text = read_text(asked.text) if asked.text else zen_of_python()
text = keep_frequent(text[: asked.characters].lower(), asked.keep)
name = asked.text.name if asked.text else "the Zen of Python"
source = f"{name}, {len(text):,} characters, lower case, the {asked.keep} most frequent kept"
sizes = asked.sizes or [size for size in SIZES if size <= 0.8 * ((len(text) - 1) // T)]

# ## The same text, more and more of it


def fitted(size):
    """The fits to the first ``size`` sequences, made now if they are not there."""
    problem = pose(STAGES[asked.stage], text, source=source, block_size=T, batch_size=size)
    folder = asked.runs / f"{size:03d}"
    with progress_bars() as bars, ThreadPoolExecutor(asked.jobs) as pool:
        same = {"seed": asked.seed, "executor": pool, "on_progress": bars}
        fit.optimize(problem, folder / "mode", starts=8, **same)
        fit.pathfinder(problem, folder / "pathfinder", **same)
        sampling = {"iter_warmup": asked.warmup, "iter_sampling": asked.draws}
        fit.nuts(problem, folder / "nuts", chains=asked.chains, **sampling, **same)
    return {name: open_run(folder / name) for name in ("nuts", "mode", "pathfinder")}


fits = {size: fitted(size) for size in sizes}
