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
# *Which results of a factor analysis do not depend on the rotation of its factors?*
#
# Loadings are identified up to an orthogonal transformation of the factors, and a normal prior of
# the loadings is invariant under all of these. Each chain may be anywhere on the orbit. Procrustes
# alignment moves all draws close to one point of it. Quantities that are invariant under rotations
# need no alignment.

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
import numpy as np
from sklearn.datasets import load_wine

import gptbayes as gb
from gptbayes import plots
from gptbayes.cli.settings import file_beside, output_folder, settings_from
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.stats.summary import summarise
from gptbayes.symmetry.posterior import posterior_of

globals().update(settings_from(globals()))
folder = output_folder(runs)
program = file_beside(globals(), "factors.stan")

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
# With a normal prior it is the group of all orthogonal transformations. Other priors are invariant
# under a subgroup only: with a Laplace prior, permutations and sign flips pass the check, and
# rotations fail.

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
# ## Aligned loadings, and invariants
#
# Aligned loadings have a meaningful mean and interval. Communalities, the variance of each variable
# that the factors explain, are invariant and need no alignment.

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
# Raw loadings have a larger R-hat and a much larger standard deviation than aligned ones, because
# draws differ by rotations. The aligned loadings of all chains agree, and their intervals show how
# well the space of the factors is known. The choice of the axes is a convention. The data inform
# only quantities that no rotation changes, such as communalities and the fitted covariance. A
# rotation for interpretation is chosen after the fit, and intervals are conditional on it.
#
# To copy:
#
# ```python
# rotations = gb.Group(gb.Orthogonal({"loadings": "factor", "scores": "factor"}))
# aligned = gb.align(idata, rotations)
# ```
