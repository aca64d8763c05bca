"""Statistics that do not depend on transformers.

- `summary`: means, intervals, R-hat and ESS of many scalars
- `mcmc`, `ranks`, `blocks`: the same in numpy
- `probability`: probabilities of events, with Monte Carlo errors
- `uniformity`: tests of uniformity of ranks, and Holm's correction

Imports only `gptbayes.findings`.
"""
