"""Fit a problem: NUTS, Pathfinder, optimization, or draws from the prior.

A fit is a run directory. Its unit of work is one chain, one path or one start of the optimizer, and
gives one CSV file, which is moved into place when it is complete. An interrupted fit resumes with
the units that are missing. A unit that is run again with its seed gives the same draws.

Imports `gptbayes.model` and `gptbayes.toolchain`. With `gptbayes.toolchain` it is the only importer
of cmdstanpy.
"""

from gptbayes.fit.approximations import optimize, pathfinder
from gptbayes.fit.directory import read_config, read_problem
from gptbayes.fit.draws import Draws, iter_draws, n_units, read_csv, read_draws
from gptbayes.fit.prior_run import prior
from gptbayes.fit.programs import KERNELS, executable_of
from gptbayes.fit.sampling import METRICS, nuts, start_of_chain
from gptbayes.fit.starts import INITS
from gptbayes.fit.units import Progress, Unit, run_unit

__all__ = [
    "INITS",
    "KERNELS",
    "METRICS",
    "Draws",
    "Progress",
    "Unit",
    "executable_of",
    "iter_draws",
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
    "start_of_chain",
]
