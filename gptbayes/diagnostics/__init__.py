"""Diagnostics of a fit.

- `sampler`: divergences, tree depth, E-BFMI, Pareto k
- `quantities`, `convergence`: R-hat, nested R-hat, ESS and R* of weights and predictions
- `segments`, `verdict`: whether chains have mixed or are trapped in modes
- `mixing`: the same for any model and a group that is given as data
- `modes`, `mode_masses`, `mode_connectivity`: the modes, their masses, and paths between them
- `contraction`: posterior contraction of parameters relative to the prior
- `sensitivity`: power-scaling of prior and likelihood
- `tempering_health`: levels of sequential Monte Carlo

Imports the rooms that compute quantities of a fit: `gptbayes.symmetry`, `gptbayes.predict`,
`gptbayes.attention` and `gptbayes.validate`, and those above them.
"""
