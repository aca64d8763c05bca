"""The twelve stages as statistical models: parameters, priors and likelihood.

`stages` lists the stages, `parameters` the parameters of their parts. `design` and `priors` are
what a user sets, `problem` adds the text, and `stan_data` converts it for the Stan programs.
`forward` is the forward pass in numpy, `simulate` draws parameters and text, and `log_density`
evaluates the log posterior and its gradient. Imports `gptbayes.corpus` and `gptbayes.toolchain`.
"""
