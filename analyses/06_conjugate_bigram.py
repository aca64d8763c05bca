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
# # A bigram with a conjugate prior
#
# *Do NUTS, Pathfinder and PSIS recover answers that are known exactly?*
#
# Almost nothing is known exactly about a transformer's posterior. This essay uses a posterior about
# which everything is known. If the logits of the bigram have a log-gamma prior instead of a normal
# one, each row of probabilities is Dirichlet, before and after the text is observed. Predictions,
# entropies, the evidence and leave-one-out densities have closed forms. The sampler, the files and
# all estimators are those of the other stages; only the prior is different.

# %% tags=["parameters"]
runs = "runs/demo"  # folder of the fits
n_kept = 12  # most frequent characters that are kept; one sign stands for the others
batch_size = 64  # training sequences of 8 characters
iter_sampling = 1000  # of each of 4 NUTS chains
n_path_draws = 1000  # of each of 4 Pathfinder paths

# %%
import warnings

import numpy as np
import xarray as xr
from scipy.special import gammaln, softmax

from gptbayes import fit, plots
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.corpus import keep_frequent, zen_of_python
from gptbayes.diagnostics.sampler import pareto_k
from gptbayes.findings import PARETO_K_LIMIT
from gptbayes.inference import open_run
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.predict import entropy_split, loo, n_bad_pareto_k
from gptbayes.predict.leave_one_out import psis_loo
from gptbayes.progress import progress_bars
from gptbayes.report.analysis import Analysis
from gptbayes.stats.summary import log_mean_exp, summarise
from gptbayes.validate import conjugate_bigram as conjugate

warnings.filterwarnings("ignore", "Estimated shape parameter", UserWarning)  # printed below
globals().update(settings_from(globals()))
folder = output_folder(runs)

# %% [markdown]
# ## The run
#
# The text is the Zen of Python in lower case. Its most frequent characters are kept, and one sign
# stands for all the others.

# %%
problem = make_problem(
    stage("01-log-gamma"),
    keep_frequent(zen_of_python().lower(), n_kept),
    source=f"the Zen of Python, lower case, its {n_kept} most frequent characters",
    batch_size=batch_size,
)
with progress_bars() as on_progress:
    same = {"on_progress": on_progress}
    fit.pathfinder(problem, folder / "01-log-gamma-pathfinder", draws=n_path_draws, **same)
    fit.nuts(problem, folder / "01-log-gamma-nuts", iter_sampling=iter_sampling, **same)
fits = {name: open_run(folder / f"01-log-gamma-{name}") for name in ("nuts", "pathfinder")}
exact = conjugate.closed_forms(problem)

for name, idata in fits.items():
    print(f"\n{name}")
    for finding in Analysis(idata).findings:
        print(f"  {'ok     ' if finding.ok else 'WARNING'} {finding.text}")

# %% [markdown]
# ## The next character

# %%
print(f"Largest error of the posterior mean, of {exact.predictive.size} probabilities")
for name, idata in fits.items():
    mean = softmax(idata.posterior["token_embedding"].values, axis=-1).mean(axis=(0, 1))
    print(f"  {name:<11}{np.abs(mean - exact.predictive).max():.4f}")

# %% [markdown]
# ## Entropy and mutual information
#
# The entropy of the next character is the sum of its expected entropy given the weights and the
# mutual information of character and weights. Both are shown after the most frequent context, which
# is the sign for all other characters, and after the least frequent one.

# %%
counts = (exact.dirichlet - problem.priors.concentration).sum(axis=1)
characters = problem.vocabulary.characters
print("Entropy of the next character, nats: total = expected + mutual information")
for context in (characters[counts.argmax()], characters[counts.argmin()]):
    i = characters.index(context)
    print(f"  after {context!r}, which occurs {int(counts[i])} times")
    print("    exact      " + "".join(f"{value[i]:8.3f}        " for value in exact.entropy))
    for name, idata in fits.items():
        split = entropy_split(idata, context).isel(context=0)
        values = "".join(
            f"{split[n]:8.3f} ± {split[n + '_mcse']:.3f}" for n in exact.entropy._fields
        )
        print(f"    {name:<11}{values}")

# %% [markdown]
# ## Leave-one-out
#
# One character is left out, or one sequence. For both the exact density is known, and so is Pareto
# k: the importance ratios of a bigram that occurs $n$ times have $k = 1 / (a + n)$.

# %%
left_out = {"character": exact.loo_characters, "sequence": exact.loo_sequences}
for unit, known in left_out.items():
    n_bad = int((known.pareto_k > PARETO_K_LIMIT).sum())
    print(f"\nLeaving out each {unit}: exact elpd {known.log_prob.sum():.1f} nats;")
    print(f"  exact Pareto k above {PARETO_K_LIMIT} for {n_bad} of {known.pareto_k.size}")
    for name, idata in fits.items():
        result = psis_loo(idata.log_likelihood["log_lik"]) if unit == "character" else loo(idata)
        error = result.elpd_loo - known.log_prob.sum()
        ratio = -idata.log_likelihood["log_lik"]
        ratio = ratio if unit == "character" else ratio.sum("position")
        relative = np.exp(ratio - log_mean_exp(ratio))  # the sum of logs moves like their sum
        mcse = float(summarise(relative.sum(set(ratio.dims) - {"chain", "draw"}))["mcse_mean"])
        print(
            f"  {name:<11}elpd {float(result.elpd_loo):.1f}, error {error:+.1f}, Monte Carlo error "
            f"{mcse:.1f}; estimated k above {float(result.pareto_k_limit):.2g} for "
            f"{n_bad_pareto_k(result)}"
        )

# %% [markdown]
# ## Estimated and exact Pareto k
#
# The standard error of an estimated $k$ is that of the generalised Pareto fit to the largest ratios
# (Zhang and Stephens 2009).

# %%
x, y = problem.training
_, first = np.unique(x * len(characters) + y, return_index=True)  # one of each bigram
k = exact.loo_characters.pareto_k.ravel()[first]
fig, axes = plots.figure(2, width=8.4, height=3.6, columns=2)
for (name, idata), ax in zip(fits.items(), axes, strict=True):
    n_draws = idata.posterior.sizes["chain"] * idata.posterior.sizes["draw"]
    estimated = psis_loo(idata.log_likelihood["log_lik"]).pareto_k.values.ravel()[first]
    se = (1 + k) / np.sqrt(3 * np.sqrt(n_draws))
    columns = {"exact": k, "estimated": estimated, "se": se}
    summary = xr.Dataset({column: ("unit", values) for column, values in columns.items()})
    plots.plot_pareto_k(summary, limit=PARETO_K_LIMIT, ax=ax)
    ax.set(title=f"{name}, {len(k)} bigrams", xlim=(0, 0.75), ylim=(-0.45, 1.0))
    z = (estimated - k) / se
    once = np.isclose(k, k.max())
    print(
        f"{name}: bigrams that occur once: exact k {k.max():.2f}, mean estimate "
        f"{estimated[once].mean():.2f}, standard error of one {se[once].mean():.2f}; "
        f"{(np.abs(z) < 2).mean():.0%} of all within two standard errors"
    )
plots.show(fig, save=folder / "06-pareto-k.png")

# %% [markdown]
# ## The evidence
#
# The mean of Pathfinder's importance ratios estimates the evidence.

# %%
stats = fits["pathfinder"].sample_stats
constant = -(len(characters) ** 2) * gammaln(problem.priors.concentration)  # of the prior
estimate = float(log_mean_exp(stats["lp"] - stats["lp_approx"])) + constant
print(
    f"Log evidence: exact {exact.log_evidence:.1f} nats, estimate {estimate:.1f}; "
    f"Pareto k of the ratios {pareto_k(fits['pathfinder'])[0]:.1f}"
)

# %% [markdown]
# ## The answer
#
# NUTS and all estimators agree with the closed forms. Probabilities, entropies and leave-one-out
# densities are within a few Monte Carlo errors of the exact values. Pareto k is unbiased, but a
# single estimate of it is noisy: its standard error is printed above, and
# some observations whose exact $k$ is well below the limit exceed it. No conclusion should depend
# on a $k$ close to the limit.
#
# Pathfinder's mean predictions are usable. Its other results are not. The mutual information is too
# large after the most frequent context and too small after the least frequent one, and the estimate
# of the evidence is far from the exact value; the Pareto k of its ratios warns of it.
#
# Leave-one-out from Pathfinder's draws is wrong by many Monte Carlo errors, and no Pareto k warns
# of it. On the contrary, its estimates of $k$ are smaller than the exact ones. The approximation is
# normal, and its draws seldom have a probability near zero, so the ratios have light tails. A small
# $k$ says that importance sampling from these draws is reliable. It does not say that the draws are
# from the posterior. That has to be checked by other means: R-hat for NUTS, the $k$ of Pathfinder's
# own ratios, and the tests of exactly known marginals for both.
