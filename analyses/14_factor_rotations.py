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
# # Rotations of factors
#
# *What of a factor analysis survives when its factors may be rotated?*
#
# Loadings are identified up to an orthogonal map of the factors, and a normal prior of the loadings
# keeps all of these. Chains sit anywhere on the orbit. Procrustes alignment brings them to one
# place of it; what no rotation changes needs no alignment.

# %% tags=["parameters"]
runs = "runs/borrow"  # folder of the fits and figures
n_factors = 2
n_variables = 7  # of the wine data of scikit-learn, at most 13
n_observations = 178  # at most 178
chains = 4
iter_warmup = 500
iter_sampling = 500
seed = 1

# %%
from pathlib import Path

import numpy as np
from sklearn.datasets import load_wine

import gptbayes as gb
from gptbayes import plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.stats.summary import summarise
from gptbayes.symmetry.posterior import posterior_of

globals().update(settings_from(globals()))
folder = output_folder(runs)
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
folders = here, here / "analyses"  # of a script, and of a notebook
program = next(each / "factors.stan" for each in folders if (each / "factors.stan").exists())

# %% [markdown]
# ## The fit

# %%
wine = load_wine()
y = wine.data[:: max(1, 178 // n_observations), :n_variables]
y = (y - y.mean(axis=0)) / y.std(axis=0)
names = [name[:12] for name in wine.feature_names[:n_variables]]
data = {"N": len(y), "D": n_variables, "K": n_factors, "y": y}
dims = {"loadings": ["variable", "factor"], "sigma": ["variable"], "log_lik": ["wine"]}
settings = {"chains": chains, "iter_warmup": iter_warmup, "iter_sampling": iter_sampling}
idata = gb.fit.sample_program(
    program, data, folder / "14-factors.nc", dims=dims, seed=seed, **settings
)

# %% [markdown]
# ## Which group?
#
# With a normal prior, all orthogonal maps. A prior that is not rotationally symmetric keeps only
# some: for a Laplace prior the check refuses rotations, and passes permutations and signs.

# %%
rotations = gb.Group(gb.Orthogonal({"loadings": "factor"}))
axes = {"loadings": "factor"}
signed = gb.Group(gb.Permutation(axes), gb.SignFlip(axes))
posterior = posterior_of(idata)


def normal_prior(p):
    return -0.5 * (p["loadings"] ** 2).sum(("variable", "factor"))


def laplace_prior(p):
    return -abs(p["loadings"]).sum(("variable", "factor"))


print("normal, rotations:", gb.check_invariance(rotations, posterior, normal_prior))
print("Laplace, signed permutations:", gb.check_invariance(signed, posterior, laplace_prior))
try:
    gb.check_invariance(rotations, posterior, laplace_prior)
except ValueError as error:
    print(f"Laplace, rotations: {error}")

# %% [markdown]
# ## What survives
#
# Aligned loadings have a mean and an interval. Communalities, the variance of each variable that
# the factors explain, are the same without alignment.

# %%
functions = {
    "communalities": lambda p: (p["loadings"] ** 2).sum("factor"),
    "unique sd": lambda p: p["sigma"],
}
mixing = gb.diagnose_mixing(idata, rotations, functions)
print(mixing.verdict.evidence[["r_hat_max", "ess_bulk_min"]].to_dataframe().round(3))
print(mixing.verdict.text)
aligned = summarise(mixing.aligned.posterior["loadings"])
raw = summarise(posterior["loadings"])
print(
    f"sd of loadings: raw {float(raw['sd'].mean()):.2f}, aligned {float(aligned['sd'].mean()):.2f}"
)
shares = summarise((posterior["loadings"] ** 2).sum("factor"))
for k, name in enumerate(names):
    one = shares.isel(variable=k)
    print(
        f"  {name:12s} communality {float(one['mean']):.2f} ± {float(one['sd']):.2f} "
        f"(MCSE {float(one['mcse_mean']):.3f})"
    )

fig, (left, right) = plots.figure(2, width=10, height=4)
plots.plot_mixing(mixing.r_hats, mixing.verdict.evidence, limit=R_HAT_LIMIT, ax=left)
for k in range(n_factors):
    place = np.arange(n_variables) + 0.25 * k
    low, high = (aligned[each].isel(factor=k).values for each in ("lower", "upper"))
    right.vlines(place, low, high, color=plots.COLORS[k], label=f"factor {k + 1}")
right.axhline(0, color="0.6", lw=0.8)
right.set_xticks(np.arange(n_variables), names, rotation=45, ha="right")
right.set(ylabel="aligned loading, interval")
right.legend(frameon=False)
plots.show(fig, save=folder / "14-factors.png")

# %% [markdown]
# ## The answer
#
# Raw loadings have a larger R-hat and a much larger standard deviation than aligned ones: chains
# move along an orbit of rotations, and the difference describes the orbit. Aligned loadings agree,
# with intervals that say how well the space of the factors is known. Their axes are a convention:
# only statements that no rotation changes, such as those on communalities and on the fitted
# covariance, belong to the model. The rotation to report is a choice after the fit, and the
# intervals are conditional on it.
#
# To copy:
#
# ```python
# rotations = gb.Group(gb.Orthogonal({"loadings": "factor", "scores": "factor"}))
# aligned = gb.align(idata, rotations)
# ```
