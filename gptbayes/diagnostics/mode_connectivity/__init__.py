"""Mode connectivity: the log posterior along paths between draws of different chains.

Trained networks that differ by symmetry alone can be connected by a path without a barrier (Garipov
et al. 2018; Entezari et al. 2022). For draws from a posterior in many dimensions, which are not
near its modes, the comparison is as follows:

- The barrier of a path is how far the log posterior falls below the lower of its ends, in nats. It
  is compared with the standard deviation of the log posterior over draws of one chain, and with
  barriers of paths between two draws of one chain.
- Half-way between two independent draws from a normal distribution in P dimensions the log density
  is P / 4 nats higher than at draws, and at the mean P / 2. A straight path between draws rises by
  that much and hides every lower barrier. A path between means of chains starts and ends that high
  and says little about draws.
- An arc keeps the spread of draws while its centre moves straight from the mean of one chain to the
  mean of the other. Between draws from one normal distribution it stays at their level. Between two
  modes it falls by the barrier between them.
- An optimised curve is never worse than the straight path. If it has no barrier, its ends are
  connected, though the passage may be too narrow for a sampler. If it has one, another curve may
  have none.

`paths` has the paths and `curves` the optimiser; `connections` applies them to the chains of a fit,
and `sentences` says the results in words.
"""

from gptbayes.diagnostics.mode_connectivity.connections import connect_chains
from gptbayes.diagnostics.mode_connectivity.curves import Curve, optimise_curve
from gptbayes.diagnostics.mode_connectivity.paths import (
    arc_path,
    barrier,
    bezier_path,
    straight_path,
)
from gptbayes.diagnostics.mode_connectivity.sentences import connection_sentences

__all__ = [
    "Curve",
    "arc_path",
    "barrier",
    "bezier_path",
    "connect_chains",
    "connection_sentences",
    "optimise_curve",
    "straight_path",
]
