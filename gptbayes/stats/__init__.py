"""Statistics that do not depend on transformers.

- `summary`: means, intervals, R-hat and ESS of many scalars
- `mcmc`, `ranks`, `blocks`: the same in numpy
- `probability`: probabilities of events, with Monte Carlo errors
- `standard_error`: of a mean of independent values
- `thinning`: selections of evenly spaced items
- `uniformity`: tests of uniformity of ranks, and Holm's correction

Imports only `gptbayes.findings`.
"""
