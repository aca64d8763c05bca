"""The twelve stages as statistical models: parameters, priors, likelihood.

Stages and their parameters, problems with their Stan data, the forward pass in numpy, simulation
from the prior and the log density. Imports `gptbayes.corpus` and `gptbayes.toolchain`.
"""
