"""How much of the chains' disagreement is symmetry, and does the rest matter?

    python analyses/09_symmetry_and_modes.py [RUNS] [--text FILE] [--stages 04 05 08 12]

Chains of a transformer never agree about the weights: rotations, permutations and shifts of them
change no prediction, and where on such an orbit a chain sits is an accident. Beneath that there may
be modes, places that predict differently and that chains do not leave. From outside both look the
same, a large R-hat. Here four rungs of the ladder are fitted from over-dispersed starting points,
eight chains each, and taken apart: weights as drawn, weights with the symmetries taken out, scalars
that no symmetry moves, and predictions.

The first run takes a quarter of an hour on two cores; run again, it reads what is there.
"""

import argparse
import logging
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from gptbayes import fit, plots
from gptbayes.cli import progress_bars
from gptbayes.corpus import read_text, zen_of_python
from gptbayes.diagnostics.examination import examine
from gptbayes.diagnostics.mode_connectivity import connection_sentences
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.inference import open_run
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES

logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("runs", type=Path, nargs="?", default=Path("runs/symmetry"))
parser.add_argument("--text", type=Path, help="a text of your own (the Zen of Python)")
parser.add_argument("--stages", nargs="+", default=["04", "05", "08", "12"])
parser.add_argument("--chains", type=int, default=8)
parser.add_argument("--warmup", type=int, default=150)
parser.add_argument("--draws", type=int, default=300)
parser.add_argument("--batch-size", type=int, default=32)
asked = parser.parse_args()
asked.runs.mkdir(parents=True, exist_ok=True)
text = (read_text(asked.text) if asked.text else zen_of_python()).lower()
source = f"{asked.text.name if asked.text else 'the Zen of Python'}, lower case"

# ## Eight chains for each stage
#
# Starting points are draws from the prior with twice its sd: if there are separate modes, chains
# have every chance to fall into different ones.


def fitted(number, name, **settings):
    """The InferenceData of one stage, fitted now if it is not there."""
    problem = make_problem(
        STAGES[number],
        text,
        source=source,
        batch_size=asked.batch_size,
        block_size=8,
        n_embed=8,
        n_head=2,
        n_layer=2,
    )
    with progress_bars() as on_progress:
        run = fit.nuts(
            problem,
            asked.runs / name,
            chains=asked.chains,
            iter_warmup=asked.warmup,
            iter_sampling=asked.draws,
            on_progress=on_progress,
            **settings,
        )
    return open_run(run)


found = {n: examine(fitted(n, n, init="random"), learned=False) for n in asked.stages}

# ## What part is gauge?
#
# R-hat compares the spread between chains with the spread within them. Taking the symmetries out
# shrinks both. So beside R-hat stands a plainer figure: of all squared distances between draws of
# different chains, the share that is gone after alignment.


def between(draws):
    """Mean squared distance of two draws of different chains, summed over scalars."""
    values = draws.values
    n_chain = len(values)
    means, within = values.mean(axis=1), values.var(axis=1).sum(axis=-1).mean()
    return 2 * (n_chain / (n_chain - 1) * means.var(axis=0).sum() + within)


print(f"{asked.chains} chains of {asked.draws} draws for each stage, {source}\n")
print("stage  weights  redundant   gauge   largest R-hat:  raw  aligned  invariant  log prob")
for number, each in found.items():
    raw, aligned = each.kinds["raw weights"], each.kinds["aligned weights"]
    worst = each.verdict.evidence["r_hat_max"]
    kinds = ("raw weights", "aligned weights", "invariants", "log probabilities")
    columns = "".join(f"{float(worst.sel(quantity=kind)):>10.3f}" for kind in kinds)
    gauge = 1 - between(aligned) / between(raw)
    share = each.n_redundant / each.n_parameters
    print(f"{number:>5}{each.n_parameters:>9,}{share:>10.0%}{gauge:>8.0%}{columns:>51}")

fig, axes = plots.figure(len(found), height=3.6, columns=2, width=9)
for ax, (number, each) in zip(axes, found.items(), strict=True):
    plots.plot_r_hat(each.r_hats, limit=R_HAT_LIMIT, ax=ax)
    ax.set_title(f"stage {number}, {STAGES[number].title.lower()}", fontsize="medium", pad=16)
fig.savefig(asked.runs / "09-r-hat.png", dpi=150)
plt.close(fig)

# ## How many modes are left, and do they matter?

for number, each in found.items():
    print(f"\nStage {number}: {each.verdict.text}")
    modes = each.modes.table
    if modes.sizes["mode"] > 1:
        for k in range(modes.sizes["mode"]):
            row = modes.isel(mode=k)
            lp = f"{float(row['lp']):.1f} ± {float(row['lp_mcse']):.1f}"
            elpd = f"{float(row['elpd']):.1f} ± {float(row['se']):.1f}"
            print(f"  mode {k + 1}: log posterior {lp}, held-out elpd {elpd} nats")
        print(f"  {modes.attrs['mass']}.")
    weights = each.stack.chains["weight"].values
    stacked = each.stack.held_out.sel(mixture="stacked")
    print(
        f"  stacking the chains: largest weight {weights.max():.2f}, held-out elpd "
        f"{float(stacked['difference']):+.1f} ± {float(stacked['difference_se']):.1f} nats against "
        f"equal weights (Pareto k above 0.7 for up to {int(each.stack.chains['n_bad_k'].max())} "
        "sequences of a chain)"
    )
    for sentence in connection_sentences(each.connections):
        print(f"  {sentence}")

fig, axes = plots.figure(len(found), height=4.0, columns=2, width=9)
for ax, (number, each) in zip(axes, found.items(), strict=True):
    label = each.verdict.groups.label if each.verdict.groups else None
    plots.plot_mode_map(each.functions, label=label, ax=ax)
    ax.set_title(f"stage {number}", fontsize="medium")
fig.savefig(asked.runs / "09-map.png", dpi=150)
plt.close(fig)

# ## Do chains that start at modes stay there?
#
# Members of a deep ensemble are modes that an optimiser found from different points. Here each
# chain starts at one, in the stage whose modes are the worst predictors.

if "05" in asked.stages:
    started = examine(fitted("05", "05-from-modes", init="optimize"), paths=False, learned=False)
    print(f"\nStage 05, each chain from a mode of its own: {started.verdict.text}")
    for name, each in (("random points", found["05"]), ("modes", started)):
        lp = each.kinds["log posterior"]
        print(f"  from {name}: log posterior {float(lp.mean()):.1f}, sd {float(lp.std()):.1f} nats")
print(f"\nFigures: {asked.runs / '09-r-hat.png'}, {asked.runs / '09-map.png'}")

# ## The answer
#
# On the Zen of Python, 256 characters, eight chains of 300 draws from over-dispersed points.
#
# Of the directions of weight space a tenth (stage 08) to a quarter (stages 04 and 12) change no
# prediction. Of the squared distance between draws of different chains 38, 31, 25 and 17 per cent
# are gone when the symmetries that the prior keeps too are taken out. What they do to R-hat is
# plainest where the orbits are many: in stage 12 the largest falls from 1.09 to 1.03, in stage 08
# from 1.05 to 1.01, while log probabilities stand at 1.01. Stage 05 is the exception, and the
# honest one: aligned weights are no better than raw ones, and scalars that no symmetry moves are
# worst of all, 1.08. Some direction is slow there that is no symmetry; the verdict is that the
# chains are too short to tell.
#
# No chain is trapped. Segments of different chains lie as near to each other, by what they predict,
# as segments of the same chain, and no islands are left on the map. Paths say the same: as drawn,
# an arc between draws of two chains of stage 05 falls by 420 nats, aligned by 160, and between
# draws of one chain by 180. The hills between chains were symmetry. What would have shown this
# wrong is a verdict of modes at any stage, or aligned arcs that fall much further between chains
# than within.
#
# Chains that start at modes of their own do not stay there either. The optimiser's modes differ,
# but in stage 05 the chains leave them: their log posterior is -980.1 on average with an sd of 20.9
# nats, that of chains from random points -980.2 with 20.5. At this size a mode is a point that the
# posterior passes by, and an ensemble of modes is no sample of it.
#
# So there is nothing for stacking to gain. It chooses weights as uneven as 0.7 for one of eight
# chains, by leave-one-out densities whose Pareto k is above 0.7 nearly everywhere, and in stage 05
# it predicts held-out text worse than equal weights, by 15 ± 6 nats. Weights of stacking are worth
# looking at where chains are trapped, and nowhere else.
