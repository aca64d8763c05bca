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
# # A network with one hidden layer
#
# *Do the chains of a small network disagree, or do its hidden units only have other names?*
#
# Hidden units can be exchanged. Because tanh is odd, the sign of a unit can be changed as well, of
# its input weights, its bias and its output weight together. With H units the posterior repeats
# itself H! times 2 to the power of H.

# %% tags=["parameters"]
runs = "runs/borrow"  # folder of the fits and figures
n_hidden = 3
n_observations = 40
chains = 4
iter_warmup = 500
iter_sampling = 500
seed = 1

# %%
from pathlib import Path

import numpy as np

import gptbayes as gb
from gptbayes import plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.diagnostics.mixing import difference_sentences
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.predict import influence
from gptbayes.stats.summary import summarise
from gptbayes.symmetry import group_order
from gptbayes.symmetry.posterior import layout_of, posterior_of

globals().update(settings_from(globals()))
folder = output_folder(runs)
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
folders = here, here / "analyses"  # of a script, and of a notebook
program = next(each / "network.stan" for each in folders if (each / "network.stan").exists())

# %% [markdown]
# ## The fit

# %%
rng = np.random.default_rng(seed)
x = np.sort(rng.uniform(-2, 2, size=n_observations))
y = np.sin(2 * x) + 0.2 * rng.normal(size=n_observations)
data = {"N": n_observations, "H": n_hidden, "x": x, "y": y}
dims = {name: ["unit"] for name in ("weight", "bias", "output")}
dims |= {"prediction": ["observation"], "log_lik": ["observation"]}
settings = {"chains": chains, "iter_warmup": iter_warmup, "iter_sampling": iter_sampling}
idata = gb.fit.sample_program(
    program, data, folder / "15-network.nc", dims=dims, seed=seed, **settings
)
n_bad = int(idata.sample_stats["diverging"].sum())
print(f"{n_bad} divergent transitions of {chains * iter_sampling}")

# %% [markdown]
# ## The verdict

# %%
axes = {"weight": "unit", "bias": "unit", "output": "unit"}
group = gb.Group(gb.Permutation(axes), gb.SignFlip(axes))
posterior = posterior_of(idata)
order = group_order(layout_of(group, posterior))
print(f"the group has {order:.0f} elements")
passed = gb.check_invariance(
    group,
    posterior,
    lambda p: (
        p["intercept"].values[..., None]
        + (p["output"].values * np.tanh(p["weight"].values + p["bias"].values)).sum(
            -1, keepdims=True
        )
    ),
)
print(f"prediction at one input: {passed}")
mixing = gb.diagnose_mixing(idata, group, ["prediction"])
print(mixing.verdict.evidence[["r_hat_max", "ess_bulk_min"]].to_dataframe().round(3))
print(f"{mixing.verdict.name}. {mixing.verdict.text}")
for sentence in difference_sentences(mixing)[:3]:
    print(f"  {sentence}")

# %% [markdown]
# ## What the prediction rests on
#
# The influence of each observation on the prediction in the middle, from the same draws.

# %%
middle = n_observations // 2
found = influence(idata, posterior["prediction"].isel(observation=middle, drop=True))
top = np.argsort(-abs(found["influence"].values))[:3]
for i in top:
    print(
        f"observation {i + 1} at x = {x[i]:.2f}: influence {float(found['influence'][i]):+.4f} "
        f"± {float(found['mcse'][i]):.4f}; left out {float(found['left_out'][i]):+.4f} "
        f"(Pareto k {float(found['pareto_k'][i]):.2f})"
    )
print(f"distance of these from the input {x[middle]:.2f}: {np.round(abs(x[top] - x[middle]), 2)}")

fig, (left, right) = plots.figure(2, width=10, height=4)
plots.plot_mixing(mixing.r_hats, mixing.verdict.evidence, limit=R_HAT_LIMIT, ax=left)
band = summarise(posterior["prediction"])
right.fill_between(x, band["lower"], band["upper"], color="0.85", label="interval of the mean")
right.plot(x, band["mean"], color=plots.COLORS[0])
size = 20 + 400 * abs(found["influence"]) / float(abs(found["influence"]).max())
right.scatter(x, y, s=size, color=plots.COLORS[1], alpha=0.6, label="observations, by influence")
right.axvline(x[middle], color="0.6", ls=":")
right.set(xlabel="x", ylabel="y")
right.legend(frameon=False, fontsize="small")
plots.show(fig, save=folder / "15-network.png")

# %% [markdown]
# ## The answer
#
# R-hat of raw weights measures which unit has which name and sign. The table shows whether aligned
# weights and predictions agree; where predictions do and weights do not, the rest is a direction in
# which units trade with each other, which predictions do not see. An alignment cannot be better
# than the units are separate: units that do the same have no names to find. The predictions, their
# R-hat and their intervals are what the model says. The observations with the largest influence
# are printed with their distance from the input; the nearest need not be the first.
#
# To copy:
#
# ```python
# axes = {"weight": "unit", "bias": "unit", "output": "unit"}
# group = gb.Group(gb.Permutation(axes), gb.SignFlip(axes))  # without SignFlip for ReLU
# print(gb.diagnose_mixing(idata, group, ["prediction"]).verdict.text)
# ```
