"""Fit a problem: NUTS, HMC, Pathfinder, optimization, sequential Monte Carlo, or prior draws.

A fit is a run directory. Its unit of work is one chain, one path, one start of the optimizer or one
level of a replicate, and gives one file, which is moved into place when it is complete. An
interrupted fit resumes with the units that are missing. A unit that is run again with its seed
gives the same draws.

Imports `gptbayes.model` and `gptbayes.toolchain`. With `gptbayes.toolchain` it is the only importer
of cmdstanpy.
"""

from gptbayes.fit.approximations import optimize, pathfinder
from gptbayes.fit.chains import start_of_chain
from gptbayes.fit.directory import read_config, read_problem
from gptbayes.fit.draws import MARKOV_CHAINS, Draws, iter_draws, n_units, read_csv, read_draws
from gptbayes.fit.levels import Level
from gptbayes.fit.prior_run import prior
from gptbayes.fit.programs import KERNELS, executable_of
from gptbayes.fit.sample_program import sample_program
from gptbayes.fit.sampling import METRICS, hmc, nuts
from gptbayes.fit.smc import Smc, levels_of, sequential_monte_carlo
from gptbayes.fit.smc_run import smc
from gptbayes.fit.starts import INITS
from gptbayes.fit.units import Progress, Unit, run_unit

__all__ = [
    "INITS",
    "KERNELS",
    "MARKOV_CHAINS",
    "METRICS",
    "Draws",
    "Level",
    "Progress",
    "Smc",
    "Unit",
    "executable_of",
    "hmc",
    "iter_draws",
    "levels_of",
    "n_units",
    "nuts",
    "optimize",
    "pathfinder",
    "prior",
    "read_config",
    "read_csv",
    "read_draws",
    "read_problem",
    "run_unit",
    "sample_program",
    "sequential_monte_carlo",
    "smc",
    "start_of_chain",
]
