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
# # Evidence of the stages
#
# *Which stage does the text support, and from how much text on does attention pay?*
#
# The evidence of a stage is the probability of the whole text under its prior predictive
# distribution. It penalizes flexibility: a prior that gives probability to many texts gives less to
# each of them. The posterior mode and the likelihood do not. For most stages the evidence has no
# closed form; here it is estimated by sequential Monte Carlo, which carries particles from the
# prior to the posterior.
#
# Two models that count characters have an evidence in closed form and are the yardsticks: order 0
# draws every character from one distribution, order 1 has one distribution after each character.
# Both are Dirichlet-multinomial.

# %% tags=["parameters"]
runs = "runs/evidence"  # folder of the fits
text = None  # a text of your own; the Zen of Python if none is given
keep = 16  # so many of the most frequent characters of the text, one sign for the others
stages = ["01", "03", "05", "08", "12"]  # "01" to "12", or "01-log-gamma"
sizes = [64, 128, 256]  # training characters, multiples of 8
n_embed = 4
replicates = 3  # independent runs; their spread is the standard error
chains = 16  # of each level
moves = 6  # draws of each chain of a level

# %%
from dataclasses import replace

import numpy as np
import xarray as xr

from gptbayes import fit, plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.compare.evidence import compare_evidence, counting_evidence, model_evidence
from gptbayes.compare.evidence_sensitivity import scale_sensitivity, scale_sentences
from gptbayes.corpus import Windows, keep_frequent, read_text, zen_of_python
from gptbayes.findings import warnings_of
from gptbayes.inference import open_run
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.predict import compare_held_out, loo
from gptbayes.progress import progress_bars

globals().update(settings_from(globals()))
folder = output_folder(runs)

# %% [markdown]
# ## The fits
#
# Every stage is fitted to the first characters of the same text, at every size. The vocabulary and
# the held-out text are the same throughout. A fit that is already there is reused, and one that was
# interrupted is resumed at the last complete level of each replicate.

# %%
whole = keep_frequent((read_text(text) if text else zen_of_python()).lower(), keep)
whole = whole[: int(max(sizes) / 0.8) + 64]


def problem_of_size(number, size):
    """A stage and the first ``size`` characters of the text."""
    sized = stage(number).applicable(n_embed=n_embed)
    problem = make_problem(stage(number), whole, source="text", batch_size=max(sizes) // 8, **sized)
    n = size // 8
    return replace(
        problem,
        design=replace(problem.design, batch_size=n),
        training=Windows(*(part[:n] for part in problem.training)),
    )


fits = {}
for size in sizes:
    for number in stages:
        with progress_bars() as on_progress:
            run = fit.smc(
                problem_of_size(number, size),
                folder / f"{number}-smc-{size}",
                replicates=replicates,
                chains=chains,
                moves=moves,
                on_progress=on_progress,
            )
        fits[size, number] = open_run(run)
found = {key: model_evidence(idata) for key, idata in fits.items()}
seconds = sum(float(idata["path"]["seconds"].sum()) for idata in fits.values())
print(f"{len(fits)} fits of {replicates} replicates, {seconds / 60:.1f} minutes of one core in all")
for (size, number), each in found.items():
    for finding in warnings_of(each.findings):
        print(f"  stage {number}, {size} characters: {finding.text}")

# %% [markdown]
# ## The evidence
#
# Log evidence in nats per character with its standard error, by size of the training text. The
# second estimate, thermodynamic integration over the same levels, stands in brackets.

# %%
counting = {}
for size in sizes:
    problem = problem_of_size(stages[0], size)
    counting[size] = counting_evidence(problem.training, problem.design.vocab_size)
print(f"{'characters':<22}" + "".join(f"{size:>24}" for size in sizes))
for name in ("order 0", "order 1"):
    row = [float(counting[size]["log_evidence"].sel(model=name)) / size for size in sizes]
    print(f"{'counting, ' + name:<22}" + "".join(f"{value:>24.3f}" for value in row))
for number in stages:
    cells = []
    for size in sizes:
        each = found[size, number]
        both = each.log_evidence / size, each.se / size, each.thermodynamic / size
        cells.append("{:.3f} ± {:.3f} ({:.3f})".format(*both))
    print(f"{'stage ' + number:<22}" + "".join(f"{cell:>24}" for cell in cells))

# %% [markdown]
# What a stage gains over counting pairs of characters, in nats for the whole text. Above the line
# the text supports the stage; the bars are two standard errors.

# %%
order_1 = np.array([float(counting[size]["log_evidence"].sel(model="order 1")) for size in sizes])
names = [f"stage {number}" for number in stages]
coords = {"model": names, "n_characters": sizes}
gain = xr.DataArray(
    [[found[size, number].log_evidence for size in sizes] for number in stages] - order_1,
    coords,
)
error = xr.DataArray([[found[size, number].se for size in sizes] for number in stages], coords)
fig, (ax,) = plots.figure(height=3.6)
plots.plot_evidence_by_size(gain, error, ax=ax)
ax.set_ylabel("log evidence over order 1, nats")
plots.show(fig, save=folder / "12-evidence.png")

# %% [markdown]
# ## Posterior probabilities of the stages
#
# With equal prior probabilities the posterior probability of a stage, among these stages, is in
# proportion to its evidence.

# %%
for size in sizes:
    table = compare_evidence({number: found[size, number] for number in stages})
    shown = [
        f"stage {name} {float(p):.2f} ± {float(se):.2f}"
        for name, p, se in zip(
            table["fit"].values, table["probability"], table["probability_se"], strict=True
        )
        if p > 0.005
    ]
    print(f"{size:>5} characters: {', '.join(shown)}")
with_attention = [number for number in stages if "attention" in stage(number).features]
without = [number for number in stages if number not in with_attention]
first = next(
    (
        size
        for size in sizes
        if with_attention
        and without
        and max(found[size, n].log_evidence for n in with_attention)
        > max(found[size, n].log_evidence for n in without)
    ),
    None,
)
print(
    f"Attention has the larger evidence from {first} characters on."
    if first
    else "At no size has a stage with attention the larger evidence."
)

# %% [markdown]
# ## Other criteria
#
# Leave-one-sequence-out and held-out text ask how well the posterior predicts another piece of
# text; the evidence asks how well the prior, updated one character after the other, predicted all
# of it. WBIC approximates minus the log evidence for a long text. The table has the stage that
# each criterion prefers.

# %%
for size in sizes:
    of_size = {number: fits[size, number] for number in stages}
    held_out = compare_held_out(of_size).table
    preferred = {
        "evidence": max(stages, key=lambda n: found[size, n].log_evidence),
        "WBIC": min(stages, key=lambda n: found[size, n].wbic),
        "held-out text": str(held_out["fit"].values[int(held_out["elpd"].values.argmax())]),
    }
    elpd = {number: loo(idata) for number, idata in of_size.items()}
    preferred["LOO"] = max(elpd, key=lambda n: elpd[n]["elpd_loo"])
    worst = max(float(each.pareto_k.max()) for each in elpd.values())
    words = ", ".join(f"{name}: stage {number}" for name, number in preferred.items())
    print(f"{size:>5} characters: {words} (largest Pareto k of LOO {worst:.1f})")

# %% [markdown]
# ## Sensitivity to the prior
#
# The evidence depends on the prior scales, which predictions may not. For the stage with the
# largest evidence at the largest size:

# %%
best = max(stages, key=lambda n: found[sizes[-1], n].log_evidence)
print(f"Stage {best}, {sizes[-1]} characters:")
for sentence in scale_sentences(scale_sensitivity(fits[sizes[-1], best])):
    print(f"  {sentence}")

# %% [markdown]
# ## The path
#
# The mean log likelihood of the particles over the likelihood weight, for the same fit. The area
# under each line is the log evidence of that replicate.

# %%
fig, axes = plots.figure(2, width=9, height=3.2, columns=2)
plots.plot_tempering(fits[sizes[-1], best]["path"], ax=axes[0])
plots.plot_level_health(fits[sizes[-1], best]["path"], ax=axes[1])
plots.show(fig, save=folder / "12-path.png")

# %% [markdown]
# ## Summary
#
# The stage that the text supports most at the largest size, and how much better it predicted the
# text than counting pairs of characters did.

# %%
size = sizes[-1]
table = compare_evidence({number: found[size, number] for number in stages})
winner, gained = str(table["fit"][0].item()), float(gain.sel(n_characters=size).max())
spread = float(error.sel(n_characters=size, model=f"stage {winner}"))
print(f"{size} characters: stage {winner}, {gained:+.1f} ± {spread:.1f} nats over counting pairs")

# %% [markdown]
# ## The answer
#
# The text supports a stage if its better predictions outweigh the probability that its prior gives
# to other texts. On short texts this favors models with few effective parameters, and counting
# pairs of characters is hard to beat. The size from which on attention has the larger evidence, if
# any, is printed above. The criteria need not agree: held-out text measures predictions of the next
# piece only, and a prior that is too wide reduces the evidence without necessarily making
# predictions worse. The sensitivity to the prior scales shows how much of the ranking is due to
# them.
