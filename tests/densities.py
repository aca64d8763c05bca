"""Log densities and their gradients as a compiled program has them."""

from __future__ import annotations

from contextlib import chdir
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cmdstanpy
import numpy as np

from gptbayes.fit import executable_of
from gptbayes.model.stan_data import stan_data
from gptbayes.toolchain import compile_program, ensure_cmdstan


class Density(NamedTuple):
    """The log posterior at one point, up to constants.

    Attributes
    ----------
    value : float
        In nats.
    gradient : dict of str to ndarray
        Each with the shape that the parameter has in the Stan program.
    """

    value: float
    gradient: dict[str, np.ndarray]


def compiled(problem, bricks: str = "functions") -> cmdstanpy.CmdStanModel:
    """The program of a problem's stage with bricks from ``functions``, ``loops`` or ``kernels``."""
    ensure_cmdstan()
    program = problem.stage.program
    if bricks == "loops":
        folders = [program.parent / folder for folder in ("loops", "functions")]
        exe = compile_program(program, include_paths=folders)
    else:
        exe = executable_of(problem.stage, "c++" if bricks == "kernels" else "stan").path
    return cmdstanpy.CmdStanModel(exe_file=str(exe))


def stan_density(model: cmdstanpy.CmdStanModel, problem, parameters) -> Density:
    """What a compiled program says at one draw, whose arrays have Stan's shapes."""
    with TemporaryDirectory() as folder, chdir(folder):  # CmdStan leaves a profile where it is run
        table = model.log_prob(parameters, data=stan_data(problem), sig_figs=17)
    items = {argument.name: argument.item for argument in problem.stage.arguments}
    gradient = {}
    for name, value in parameters.items():
        columns = [c for c in table.columns if c.split(".")[0] == f"g_{name}"]
        # by position: for arrays, the names that `log_prob` writes have another order
        numbers = table[columns].to_numpy()[0]
        gradient[name] = _from_stan(numbers, value.shape, items[name])
    return Density(float(table["lp__"][0]), gradient)


def _from_stan(numbers, shape, item):
    """From the order of Stan, which has arrays item by item and each matrix by columns."""
    if item == "vector":
        return numbers.reshape(shape)
    *items, rows, columns = shape
    return numbers.reshape(*items, columns, rows).swapaxes(-1, -2)
