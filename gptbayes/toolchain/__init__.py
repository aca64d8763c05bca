"""Find, download or build CmdStan, and compile Stan programs with it.

`ensure_cmdstan` makes sure that there is one; `compile_program` gives the executable of a
program from a cache. `describe` and `check` say what there is and whether it works.
"""

from __future__ import annotations

from gptbayes.toolchain.errors import ToolchainError
from gptbayes.toolchain.install import Toolchain, describe, ensure_cmdstan
from gptbayes.toolchain.kernels import Kernels, build_extension, build_kernels, machine_flags
from gptbayes.toolchain.programs import Check, check, compile_program

__all__ = [
    "Check",
    "Kernels",
    "Toolchain",
    "ToolchainError",
    "build_extension",
    "build_kernels",
    "check",
    "compile_program",
    "describe",
    "ensure_cmdstan",
    "machine_flags",
]
