"""What does the model say next, and how sure is it?

    python analyses/02_what_comes_next.py [RUNS]

Run 01 first. A language model answers with probabilities. Its posterior answers with a
distribution over those probabilities: one uncertainty is about the text, which character comes,
and another about the model, which probabilities are right.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from gptbayes import plots
from gptbayes.inference import open_run, problem_of
from gptbayes.predict import compare_held_out, generate, next_character, unigram_log_density

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
fits = {name: open_run(runs / f"05-{name}") for name in ("nuts", "pathfinder", "optimize")}
idata = fits["nuts"]
problem = problem_of(idata)
rng = np.random.default_rng(1)

# ## After a common and after an unseen context
#
# "better t" is all over the text; "zzzzzzzz" is nowhere. A z has an embedding like any other
# character, but the data say little about it, and the posterior of the next probabilities should
# be wide and close to the prior.

prompts = ["better t", "s better", "zzzzzzzz"]
fig, axes = plots.figure(3, width=9, height=3.6, columns=3)
for prompt, ax in zip(prompts, axes, strict=True):
    posterior = next_character(idata, prompt)
    prior = next_character(idata, prompt, group="prior")
    plots.plot_next_character(posterior, prior=prior, ax=ax)
    ax.set_title(f"after “{prompt}”")
    top = posterior.isel(token=int(posterior["mean"].values.argmax()))
    print(
        f"after {prompt!r}: {str(top.token.values)!r} with probability {float(top['mean']):.2f}, "
        f"90 % interval {float(top.lower):.2f} to {float(top.upper):.2f}, "
        f"Monte Carlo error {float(top.mcse_mean):.3f}"
    )
fig.savefig(runs / "02-next-character.png", dpi=150)
plt.close(fig)

# ## Two kinds of text
#
# One posterior draw can write a whole text, or every character can be drawn from the posterior
# mean. The first is a text of some model that could be true; the second mixes models at every
# step.

for kind in ("coherent", "marginal"):
    text = generate(idata, "better t", 80, rng, kind=kind)
    wide = float((text["upper"] - text["lower"]).mean())
    print(f"\n{kind}: {text.attrs['prompt'] + text.attrs['text']!r}")
    print(f"  mean width of the intervals of its characters' probabilities: {wide:.2f}")

# ## On text it has not seen

comparison = compare_held_out(fits)
frequencies, _ = unigram_log_density(idata)
uniform = -np.log(problem.design.vocab_size)
fig, (ax,) = plots.figure(height=2.8)
yardsticks = {"uniform guess": uniform, "character frequencies": frequencies}
plots.plot_held_out(comparison.table, yardsticks=yardsticks, ax=ax)
fig.savefig(runs / "02-held-out.png", dpi=150)
plt.close(fig)

difference = comparison.table.sel(fit="optimize")
print(
    f"\nThe mode's held-out log density is {float(difference.difference):+.0f} nats from NUTS's, "
    f"standard error {float(difference.difference_se):.0f}."
)
print(f"Figures: {runs / '02-next-character.png'}, {runs / '02-held-out.png'}")

# ## The answer
#
# Even after a context that is all over the text, the probability of the likeliest character is
# known only within a factor of several: five hundred characters teach little. After one that it
# never saw, the interval is wider still, and a space leads because spaces are common. The mode
# claims to know these probabilities, and loses some four hundred nats of held-out density for it.
