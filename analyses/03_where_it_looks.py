"""Where does the model look, and does the posterior know?

    python analyses/03_where_it_looks.py [RUNS]

Run 01 first. Attention maps are usually shown for one set of weights. With a posterior there is a
map per draw, and an interval for each of its entries. Two things must come before the mean: heads
have to be matched, for the posterior does not tell them apart; and the prior has to be looked at,
for it already has patterns.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from gptbayes import plots
from gptbayes.attention import head_order, head_roles, summarise_attention
from gptbayes.inference import open_run, problem_of

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
idata = open_run(runs / "05-nuts")
problem = problem_of(idata)
contexts = problem.held_out.x[:8]

# ## The map, with its intervals

matching = head_order(idata)
summary = summarise_attention(idata, contexts, matching=matching)
fig, axes = plots.figure(2, width=8.4, height=4.2, columns=2)
for head, ax in enumerate(axes):
    one = summary.isel(layer=0, head=head, sequence=0)
    plots.plot_attention(one, text=str(summary.text.values[0]), ax=ax)
    ax.set_title(f"head {head + 1}")
fig.savefig(runs / "03-attention.png", dpi=150)
plt.close(fig)

later = summary.isel(query_position=slice(1, None))
width = (later["upper"] - later["lower"]).where(later["mean"] > 0).mean()
print(f"mean width of the 90 % intervals of attention weights: {float(width):.2f}")
print(f"draws whose heads could as well be matched otherwise: {float(summary.ambiguous[0]):.0%}")

# ## At itself, or at the previous character?
#
# A head that looks at the previous character is the commonest in trained models. The measure is
# the attention beyond what a uniform look at the context would give. The prior's heads are matched
# to the posterior's: matching makes patterns out of noise too, so the prior must have its chance.

roles = head_roles(idata, matching, contexts).heads.isel(layer=0)
for source in ("prior", "posterior"):
    for role in ("itself", "previous character"):
        for head in range(roles.sizes["head"]):
            at = roles.sel(source=source, role=role).isel(head=head)
            print(
                f"{source:<10}{role:<19}head {head + 1}: {float(at['mean']):+.2f}, "
                f"90 % interval {float(at.lower):+.2f} to {float(at.upper):+.2f}"
            )
print(f"Figure: {runs / '03-attention.png'}")

# ## The answer
#
# The intervals of single weights are half the scale wide: the map of any one draw, or of the mode,
# is one of very many that the text allows. The averages are better known. One head has learned to
# look at its own position, 0.28 beyond uniform with an interval that excludes what the prior does,
# and away from the previous character: it is the bigram model of stage 01, found again inside
# attention, where no residual connection carries a character to its own prediction. Of the other
# head nothing is known that the prior did not say. In one draw of twelve the two could be swapped.
