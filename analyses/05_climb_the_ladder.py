"""What does each stage of the ladder buy, and what does it cost?

    python analyses/05_climb_the_ladder.py                     # the Zen of Python
    python analyses/05_climb_the_ladder.py --text hamlet.txt --out runs/ladder-hamlet

The tutorial climbs from the bigram to the transformer and looks at the training loss of one
optimum per stage. Here all twelve stages are fitted to one text, with one seed, in three ways:
the mode, Pathfinder and NUTS. Training loss always likes more parameters; the question is what
each stage does for text that it has not seen, whether its posterior was really reached, and at
what price.

Everything that was fitted is kept: a climb that was interrupted goes on where it was.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

from gptbayes import fit, plots
from gptbayes.cli import progress_bars
from gptbayes.corpus import read_text, zen_of_python
from gptbayes.diagnostics import diagnose
from gptbayes.inference import open_run
from gptbayes.known_answers import family_wise_p
from gptbayes.predict import compare_held_out, unigram_log_density, write
from gptbayes.report import write_report
from gptbayes.stages import STAGES
from gptbayes.standata import pose
from gptbayes.summary import log_mean_exp

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--text", type=Path, help="UTF-8 text, lower-cased (the Zen of Python)")
parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help="(runs/ladder)")
parser.add_argument("--batch-size", type=int, default=32, help="sequences to fit, B (32)")
parser.add_argument("--n-embed", type=int, default=4, help="width of the models, C (4)")
parser.add_argument("--draws", type=int, default=250, help="of each of 4 chains (250)")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--reports", action="store_true", help="write a report for every stage")
chosen = parser.parse_args()
text = read_text(chosen.text) if chosen.text else zen_of_python()
source = f"{chosen.text.name if chosen.text else 'the Zen of Python'}, lower case"

# ## The climb
#
# 32 sequences of 8 characters are fitted; the end of the text is held out. Chains start from
# Pathfinder draws; as many iterations warm up as are kept.

fits = {}
for number, stage in STAGES.items():
    problem = pose(
        stage,
        text.lower(),
        source=source,
        batch_size=chosen.batch_size,
        n_embed=chosen.n_embed,
        mask_seed=chosen.seed,
    )
    folder = chosen.out / number
    with progress_bars() as bars:
        same = {"seed": chosen.seed, "on_progress": bars}
        fit.optimize(problem, folder / "mode", **same)
        fit.pathfinder(problem, folder / "pathfinder", **same)
        sampling = {"iter_warmup": chosen.draws, "iter_sampling": chosen.draws}
        fit.nuts(problem, folder / "nuts", **sampling, **same)
    for name in ("nuts", "pathfinder", "mode"):
        fits[number, name] = open_run(folder / name)

# ## What they predict
#
# Log predictive density per character: of a fit with draws, the logarithm of the mean over draws
# of the probability of a whole sequence. Character frequencies of the training text are the
# yardstick: a model of language should beat them.

comparison = compare_held_out({f"{number} {name}": fits[number, name] for number, name in fits})
rows = []
for number, name in fits:
    idata = fits[number, name]
    training = log_mean_exp(idata.log_likelihood["log_lik"].sum("position"))
    held_out = comparison.table.sel(fit=f"{number} {name}")
    rows.append(
        {
            "stage": number,
            "method": name,
            "training": float(training.mean()) / problem.design.block_size,
            "training_se": float(training.std(ddof=1) / np.sqrt(training.size))
            / problem.design.block_size,
            "held_out": float(held_out["per_character"]),
            "held_out_se": float(held_out["per_character_se"]),
        }
    )
density = pd.DataFrame(rows).set_index(["method", "stage"]).to_xarray()
frequencies, _ = unigram_log_density(idata)

# ## Whether they can be believed, and what they cost
#
# Seconds are CmdStan's own, summed over chains or paths, warm-up included; the effective sample
# size is the smallest of all log probabilities of training characters.

print(f"{source}: {problem.n_targets} characters fitted, {comparison.table.n_character} held out")
print(f"held-out yardstick, character frequencies: {frequencies:.3f} nats per character\n")
columns = (
    "stage  weights   mode          Pathfinder    NUTS            R-hat   ESS  ESS/s  grad/draw"
)
print(f"{'':16}held-out nats per character, ± se\n{columns}   div   exact p: NUTS  Pathfinder (k)")
costs = []
for number, stage in STAGES.items():
    nuts, pathfinder = diagnose(fits[number, "nuts"]), diagnose(fits[number, "pathfinder"])
    functions = nuts.convergence.sel(quantity="log probabilities")
    seconds = sum(json.loads(fits[number, "nuts"].attrs["seconds"]))
    ess = float(functions["ess_bulk_min"])
    gradients = float(nuts.health["n_steps"].mean())
    costs.append({"stage": number, "seconds": seconds, "ess_per_second": ess / seconds})
    held_out = [
        f"{float(one['held_out']):.2f} ± {float(one['held_out_se']):.2f}"
        for one in (
            density.sel(stage=number, method=name) for name in ("mode", "pathfinder", "nuts")
        )
    ]
    print(
        f"{number}     {stage.n_parameters(problem.design):6}   {held_out[0]:<14}{held_out[1]:<14}"
        f"{held_out[2]:<14}{float(functions['r_hat_max']):7.3f}{ess:6.0f}{ess / seconds:7.2f}"
        f"{gradients:9.0f}{int(nuts.health['divergences'].sum()):8}"
        f"{family_wise_p(nuts.known_answers):11.2g}{family_wise_p(pathfinder.known_answers):14.1g}"
    )
costs = pd.DataFrame(costs).set_index("stage").to_xarray()
print(f"\nTime in CmdStan's NUTS, all chains: {float(costs.seconds.sum()) / 60:.0f} minutes.")

# ## A line from each
#
# One posterior draw of each stage goes on from the same held-out context.

print()
prompt = problem.vocabulary.decode(problem.held_out.x[0])
for number in STAGES:
    written = write(fits[number, "nuts"], prompt, 50, np.random.default_rng(chosen.seed))
    print(f"{number} {plots.visible(prompt + written.attrs['text'])}")

# ## One figure

fig, axes = plots.figure(3, width=11, height=3.9, columns=3)
for ax, what in zip(axes, ("training", "held_out"), strict=False):
    values = xr.Dataset({"mean": density[what], "se": density[f"{what}_se"]})
    plots.plot_ladder(values, yardsticks={"character frequencies": frequencies}, ax=ax)
    ax.set_title(f"{what.replace('_', '-')} text")
    ax.set_ylabel("log predictive density, nats per character")
axes[2].semilogy(costs["stage"], costs["ess_per_second"], "o-", color="black")
axes[2].set(
    title="cost of NUTS", xlabel="stage", ylabel="smallest ESS of log probabilities per second"
)
fig.savefig(chosen.out / "ladder.png", dpi=150)
plt.close(fig)
print(f"\nFigure: {chosen.out / 'ladder.png'}")

if chosen.reports:
    for number in STAGES:
        folder = chosen.out / number
        print(write_report(folder / "nuts", [folder / "pathfinder", folder / "mode"]))
