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
# # Labels of a mixture
#
# *Which disagreement of the chains is label switching, and which is not?*
#
# The components of a mixture have no order: the posterior is invariant under their permutations.
# Chains that differ by a permutation make the same predictions. Here two normal components are
# fitted to three clusters, so that there are also modes with different predictions: the middle
# cluster is merged with one neighbor or with the other.

# %% tags=["parameters"]
runs = "runs/borrow"  # folder of the fits and figures
n_observations = 120  # in three clusters
chains = 8
iter_warmup = 500
iter_sampling = 500
seed = 2

# %%
import numpy as np
from scipy.stats import norm

import gptbayes as gb
from gptbayes import plots
from gptbayes.cli.settings import file_beside, output_folder, settings_from
from gptbayes.diagnostics.mixing import difference_sentences
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.symmetry.posterior import posterior_of

globals().update(settings_from(globals()))
folder = output_folder(runs)
program = file_beside(globals(), "mixture.stan")

# %% [markdown]
# ## The fit
#
# Three clusters at -4, 0 and 4, and two components.

# %%
rng = np.random.default_rng(seed)
y = rng.normal(np.repeat([-4.0, 0.0, 4.0], n_observations // 3), 0.5)
data = {"N": len(y), "K": 2, "y": y}
dims = {name: ["component"] for name in ("mu", "sigma", "theta")}
settings = {"chains": chains, "iter_warmup": iter_warmup, "iter_sampling": iter_sampling}
idata = gb.fit.sample_program(
    program, data, folder / "13-mixture.nc", dims=dims, seed=seed, **settings
)
print(f"means by chain: {np.round(idata.posterior['mu'].mean('draw').values, 1).tolist()}")

# %% [markdown]
# ## The symmetry
#
# A permutation of components acts on three variables together. `check_invariance` applies all its
# elements to some draws: none changes the log posterior. A group without the weights of the
# components fails this check.


# %%
def log_density(posterior):
    """Log posterior density of every draw, up to a constant."""
    mu, sigma, theta = (posterior[name].values for name in ("mu", "sigma", "theta"))
    each = theta[..., None, :] * norm.pdf(y[:, None], mu[..., None, :], sigma[..., None, :])
    prior = norm.logpdf(mu, 0, 5) + norm.logpdf(np.log(sigma), 0, 0.5) - np.log(sigma)
    return np.log(each.sum(axis=-1)).sum(axis=-1) + (prior + np.log(theta)).sum(axis=-1)


group = gb.Group(gb.Permutation({"mu": "component", "sigma": "component", "theta": "component"}))
print(gb.check_invariance(group, posterior_of(idata), log_density))
incomplete = gb.Group(gb.Permutation({"mu": "component", "sigma": "component"}))
try:
    gb.align(idata, incomplete, log_density=log_density)
except ValueError as error:
    print(f"refused: {error}")

# %% [markdown]
# ## The verdict
#
# The table has the R-hat of raw and aligned variables, of invariants, and of the pointwise log
# likelihood.

# %%
mixing = gb.diagnose_mixing(idata, group)
table = mixing.verdict.evidence[["r_hat_max", "ess_bulk_min", "r_star"]]
print(table.to_dataframe().round(2))
print(f"{mixing.verdict.name}. {mixing.verdict.text}")
if mixing.modes is not None:
    print(mixing.modes.to_dataframe().round(2))
    print(mixing.modes.attrs["mass"])
    for sentence in difference_sentences(mixing)[:5]:
        print(f"  {sentence}")

fig, axes = plots.figure(2, width=10, height=4)
plots.plot_mixing(mixing.r_hats, mixing.verdict.evidence, limit=R_HAT_LIMIT, ax=axes[0])
label = mixing.verdict.groups.label if mixing.verdict.groups else None
plots.plot_mode_map(mixing.space, label=label, ax=axes[1])
plots.show(fig, save=folder / "13-mixture.png")

# %% [markdown]
# ## The answer
#
# Alignment removes the disagreement that is due to label switching: within a mode, the aligned
# means of all chains agree. It does not remove the two modes, in which three clusters are divided
# between two components in different ways. Each chain stays in the mode in which it started. The
# list of differences has the means of the components, and observations of the outer clusters, whose
# log likelihood is larger in the mode in which their cluster has a component of its own. The number
# of chains in a mode does not estimate its mass. The modes have different predictions, and no
# alignment can remove them. A model with three components would not have them.
#
# To copy:
#
# ```python
# group = gb.Group(gb.Permutation({"mu": "component", "sigma": "component", "theta": "component"}))
# mixing = gb.diagnose_mixing(idata, group)
# print(mixing.verdict.text)
# aligned = mixing.aligned
# ```
