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
stages = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12"]  # or 01-log-gamma
sizes = [64, 128, 256, 512, 1024, 2048]  # training characters, multiples of 8
n_embed = 4
replicates = 3  # independent runs; their spread is the standard error
chains = 12  # of each level
moves = 6  # draws of each chain of a level
max_treedepth = 5  # of NUTS: at most 31 gradients for a draw

# %%
import time
from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.special import softmax

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
asked = sizes
sizes = [size for size in asked if size <= 0.8 * len(whole)] or [min(asked)]
if sizes != asked:
    left_out = ", ".join(str(size) for size in asked if size not in sizes)
    print(f"The text has {len(whole)} characters, too few for sizes {left_out}.")
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


fits, begun = {}, time.perf_counter()
for size in sizes:
    for number in stages:
        with progress_bars() as on_progress:
            run = fit.smc(
                problem_of_size(number, size),
                folder / f"{number}-smc-{size}",
                replicates=replicates,
                chains=chains,
                moves=moves,
                max_treedepth=max_treedepth,
                on_progress=on_progress,
            )
        fits[size, number] = open_run(run)
waited = time.perf_counter() - begun
found = {key: model_evidence(idata) for key, idata in fits.items()}
seconds = sum(float(idata["path"]["seconds"].sum()) for idata in fits.values())
n_shaky = sum(bool(warnings_of(each.findings)) for each in found.values())
print(
    f"{len(fits)} fits of {replicates} replicates, {seconds / 60:.1f} minutes of their levels in "
    f"all, {waited / 60:.1f} minutes of this run; {n_shaky} have warnings:"
)
for (size, number), each in found.items():
    for finding in warnings_of(each.findings):
        print(f"  stage {number}, {size} characters: {finding.text}")

# %% [markdown]
# ## The evidence
#
# Log evidence in nats per character with its standard error, by size of the training text.

# %%
counting = {}
for size in sizes:
    problem = problem_of_size(stages[0], size)
    counting[size] = counting_evidence(problem.training, problem.design.vocab_size)
print(f"{'characters':<22}" + "".join(f"{size:>18}" for size in sizes))
for name in ("order 0", "order 1"):
    row = [float(counting[size]["log_evidence"].sel(model=name)) / size for size in sizes]
    print(f"{'counting, ' + name:<22}" + "".join(f"{value:>18.3f}" for value in row))
for number in stages:
    each = [(found[size, number], size) for size in sizes]
    cells = [f"{one.log_evidence / n:.3f} ± {one.se / n:.3f}" for one, n in each]
    print(f"{'stage ' + number:<22}" + "".join(f"{cell:>18}" for cell in cells))
apart = [each.thermodynamic - each.log_evidence for each in found.values()]
error = [each.thermodynamic_discretisation for each in found.values()]
print(
    "Thermodynamic integration minus SMC, over all fits: "
    f"{np.median(apart):+.2f} nats (median), {np.min(apart):+.2f} to {np.max(apart):+.2f}; its "
    f"discretisation error is at most {np.nanmax(np.abs(error)):.2g} nats."
)

# %% [markdown]
# What a stage gains over counting pairs of characters, in nats for the whole text. Above the line
# the text supports the stage; the bars are two standard errors. Order 0 leaves the panel where it
# is far below all stages.

# %%
order_1 = np.array([float(counting[size]["log_evidence"].sel(model="order 1")) for size in sizes])
order_0 = np.array([float(counting[size]["log_evidence"].sel(model="order 0")) for size in sizes])
names = [*(f"stage {number}" for number in stages), "order 0"]
coords = {"model": names, "n_characters": sizes}
log_z = np.array([[found[size, number].log_evidence for size in sizes] for number in stages])
se = np.array([[found[size, number].se for size in sizes] for number in stages])
gain = xr.DataArray(np.vstack([log_z, order_0]) - order_1, coords)
error = xr.DataArray(np.vstack([se, np.zeros_like(order_0)]), coords)
fig, (ax,) = plots.figure(width=7, height=4)
plots.plot_evidence_by_size(gain, error, ax=ax)
ax.set_ylabel("log evidence over order 1, nats")
of_stages = gain.isel(model=slice(-1))
ax.set_ylim(float(of_stages.min()) - 15, float(max(of_stages.max(), 0)) + 25)
plots.show(fig, save=folder / "12-evidence.png")

# %% [markdown]
# ## Posterior probabilities of the models
#
# With equal prior probabilities the posterior probability of a model, among these stages and both
# ways of counting, is in proportion to its evidence. Errors of the evidence of several nats make
# these probabilities meaningless; the standard error of each model is given behind it.

# %%
for k, size in enumerate(sizes):
    of_model = dict(zip(names, np.append(log_z[:, k], order_0[k]), strict=True))
    of_model["order 1"] = order_1[k]
    probability = dict(zip(of_model, softmax(list(of_model.values())), strict=True))
    largest = sorted(probability, key=lambda name: -probability[name])[:4]
    shown = [
        f"{name} {probability[name]:.2f} "
        f"(± {float(error.sel(model=name, n_characters=size)) if name in names else 0:.1f} nats)"
        for name in largest
        if probability[name] > 0.005
    ]
    print(f"{size:>5} characters: {', '.join(shown)}")
with_attention = [number for number in stages if "attention" in stage(number).features]
without = [number for number in stages if number not in with_attention]


def best_of(numbers, size):
    """The largest log evidence of some stages, and its standard error."""
    best = max(numbers, key=lambda n: found[size, n].log_evidence)
    return found[size, best].log_evidence, found[size, best].se, best


if with_attention and without:
    print("Best stage with attention against best without, counting included, log Bayes factor:")
    for k, size in enumerate(sizes):
        a, a_se, a_name = best_of(with_attention, size)
        b, b_se, b_name = best_of(without, size)
        b, b_se, b_name = max(
            (b, b_se, f"stage {b_name}"),
            (order_0[k], 0.0, "counting, order 0"),
            (order_1[k], 0.0, "counting, order 1"),
        )
        print(
            f"{size:>5} characters: {a - b:+.1f} ± {np.hypot(a_se, b_se):.1f} nats "
            f"(stage {a_name} against {b_name})"
        )

# %% [markdown]
# ## Other criteria
#
# Leave-one-sequence-out and held-out text ask how well the posterior predicts another piece of
# text; the evidence asks how well the prior, updated one character after the other, predicted all
# of it. WBIC approximates minus the log evidence for a long text. The table has the stage that
# each criterion prefers, and by how much it is better than the best stage without attention.

# %%
for size in sizes:
    of_size = {number: fits[size, number] for number in stages}
    held_out = compare_held_out(of_size).table
    elpd = {number: loo(idata) for number, idata in of_size.items()}
    criteria = {
        "evidence": {n: found[size, n].log_evidence for n in stages},
        "minus WBIC": {n: -found[size, n].wbic for n in stages},
        "LOO": {n: float(elpd[n]["elpd_loo"]) for n in stages},
        "held-out text": {n: float(held_out["elpd"].sel(fit=n)) for n in stages},
    }
    said = []
    for name, values in criteria.items():
        best = max(values, key=values.get)
        than = max((values[n] for n in without), default=np.nan)
        said.append(f"{name}: stage {best} ({values[best] - than:+.1f})")
    worst = max(float(each.pareto_k.max()) for each in elpd.values())
    print(f"{size:>5} characters: {', '.join(said)}; largest Pareto k of LOO {worst:.1f}")
off = [-each.wbic - each.log_evidence for each in found.values()]
print(f"Minus WBIC less log evidence, over all fits: {np.min(off):+.1f} to {np.max(off):+.1f} nats")

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
# ## What it costs
#
# The number of levels and the time of one replicate on one core, by size of the text. Levels grow
# with the logarithm of the text and with the square root of the number of weights that it informs;
# the time of a level grows with the text, the stage and the lengths of trajectories.

# %%
cost = {
    "levels": lambda path: path["likelihood_weight"].notnull().sum("level").mean() - 1,
    "seconds": lambda path: path["seconds"].sum("level").mean(),
}
fig, axes = plots.figure(2, width=9, height=3.6, columns=2)
for ax, (label, of) in zip(axes, cost.items(), strict=True):
    values = [[float(of(fits[size, number]["path"])) for size in sizes] for number in stages]
    plots.plot_cost_by_size(xr.DataArray(values, {**coords, "model": names[:-1]}), ax=ax)
    ax.set_ylabel(f"{label} of a replicate")
    for number, row in zip(stages, values, strict=True):
        n = stage(number).n_parameters(problem_of_size(number, sizes[0]).design)
        print(f"stage {number}, {n:>4} weights, {label}: {', '.join(f'{v:.0f}' for v in row)}")
axes[0].get_legend().remove()
plots.show(fig, save=folder / "12-cost.png")

# %% [markdown]
# ## Summary
#
# The stage that the text supports most at the largest size, and how much better it predicted the
# text than counting pairs of characters did.

# %%
size = sizes[-1]
table = compare_evidence({number: found[size, number] for number in stages})
winner, gained = str(table["fit"][0].item()), float(gain.sel(n_characters=size)[:-1].max())
spread = float(error.sel(n_characters=size, model=f"stage {winner}"))
print(f"{size} characters: stage {winner}, {gained:+.1f} ± {spread:.1f} nats over counting pairs")

# %% [markdown]
# ## The answer
#
# The text supports a stage if its better predictions outweigh the probability that its prior gives
# to other texts. On short texts this favors models with few effective parameters, and counting
# characters is hard to beat. The size from which on attention has the larger evidence, if any, is
# in the table of Bayes factors above. The criteria need not agree: held-out text measures
# predictions of the next piece only, and a prior that is too wide reduces the evidence without
# necessarily making predictions worse. The sensitivity to the prior scales shows how much of the
# ranking is due to them.
