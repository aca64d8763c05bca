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
# # Simulation-based calibration
#
# *Does an interval of probability 0.9 contain the truth nine times out of ten?*
#
# The other essays rely on their posteriors. This one tests the whole workflow from prior to
# InferenceData, for all twelve stages. Weights are drawn from the prior, a text is simulated from
# them, a model is fitted to the text, and the true weights are ranked among the posterior draws
# (Talts et al. 2018). If programs, sampler and conversion are right, all ranks are equally likely.
#
# At the settings below this takes about half an hour on two cores. Interrupted runs resume, and
# replicates can be added: finished ones are reused.

# %% tags=["parameters"]
runs = "runs/validate"  # folder of the replicates
stages = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12"]
n_replicates = 112  # of stages 01 to 09
n_replicates_blocks = 64  # of stages 10 to 12, which take three times as long
n_replicates_wrong = 16  # of fits that are wrong on purpose
jobs = 2  # replicates at a time
seed = 1

# %%
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import arviz as az
import numpy as np
import pandas as pd
from scipy.stats import uniform

from gptbayes import plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.groups import IS_TREE, make_groups
from gptbayes.model.stages import STAGES
from gptbayes.progress import progress_bars
from gptbayes.stats.uniformity import holm, rank_ecdf, uniformity_test
from gptbayes.validate.experiment import Experiment, change_program, toy_problem
from gptbayes.validate.simulated_ranks import calibrate

ALPHA = 0.01
TESTS = ["band_p", "chi_square_p"]
globals().update(settings_from(globals()))
folder = output_folder(runs)

# %% [markdown]
# ## The experiments
#
# The problems have four characters, contexts of four, an embedding of width four, and the default
# priors. They are small enough to fit twelve stages a hundred times. The texts are as long as a few
# seconds per fit allow.

# %%
BATCH_SIZES = dict(zip(STAGES, [32] * 3 + [16] * 4 + [12] * 2 + [8] * 3, strict=True))


def ranks_of(experiment, name, n):
    """Ranks of ``n`` replicates, run now if they are not there."""
    with progress_bars() as on_progress, ThreadPoolExecutor(jobs) as pool:
        options = {"replicates": n, "seed": seed, "executor": pool, "on_progress": on_progress}
        return calibrate(experiment, folder / name.replace(" ", "-"), **options)


right = {}
for number in stages:
    experiment = Experiment(toy_problem(number, batch_size=BATCH_SIZES[number]))
    n = n_replicates_blocks if "blocks" in STAGES[number].features else n_replicates
    right[number] = ranks_of(experiment, number, n)

# %% [markdown]
# A test has to be able to fail. Two more fits are wrong on purpose. In one, attention scores are
# not divided by the square root of the head's size, which is 4 here. In the other, Stan is given
# twice the prior standard deviation of the head's true weights. The first needs a wider model with
# more text, because with little text the weights compensate for the error. The right program is
# fitted to the same texts for comparison.

# %%
plain = toy_problem("05", batch_size=BATCH_SIZES["05"])
attention = toy_problem("04", batch_size=32, n_embed=16, scales={"lm_head": 1.2})
doubled = plain.priors.replace(lm_head=2 * plain.priors.lm_head)
no_root = change_program(
    attention.stage, folder / "stan", "functions/attention.stanfunctions", " / sqrt(cols(q))", ""
)
wrong_experiments = {
    "04 without the square root": Experiment(attention, replace(attention, stage=no_root)),
    "04 with it, same texts": Experiment(attention),
    "05 with twice the prior sd": Experiment(plain, replace(plain, priors=doubled)),
}
wrong = {
    name: ranks_of(experiment, name, n_replicates_wrong)
    for name, experiment in (wrong_experiments if n_replicates_wrong else {}).items()
}

# %% [markdown]
# ## The table
#
# Two tests of uniformity of every quantity at every stage; p-values are adjusted for all of them
# (Holm).


# %%
def columns_of(name, found):
    """One row for each quantity of a stage."""
    tested = uniformity_test(found["rank"], found.attrs["n_ranked"])
    smallest = found["ess"].min("quantity")  # of each replicate
    return pd.DataFrame(
        {
            "stage": name,
            "quantity": found["quantity"].values,
            "replicates": found.sizes["replicate"],
            "seed": seed,
            "mean_rank": tested["mean_rank"].values.round(3),
            "band_p": tested["band_p"].values,
            "chi_square_p": tested["chi_square_p"].values,
            "ess_median": found["ess"].median("replicate").values.round(),
            "ess_short": int((smallest < found.attrs["n_ranked"]).sum()),
            "doubled": int((found["n_draws"] > found["n_draws"].min()).sum()),
            "pathfinder_failures": int((found["init"] == "random").sum()),
            "divergent_replicates": int((found["divergences"] > 0).sum()),
            "divergences": int(found["divergences"].sum()),
            "seconds_per_replicate": round(float(found["seconds"].mean()), 2),
        }
    )


rows = pd.concat([columns_of(*each) for each in right.items()], ignore_index=True)
rows["family_wise_p"] = np.nanmin(holm(rows[TESTS].to_numpy()), axis=1)
rows.to_csv(folder / "calibration.csv", index=False, float_format="%.4g")

by_stage = rows.groupby("stage").agg(
    replicates=("replicates", "first"),
    quantities=("quantity", "size"),
    smallest_p=("band_p", "min"),
    family_wise_p=("family_wise_p", "min"),
    ess=("ess_median", "min"),
    short=("ess_short", "first"),
    doubled=("doubled", "first"),
    divergent=("divergent_replicates", "first"),
    seconds=("seconds_per_replicate", "first"),
)
print(f"Simulation-based calibration of {len(right)} stages, seed {seed}\n")
print(by_stage.round({"smallest_p": 4, "family_wise_p": 4}).to_string())

# %% [markdown]
# What to check: chains without the effective draws that ranks need, whose correlation makes extreme
# ranks too frequent; and divergent transitions, which may bias the draws.

# %%
for name, of_stage in rows.groupby("stage"):
    first = of_stage.iloc[0]
    n = first["replicates"]
    if first["ess_short"]:
        print(f"stage {name}: {first['ess_short']} of {n} chains are too short for their ranks")
    if first["divergences"]:
        print(
            f"stage {name}: {first['divergences']} divergent transitions, in "
            f"{first['divergent_replicates']} of {n} replicates"
        )
once = rows.groupby("stage").first()
print(
    f"{once['replicates'].sum()} fits; {once['doubled'].sum()} needed longer chains, "
    f"{once['divergent_replicates'].sum()} had divergent transitions"
)

# %% [markdown]
# ## The ranks
#
# Empirical cumulative distribution functions of the ranks minus the uniform one. The band contains
# all lines of all panels with probability 0.95.

# %%
n_lines = sum(found.sizes["quantity"] for found in right.values())
fig, axes = plots.figure(len(right), width=9.0, height=2.2, columns=4)
for ax, (name, found) in zip(axes, right.items(), strict=True):
    ecdf = rank_ecdf(found["rank"], found.attrs["n_ranked"], prob=1 - 0.05 / n_lines)
    plots.plot_rank_ecdf(ecdf, ax=ax)
    ax.set_title(f"stage {name}")
    ax.label_outer()
limit = max(abs(end) for ax in axes for end in ax.get_ylim())
for ax in axes:
    ax.set_ylim(-limit, limit)
plots.show(fig, save=folder / "calibration.png", dpi=120)

# %% [markdown]
# ArviZ draws the same for the ranks of one quantity, as probability integral transforms, with a
# test or a simulated band of its own.

# %%
name, found = list(right.items())[-1]
first = found["rank"].isel(quantity=0)
pit = (first + 0.5) / (found.attrs["n_ranked"] + 1)
if IS_TREE:
    transformed = pit.rename(replicate="sample").to_dataset(name=str(first["quantity"].values))
    shown = az.plot_ecdf_pit(make_groups({"prior_sbc": transformed}), sample_dims=["sample"])
    fig = shown.viz["figure"].item()
else:
    bands = {"difference": True, "confidence_bands": "simulated", "random_state": seed}
    fig = az.plot_ecdf(pit.values, cdf=uniform.cdf, **bands).figure
print(f"stage {name}, {first['quantity'].values}")
plots.show(fig, save=folder / "pit-arviz.png")

# %% [markdown]
# ## The verdict


# %%
def smallest_p(found):
    """Of all tests of an experiment, after Holm's correction."""
    tested = uniformity_test(found["rank"], found.attrs["n_ranked"])
    return np.nanmin(holm(np.stack([tested[name] for name in TESTS])))


def detected_from(found):
    """The number of replicates from which on a wrong fit is detected."""
    n = found.sizes["replicate"]
    detected = [smallest_p(found.isel(replicate=slice(k))) < ALPHA for k in range(1, n + 1)]
    return n - detected[::-1].index(False) + 1 if not all(detected) else 1


n_tests = int(rows[TESTS].notna().sum().sum())
failed = rows[rows["family_wise_p"] < ALPHA]
print("No rank departs from uniform" if failed.empty else "NOT CALIBRATED")
print(
    f"smallest of {n_tests} p-values {rows[TESTS].min(axis=None):.2g}, "
    f"{rows['family_wise_p'].min():.2g} after Holm's correction; at level {ALPHA} one such table "
    f"in {1 / ALPHA:.0f} is called miscalibrated by chance"
)
for row in failed.itertuples():
    print(f"  stage {row.stage}, {row.quantity}: family-wise p {row.family_wise_p:.2g}")
print("\nFits that are wrong on purpose, and one that is right for comparison:")
for name, found in wrong.items():
    n, p = found.sizes["replicate"], smallest_p(found)
    how = f"detected from {detected_from(found)} replicates on" if p < ALPHA else "not detected"
    print(f"  {name}: {how}, p {p:.1g} with all {n}")
print(f"\nTable: {folder / 'calibration.csv'}, figure: {folder / 'calibration.png'}")

# %% [markdown]
# ## The answer
#
# At the settings above no rank departs from uniform. Every chain reaches the effective draws that
# its ranks need; a few have to be made longer. Divergent transitions are rare, and most are in
# stages with layer norm.
#
# The wrong fits show the power of such a table. A prior that is off by a factor of two is detected
# after a few replicates, and attention without the square root after about ten, at the larger sizes
# of its experiment. The right program is not rejected at these sizes. At the sizes of the table the
# missing square root would not be detected, because the weights compensate for it. Errors of that
# kind are excluded by the tests in which Stan, numpy and JAX agree to ten digits.
