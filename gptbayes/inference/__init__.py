"""Run directories as ArviZ InferenceData with named dims and coords.

All later modules work with InferenceData of any method. Only ``idata.attrs`` records which method
was run.

- `open_run`: a run directory as InferenceData, which is saved in it
- `problem_of`, `settings_of`, `parameters_of`, `superchains_of`, `ensemble_of`: what a fit contains
- `CHAINS`, `MARKOV_CHAINS`: the methods whose draws are chains, or Markov chains
- `tempering_path`: the levels of sequential Monte Carlo

Imports `gptbayes.files`, `gptbayes.groups`, `gptbayes.model` and `gptbayes.fit`.
"""

from gptbayes.inference.contents import (
    ensemble_of,
    parameters_of,
    problem_of,
    settings_of,
    superchains_of,
)
from gptbayes.inference.conversion import convert
from gptbayes.inference.methods import CHAINS, MARKOV_CHAINS
from gptbayes.inference.run import open_run
from gptbayes.inference.saved import netcdf_error
from gptbayes.inference.smc_path import tempering_path

__all__ = [
    "CHAINS",
    "MARKOV_CHAINS",
    "convert",
    "ensemble_of",
    "netcdf_error",
    "open_run",
    "parameters_of",
    "problem_of",
    "settings_of",
    "superchains_of",
    "tempering_path",
]
