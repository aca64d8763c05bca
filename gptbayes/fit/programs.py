"""Which body the likelihood of a stage gets: plain Stan, or the C++ kernels.

The program is the same. Its function `gpt_log_likelihood` is included from
``functions/log_likelihood/``, where it is Stan, or from ``kernels/log_likelihood/``, where it is
only declared and C++ with an analytic gradient is its body.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from gptbayes.model.stages import Stage, stan_folder
from gptbayes.toolchain import Kernels, ToolchainError, build_kernels, compile_program

KERNELS = ("auto", "stan", "c++")

_log = logging.getLogger("gptbayes")


class Executable(NamedTuple):
    """A compiled program and the body that its likelihood has.

    Attributes
    ----------
    path : pathlib.Path
    kernels : {"stan", "c++"}
    """

    path: Path
    kernels: str


def executable_of(stage: Stage, kernels: str = "auto") -> Executable:
    """The compiled program of a stage.

    Parameters
    ----------
    stage : Stage
    kernels : {"auto", "stan", "c++"}
        The body of its likelihood; "auto" is "c++" wherever that can be compiled and the stage's
        program is this package's own.

    Returns
    -------
    Executable

    Raises
    ------
    ValueError
        For another name, or C++ wanted for a program that was changed: it would not be changed.
    ToolchainError
        If it cannot be compiled.
    """
    if kernels not in KERNELS:
        raise ValueError(f"kernels must be one of {', '.join(KERNELS)}, got {kernels!r}")
    if kernels == "c++" and stage.folder is not None:
        raise ValueError(f"kernels must be stan for a changed program, got c++ for {stage.program}")
    functions = stage.program.parent / "functions"
    built = None if kernels == "stan" or stage.folder else _build(required=kernels == "c++")
    if built is None:
        return Executable(compile_program(stage.program, [functions]), "stan")
    return Executable(compile_with_kernels(stage.program, stage.number, built), "c++")


def compile_with_kernels(program: Path, number: str, kernels: Kernels) -> Path:
    """The executable of a stage's program whose likelihood is the kernels'."""
    return compile_program(
        program,
        [stan_folder() / "kernels", program.parent / "functions"],
        user_header=kernels.headers / f"{number[:2]}.hpp",
        object_files=[kernels.object_file],
    )


def _build(required: bool) -> Kernels | None:
    try:
        return build_kernels(stan_folder() / "kernels")
    except ToolchainError as error:
        if required:
            raise
        _log.warning("%s; the likelihood is computed by plain Stan instead", error)
        return None
