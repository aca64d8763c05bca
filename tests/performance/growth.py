"""How long until every log probability has 400 effective draws, and what makes it longer?

    python tests/performance/growth.py [--text FILE] [--out growth] [--only characters] [--quick]

The text is what Python's `help` says, unless there is another. Four chains of NUTS with default
settings. One size of the problem changes at a time: characters of the text, weights by the width of
the embedding, the stage, or the length of the contexts. What is counted are the smallest bulk
effective sample size of the log probabilities of training characters and that of the log posterior.
The time of sampling is extrapolated to 400 from what the draws have; warm-up is added as it is.
Seconds are of one core, as Stan says, divided by two for two cores that are never idle. Where R-hat
is above 1.05 chains have not mixed, and the time is a lower limit: the symbol is empty.
"""

import argparse
import json
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from measure import machine
from metric import seconds, stacked

from gptbayes import fit, plots
from gptbayes.corpus import keep_frequent, read_text
from gptbayes.findings import ESS_LIMIT
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES, stage
from gptbayes.stats.summary import ess, r_hat

warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)

CHAINS, DRAWS, R_HAT, LONGEST = 4, 200, 1.05, 12_000
KINDS = 31
"""Characters of the vocabulary; one sign stands for the others."""
USUAL = {"number": "12", "characters": 256, "n_embed": 8, "block_size": 8}
CHARACTERS = (128, 256, 512, 1024, 2048, 4096, 8192)
SERIES = {
    "characters, stage 05": ("characters", CHARACTERS, {"number": "05"}),
    "characters, stage 12": ("characters", CHARACTERS[:-1], {}),
    "width, stage 12": ("n_embed", (4, 8, 16, 32), {}),
    "context, stage 12": ("block_size", (4, 8, 16, 32), {"characters": 1024}),
    "stage": ("number", tuple(STAGES)[:12], {}),
}


class Result(NamedTuple):
    """Of one fit; gradients are of all chains."""

    weights: int
    warmup_seconds: float
    sampling_seconds: float
    steps: float
    ess: float
    r_hat: float
    milliseconds: float

    @property
    def until(self) -> float:
        """Seconds of two cores to an effective sample size of `ESS_LIMIT`."""
        return (self.warmup_seconds + self.sampling_seconds * ESS_LIMIT / self.ess) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help=f"a file of {LONGEST:,} characters or more")
    parser.add_argument("--out", default="growth", help="names of growth.png and growth.json")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="series that begin so")
    parser.add_argument("--quick", action="store_true", help="the two smallest of each series")
    asked = parser.parse_args()
    text = read_text(asked.text) if asked.text else help_text()
    text = keep_frequent(text.lower()[:LONGEST], KINDS)
    known = Path(f"{asked.out}.json")
    found = json.loads(known.read_text()) if known.exists() else {}
    print(f"{CHAINS} chains of {DRAWS} draws after warm-up\n{machine()}")
    for name, (size, values, changed) in SERIES.items():
        if asked.only and not name.startswith(tuple(asked.only)):
            continue
        print(f"\n{name}\n{heading(size)}", flush=True)
        for value in values[:2] if asked.quick else values:
            key = f"{name}: {value}"
            if key not in found:
                found[key] = measured(text, **{**USUAL, **changed, size: value})
                known.write_text(json.dumps(found, indent=1))
            print(row(value, Result(*found[key])), flush=True)
    draw(found, Path(f"{asked.out}.png"))


def help_text():
    """English prose that comes with Python."""
    prose = (" ".join(each.split()) for each in topics.values())
    return "\n".join(prose)


def measured(text, number, characters, n_embed, block_size):
    """One fit, one chain after another."""
    problem = make_problem(
        stage(number),
        text,  # the same characters, whatever is fitted
        block_size=block_size,
        batch_size=characters // block_size,
        **stage(number).applicable(n_embed=n_embed, n_head=2),
    )
    with tempfile.TemporaryDirectory() as folder:
        with ThreadPoolExecutor(max_workers=1) as executor:  # for times that mean something
            lengths = {"chains": CHAINS, "iter_sampling": DRAWS}
            fit.nuts(problem, Path(folder) / "fit", **lengths, executor=executor)
        draws = fit.read_draws(Path(folder) / "fit")
        paths = (Path(folder) / "fit" / "csv").glob("*.csv")
        warmup, sampling = np.sum([seconds(path) for path in paths], axis=0)
    log_lik = stacked([each.variables["log_lik"].reshape(DRAWS, -1) for each in draws])
    lp = stacked([each.method_variables["lp"][:, None] for each in draws])
    gradients = sum(each.method_variables["n_leapfrog"].sum() for each in draws)
    return Result(
        problem.stage.n_parameters(problem.design),
        float(warmup),
        float(sampling),
        float(gradients / (CHAINS * DRAWS)),
        float(min(ess(each)["ess_bulk"].min() for each in (log_lik, lp))),
        float(max(r_hat(each).max() for each in (log_lik, lp))),
        float(1e3 * sampling / gradients),
    )


def heading(size):
    return (
        f"  {size:<12}{'weights':>8}{'gradient':>11}{'steps':>8}{'warm-up':>10}{'sampling':>10}"
        f"{'ESS':>7}{'R-hat':>8}{f'to ESS {ESS_LIMIT}':>13}\n"
        f"  {'':<12}{'':>8}{'ms':>11}{'a draw':>8}{'s':>10}{'s':>10}{'':>15}{'s':>13}"
    )


def row(value, of):
    return (
        f"  {value:<12}{of.weights:>8,}{of.milliseconds:>11.3f}{of.steps:>8.0f}"
        f"{of.warmup_seconds:>10.1f}{of.sampling_seconds:>10.1f}{of.ess:>7.0f}{of.r_hat:>8.2f}"
        f"{of.until:>13.0f}{' (not mixed)' if of.r_hat > R_HAT else ''}"
    )


def draw(found, path):
    """A panel for each size that changes."""
    panels = {
        "characters": ["characters, stage 05", "characters, stage 12"],
        "width of the embedding, stage 12": ["width, stage 12"],
        "characters of a context, stage 12": ["context, stage 12"],
        "stage": ["stage"],
    }
    panels = {
        label: names
        for label, names in panels.items()
        if any(key.startswith(f"{name}: ") for name in names for key in found)
    }
    columns = len(panels) if len(panels) < 4 else 2
    height = 2.8 * -(-len(panels) // columns)
    fig, axes = plots.figure(len(panels), width=4 * columns, height=height, columns=columns)
    for ax, (label, names) in zip(axes, panels.items(), strict=True):
        for k, name in enumerate(names):
            values = [value for value in SERIES[name][1] if f"{name}: {value}" in found]
            of = [Result(*found[f"{name}: {value}"]) for value in values]
            color = plots.COLORS[k]
            ax.plot(values, [each.until for each in of], color=color, lw=1)
            for value, each in zip(values, of, strict=True):
                face = color if each.r_hat <= R_HAT else "white"
                ax.plot(value, each.until, "o", ms=5, mec=color, mfc=face)
            if len(names) > 1 and len(of) > 1:
                upper = k == len(names) - 1
                beside = -2 if upper or len(of) < 3 else -3
                ax.annotate(
                    name.partition(", ")[2],
                    (values[beside], of[beside].until),
                    xytext=(-6, 6) if upper else (6, -12),
                    textcoords="offset points",
                    ha="right" if upper else "left",
                    color=color,
                )
        ax.set_yscale("log")
        ax.set_ylim(0.5, 20_000)
        if label != "stage":
            ax.set_xscale("log", base=2)
            ticks = [v for v in SERIES[names[0]][1] if f"{names[0]}: {v}" in found]
            ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.set(xlabel=label, ylabel=f"seconds to ESS {ESS_LIMIT}")
    plots.show(fig, save=path)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
