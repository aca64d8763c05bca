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
# # Agreement of chains
#
# *About which quantities do the chains disagree, and does it matter?*
#
# Run `01_first_fit.py` first. R-hat of a transformer's weights is hard to interpret. Rotations of
# the residual stream, of queries with keys and of values with the matrices that read them, and
# permutations of heads change neither a prediction nor the prior density. Chains may be anywhere
# on such an orbit, or move along it. Predictions are what chains have to agree about.

# %% tags=["parameters"]
runs = "runs/demo"  # folder of the fits

# %%
import arviz as az
import numpy as np
import xarray as xr

from gptbayes import plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.diagnostics.sensitivity import key_quantities, log_densities
from gptbayes.findings import R_HAT_LIMIT
from gptbayes.groups import IS_TREE, make_groups
from gptbayes.model.forward import token_log_prob
from gptbayes.report.analysis import Analysis
from gptbayes.symmetry import align, symmetries

globals().update(settings_from(globals()))
folder = output_folder(runs)
analysis = Analysis.of_run(folder / "05-nuts")
problem = analysis.problem

# %% [markdown]
# ## Alignment
#
# Every draw is rotated, and its heads are permuted, so that it is as close as possible to the mean
# of all draws. These transformations are exact symmetries of the posterior: no prediction changes.

# %%
parameters = analysis.parameters
alignment = align(problem.stage, parameters)
before = token_log_prob(problem.stage, parameters, problem.held_out)
after = token_log_prob(problem.stage, alignment.parameters, problem.held_out)
print(f"symmetries of stage {problem.stage.number}: {', '.join(symmetries(problem.stage))}")
print(f"largest change of a held-out log probability: {np.abs(after - before).max():.1e} nats")
variance = [
    sum(value.var(axis=(0, 1)).sum() for value in draws.values())
    for draws in (parameters, alignment.parameters)
]
print(f"share of the weights' variance that remains: {variance[1] / variance[0]:.0%}")

# %% [markdown]
# ## R-hat of weights, invariants and predictions

# %%
fig, (ax,) = plots.figure(height=4.6)
plots.plot_r_hat(analysis.r_hats, limit=R_HAT_LIMIT, ax=ax)
plots.show(fig, save=folder / "04-r-hat.png")

columns = ["n", "r_hat_median", "r_hat_max", "ess_bulk_min", "ess_tail_min"]
print(analysis.convergence.to_dataframe()[columns].round(3).to_string())

# %% [markdown]
# ## The same with ArviZ
#
# A fit is ArviZ's `InferenceData`, and so is any set of quantities that are computed from it.
# ArviZ's own plots apply to both. Rank plots of the log probabilities with the largest R-hat are
# flat if the chains agree. ArviZ 1 also shows the distribution of R-hat and ESS, and, given the log
# prior and the log likelihood of each draw, how power-scaling of either moves a quantity
# (`plot_psense_dist`); ArviZ 0.2x has the numbers (`psens`).

# %%
log_prob = analysis.quantities["log probabilities"]
worst = np.argsort(analysis.r_hats["log probabilities"].values)[-4:]
chosen = log_prob.isel(scalar=worst).assign_coords(scalar=range(len(worst)))  # for ArviZ 1
predicted = make_groups({"posterior": chosen.to_dataset(name="log probability")})

key = dict(list(key_quantities(analysis.idata).items())[:2])  # of training and held-out text
densities = {
    group: each.to_dataset(name=group) for group, each in log_densities(analysis.idata).items()
}
scaled = make_groups({"posterior": xr.Dataset(key), **densities})
if IS_TREE:
    shown = {
        "ranks": az.plot_rank(predicted),
        "r-hat-arviz": az.plot_convergence_dist(predicted),
        "psense": az.plot_psense_dist(scaled),
    }
    figures = {name: each.viz["figure"].item() for name, each in shown.items()}
else:
    for component in ("prior", "likelihood"):
        for name, psense in az.psens(scaled, component=component).items():
            print(f"psense of the {name} to the {component}: {float(psense):.2f}")
    axes = az.plot_rank(predicted, kind="bars", figsize=(plots.TWO_COLUMNS, 4.5))
    figures = {"ranks": np.ravel(axes)[0].figure}
for name, fig in figures.items():
    plots.show(fig, save=folder / f"04-{name}.png")

# %% [markdown]
# ## The answer
#
# At the settings of `01_first_fit.py` the chains agree about predictions: the R-hat of every log
# probability is close to one. R-hat of the raw weights is larger. After alignment the variance of
# the weights is much smaller and their largest R-hat a little. What remains are directions that mix
# slowly without being symmetries: scalars that no symmetry changes, such as the singular values of
# the product of queries and keys, have a larger R-hat than the log probabilities, too. Predictions
# depend on them only weakly.
#
# The text is short and the posterior is wide, so that chains move along the orbits. With more data
# the orbits become narrow, chains stay where they start, and the R-hat of raw weights is the first
# to exceed its limit. Alignment finds a local optimum. The second row of the table is therefore an
# upper bound on the disagreement that symmetries do not explain. `gptbayes symmetry` and
# `09_symmetry_and_modes.py` continue from here.
