"""Methods whose draws are chains."""

from __future__ import annotations

from gptbayes.fit import MARKOV_CHAINS

CHAINS = (*MARKOV_CHAINS, "smc")
"""Methods whose draws are chains; those of sequential Monte Carlo are its replicates."""

__all__ = ["CHAINS", "MARKOV_CHAINS"]
