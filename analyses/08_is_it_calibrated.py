"""Is it calibrated?

    python analyses/08_is_it_calibrated.py [RUNS] [AT_MOST] [SEED]

Everything else in this project believes its posteriors. This script asks whether a posterior of
0.9 means 9 out of 10, for the whole way from prior to InferenceData and for all twelve stages.
Weights are drawn from the prior, the weights write a text, the text is fitted, and the weights
that wrote it are ranked among the posterior's draws. If all is well, every rank is equally likely.

It takes about half an hour on two cores. A replicate that is there is not run again, so that it
can be interrupted, and more can be added.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from gptbayes import plots
from gptbayes.cli import progress_bars
from gptbayes.model.stages import STAGES
from gptbayes.stats.uniformity import holm, rank_ecdf, uniformity_test
from gptbayes.validate.experiment import Experiment, change_program, toy_problem
from gptbayes.validate.sbc import calibrate

ALPHA = 0.01
TESTS = ["band_p", "chi_square_p"]

# ## The experiments
#
# Four characters, contexts of four, vectors of four, and the default priors: small enough that
# twelve stages can be fitted a hundred times over. The text is as long as a few seconds allow.

BATCH_SIZES = dict(zip(STAGES, [32] * 3 + [16] * 4 + [12] * 2 + [8] * 3, strict=True))
REPLICATES = dict(zip(STAGES, [112] * 9 + [64] * 3, strict=True))
"""Fewer of the stages with several blocks, which take three times as long."""


def experiments():
    """One for each stage, as it is."""
    return {
        number: Experiment(toy_problem(number, batch_size=batch_size))
        for number, batch_size in BATCH_SIZES.items()
    }


# A test that cannot fail is none. Two more fits are wrong on purpose: in one, attention scores are
# not divided by the root of the head's size, which is 4 here; in the other, Stan is told twice the
# prior sd that the weights of the head were drawn with. The first takes a wider model with more
# text: with little text the weights make up for it, and the right program shall see that text too.

ATTENTION = {"batch_size": 32, "n_embed": 16, "scales": {"lm_head": 1.2}}
N_WRONG = 16


def wrong_experiments(runs):
    """Right truth and wrong fit, and what is right beside it."""
    attention = toy_problem("04", **ATTENTION)
    no_root = change_program(
        attention.stage, runs / "stan", "functions/attention.stanfunctions", " / sqrt(cols(q))", ""
    )
    plain = toy_problem("05", batch_size=BATCH_SIZES["05"])
    twice = plain.priors.replace(lm_head=2 * plain.priors.lm_head)
    return {
        "04 without the root": Experiment(attention, replace(attention, stage=no_root)),
        "04 with the root, same texts": Experiment(attention),
        "05 with the head's prior sd times 2": Experiment(plain, replace(plain, priors=twice)),
    }


# ## The run


def run(runs, at_most, seed):
    """Ranks of every experiment, right and wrong ones."""
    right, wrong = {}, {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for number, experiment in experiments().items():
            n = min(REPLICATES[number], at_most)
            right[number] = _ranks(experiment, runs / number, n, seed, pool)
        for name, experiment in wrong_experiments(runs).items():
            n = min(N_WRONG, at_most)
            wrong[name] = _ranks(experiment, runs / name.replace(" ", "-"), n, seed, pool)
    return right, wrong


def _ranks(experiment, out, replicates, seed, pool):
    options = {"replicates": replicates, "seed": seed, "executor": pool}
    with progress_bars() as bars:
        return calibrate(experiment, out, on_progress=bars, **options)


# ## The table
#
# Two tests of every quantity at every stage, and all p-values adjusted for all of them (Holm).


def table(ranks):
    """One row for each stage and quantity."""
    rows = []
    for name, found in ranks.items():
        tested = uniformity_test(found["rank"], found.attrs["n_ranked"])
        rows.append(_columns(name, found, tested))
    rows = pd.concat(rows, ignore_index=True)
    rows["family_wise_p"] = np.nanmin(holm(rows[TESTS].to_numpy()), axis=1)
    return rows


def _columns(name, found, tested):
    smallest = found["ess"].min("quantity")  # of each replicate
    return pd.DataFrame(
        {
            "stage": name,
            "quantity": found["quantity"].values,
            "replicates": found.sizes["replicate"],
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


def caught_after(found):
    """The fewest replicates from which on a wrong fit stays caught."""
    n = found.sizes["replicate"]
    caught = [_smallest_p(found.isel(replicate=slice(k))) < ALPHA for k in range(1, n + 1)]
    return n - caught[::-1].index(False) + 1 if not all(caught) else 1


def _smallest_p(found):
    tested = uniformity_test(found["rank"], found.attrs["n_ranked"])
    return np.nanmin(holm(np.stack([tested[name] for name in TESTS])))


# ## The figure: where the ranks are, and a band that all lines of all panels should stay in
#
# The band holds with probability 0.95 for the whole figure, so that one line outside means
# something.


def draw(ranks, path):
    """One panel for each stage."""
    n_lines = sum(found.sizes["quantity"] for found in ranks.values())
    fig, axes = plots.figure(len(ranks), width=9.0, height=2.2, columns=4)
    for ax, (name, found) in zip(axes, ranks.items(), strict=True):
        drawn = rank_ecdf(found["rank"], found.attrs["n_ranked"], prob=1 - 0.05 / n_lines)
        plots.plot_rank_ecdf(drawn, ax=ax)
        ax.set_title(f"stage {name}")
        ax.label_outer()
    limit = max(abs(end) for ax in axes for end in ax.get_ylim())
    for ax in axes:
        ax.set_ylim(-limit, limit)
    fig.savefig(path, dpi=120)
    plots.close(fig)


# ## What it says


def say(right, wrong, rows, seed):
    """The table by stage, and the verdict."""
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
    for line in doubts(rows):
        print(f"  {line}")
    n_tests = int(rows[TESTS].notna().sum().sum())
    failed = rows[rows["family_wise_p"] < ALPHA]
    verdict = "no rank departs from uniform" if failed.empty else "NOT CALIBRATED"
    print(
        f"\n{verdict}: smallest of {n_tests} p-values {rows[TESTS].min(axis=None):.2g}, "
        f"{rows['family_wise_p'].min():.2g} after Holm's correction; at level {ALPHA} one such "
        f"table in {1 / ALPHA:.0f} is called miscalibrated by chance"
    )
    for row in failed.itertuples():
        print(f"  stage {row.stage}, {row.quantity}: family-wise p {row.family_wise_p:.2g}")
    print("\nFits that are wrong on purpose, and one that is right for comparison:")
    for name, found in wrong.items():
        n, p = found.sizes["replicate"], _smallest_p(found)
        how = f"caught from {caught_after(found)} replicates on" if p < ALPHA else "not caught"
        print(f"  {name}: {how}, p {p:.1g} with all {n}")


def doubts(rows):
    """What is shaky, stage by stage."""
    for name, of_stage in rows.groupby("stage"):
        first = of_stage.iloc[0]
        if first["ess_short"]:
            yield (
                f"stage {name}: {first['ess_short']} of {first['replicates']} chains never had the "
                "effective draws that ranks need; correlated draws make extreme ranks too frequent"
            )
        if first["divergences"]:
            yield (
                f"stage {name}: divergent transitions in {first['divergent_replicates']} of "
                f"{first['replicates']} replicates, {first['divergences']} in all; what NUTS did "
                "not reach there would show in the ranks"
            )


def main():
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/validate")
    at_most = int(sys.argv[2]) if len(sys.argv) > 2 else max(REPLICATES.values())
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    right, wrong = run(runs, at_most, seed)
    rows = table(right)
    rows.insert(3, "seed", seed)
    rows.to_csv(runs / "calibration.csv", index=False, float_format="%.4g")
    draw(right, runs / "calibration.png")
    say(right, wrong, rows, seed)
    print(f"\nTable: {runs / 'calibration.csv'}, figure: {runs / 'calibration.png'}")


# ## The answer
#
# With seed 1, 112 replicates of stages 01 to 09 and 64 of 10 to 12: of 228 p-values the smallest is
# 0.0014, and 0.32 after Holm's correction. No rank departs from uniform. Every chain reached the
# effective draws that its ranks need; one in thirteen had to be made longer for it. NUTS diverged
# in 14 of 1,200 fits, 12 of them of stages with layer norm.
#
# Where one would look further: the smallest p-value is that of a sum of a token embedding in stage
# 10, whose mean rank is 0.37. It is a direction of which the posterior is known exactly, and long
# chains pass that test. 19 more replicates had a mean rank of 0.45, p 0.5: chance, it seems.
#
# The wrong fits say what such a table is worth. A prior that is off by a factor of two is seen
# after three replicates. Attention without its root is seen after ten, where the head is 16 wide
# and there are 128 characters; the right program beside it is not called wrong. At the sizes of
# the table it would not have been seen: with few characters the weights make up for it. What
# protects against an error of that kind there is that Stan, numpy and JAX agree to ten digits.


# Worker processes import this file, and must not start the work anew.
if __name__ == "__main__":
    main()
