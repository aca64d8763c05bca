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
# *Do the chains of a small network disagree, or only the order and signs of their hidden units?*
#
# Hidden units can be permuted. Because tanh is odd, the signs of the input weights, the bias and
# the output weight of a unit can be changed together. With H units the symmetry group has H! 2^H
# elements, and the posterior has that many copies of each mode.

# %% tags=["parameters"]
runs = "runs/borrow"  # folder of the fits and figures
n_hidden = 3
n_observations = 40
chains = 4
iter_warmup = 500
iter_sampling = 500
seed = 1

# %%
import numpy as np

import gptbayes as gb
from gptbayes import plots
from gptbayes.cli.settings import file_beside, output_folder, settings_from
from gptbayes.diagnostics.mixing import difference_sentences
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.predict import influence
from gptbayes.stats.summary import summarise
from gptbayes.symmetry import group_order
from gptbayes.symmetry.posterior import layout_of, posterior_of

globals().update(settings_from(globals()))
folder = output_folder(runs)
program = file_beside(globals(), "network.stan")

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
# ## Influence of the observations
#
# The influence of each observation on the prediction at the middle input is estimated from the same
# draws.

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
# The R-hat of raw weights is large because chains differ in the order and signs of the units. The
# table shows whether aligned weights and predictions agree. If predictions agree and aligned
# weights do not, the weights vary along directions that hardly change the predictions. Units with
# nearly equal functions cannot be matched across draws. The predictions, with their R-hat and
# intervals, do not depend on any of this. The observations with the largest influence are printed
# with their distance from the input; the nearest one need not have the largest influence.
#
# To copy:
#
# ```python
# axes = {"weight": "unit", "bias": "unit", "output": "unit"}
# group = gb.Group(gb.Permutation(axes), gb.SignFlip(axes))  # without SignFlip for ReLU
# print(gb.diagnose_mixing(idata, group, ["prediction"]).verdict.text)
# ```
