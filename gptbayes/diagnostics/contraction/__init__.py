"""Posterior contraction: how much narrower than the prior is the posterior, apart from symmetry?

Contraction is 1 - posterior variance / prior variance: near 1 for what the text determines, 0 for
what it has no information about. For single weights it means little, because symmetries mix them.
Each module computes it for something that symmetries do not mix:

- `gauge`: directions that no prediction depends on, where it must be exactly 0 for every sampler;
- `local`: the normal approximation at a draw, whose precision is that of the prior plus the Fisher
  information of the text. Its null space is the gauge at that draw, curved symmetries included. The
  sum of its contractions is the effective number of parameters (MacKay 1992, section 4), which is
  shared out among layers and kinds of parameter;
- `spread`: aligned weights, relative to prior draws aligned in the same way, because alignment
  itself reduces spread; and predictions, the centred logits at the contexts of the text;
- `parts`: heads and hidden units, by summaries that are sorted within each draw, so that the
  largest head of a posterior draw is compared with the largest head of a prior draw.

`overview` computes all of these for a fit, and `sentences` says the results in words.
"""

from gptbayes.diagnostics.contraction.gauge import gauge_contraction
from gptbayes.diagnostics.contraction.local import local_contraction
from gptbayes.diagnostics.contraction.overview import posterior_contraction
from gptbayes.diagnostics.contraction.parts import compare_with_prior, part_summaries
from gptbayes.diagnostics.contraction.sentences import Contraction
from gptbayes.diagnostics.contraction.spread import prediction_contraction, weight_contraction

__all__ = [
    "Contraction",
    "compare_with_prior",
    "gauge_contraction",
    "local_contraction",
    "part_summaries",
    "posterior_contraction",
    "prediction_contraction",
    "weight_contraction",
]
