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
# # Attention weights
#
# *Which positions do the heads attend to, and how well are the weights known?*
#
# Run `01_first_fit.py` first. Attention maps are usually shown for one set of weights. A posterior
# gives one map per draw, and an interval for each entry. Two steps come before a posterior mean.
# Heads have to be matched across draws, because the posterior is invariant under permutations of
# heads. And the posterior has to be compared with the prior, because random weights have attention
# patterns too.

# %% tags=["parameters"]
runs = "runs/demo"  # folder of the fits
n_contexts = 8  # held-out contexts

# %%
from gptbayes import plots
from gptbayes.attention import head_order, head_roles, summarise_attention
from gptbayes.cli.settings import output_folder, settings_from
from gptbayes.inference import open_run, problem_of

globals().update(settings_from(globals()))
folder = output_folder(runs)
idata = open_run(folder / "05-nuts")
contexts = problem_of(idata).held_out.x[:n_contexts]

# %% [markdown]
# ## Attention maps with intervals

# %%
matching = head_order(idata)
summary = summarise_attention(idata, contexts, matching=matching)
fig, axes = plots.figure(summary.sizes["head"], width=8.4, height=4.2, columns=2)
for head, ax in enumerate(axes):
    one = summary.isel(layer=0, head=head, sequence=0)
    plots.plot_attention(one, text=str(summary.text.values[0]), ax=ax)
    ax.set_title(f"head {head + 1}")
plots.show(fig, save=folder / "03-attention.png")

later = summary.isel(query_position=slice(1, None))
width = (later["upper"] - later["lower"]).where(later["mean"] > 0).mean()
print(f"mean width of the 90 % intervals of attention weights: {float(width):.2f}")
print(f"draws with an ambiguous matching of heads: {float(summary.ambiguous[0]):.0%}")

# %% [markdown]
# ## Attention to the same position, and to the previous character
#
# Previous-character heads are frequent in trained transformers. The measure is attention in excess
# of uniform attention to the context. The heads of prior draws are matched to those of the
# posterior. Matching makes patterns out of noise too, so the prior has to be matched as well.

# %%
roles = head_roles(idata, matching, contexts).heads.isel(layer=0)
for source in ("prior", "posterior"):
    for role in ("current token", "previous token"):
        for head in range(roles.sizes["head"]):
            at = roles.sel(source=source, role=role).isel(head=head)
            print(
                f"{source:<10}{role:<19}head {head + 1}: {float(at['mean']):+.2f}, "
                f"90 % interval {float(at.lower):+.2f} to {float(at.upper):+.2f}"
            )

# %% [markdown]
# ## The answer
#
# Single attention weights are poorly known: their intervals cover about half of the possible range.
# The map of one draw, or of the mode, is one of very many that the text allows. Averages over
# contexts are better known. At the settings above, one head attends to its own position more than
# any head of the prior does, and less than uniformly to the previous character. This head does what
# the bigram model of stage 01 does: without a residual connection, attention is the only way from a
# character to its own prediction. The other head cannot be told from the prior.
