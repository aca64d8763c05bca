"""Compiled programs of stages, whose likelihood is computed by plain Stan or by the C++ kernels.

With the kernels, the likelihood and the normal priors in the program are replaced by calls of
them before it is compiled, see `gptbayes.model.kernel_sources`.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

from gptbayes import home
from gptbayes.model import kernel_sources
from gptbayes.model.stages import Stage, stage
from gptbayes.toolchain import Kernels, ToolchainError, cache, compile_program

KERNELS = ("auto", "stan", "c++")

_log = logging.getLogger("gptbayes")


class Executable(NamedTuple):
    """A compiled program, and what computes its likelihood.

    Attributes
    ----------
    path : pathlib.Path
    kernels : {"stan", "c++"}
    """

    path: Path
    kernels: str


class Program(NamedTuple):
    """A Stan program that another machine can compile.

    Attributes
    ----------
    name : str
        Number of a stage, or file name of a program.
    kernels : {"stan", "c++"}
        What computes the likelihood of a stage.
    sources : tuple of (str, str)
        File names and texts of a program that is no stage of this package, and below ``include``
        of what it includes.
    """

    name: str
    kernels: str = "stan"
    sources: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, executable: Path, of: Stage | None = None, kernels: str = "stan") -> Program:
        """The program of an executable, which is a stage or has its source beside it.

        Raises
        ------
        ValueError
            If it has none.
        """
        if of is not None and of.folder is None:
            return cls(of.number, kernels)
        folder, name = executable.parent, f"{executable.name}.stan"
        if not (folder / name).is_file():
            raise ValueError(
                f"Dask's workers compile programs themselves, and {executable} has no {name} "
                "beside it"
            )
        paths = [folder / name, *(p for p in (folder / "include").rglob("*") if p.is_file())]
        texts = [(p.relative_to(folder).as_posix(), p.read_text(encoding="utf-8")) for p in paths]
        return cls(name, sources=tuple(texts))

    def compiled(self) -> Path:
        """The executable on this machine."""
        if not self.sources:
            return executable_of(stage(self.name), self.kernels).path
        with tempfile.TemporaryDirectory(dir=home.temporary_folder()) as folder:
            for name, text in self.sources:
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return compile_program(Path(folder) / self.name, [Path(folder) / "include"])


def executable_of(stage: Stage, kernels: str = "auto") -> Executable:
    """The compiled program of a stage.

    Parameters
    ----------
    stage : Stage
    kernels : {"auto", "stan", "c++"}
        What computes its likelihood; "auto" is "c++" wherever that can be compiled and the stage's
        program is this package's own.

    Returns
    -------
    Executable

    Raises
    ------
    ValueError
        For another name, or for C++ and a changed program, which the kernels would ignore.
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
    return Executable(compile_with_kernels(stage, built), "c++")


def compile_with_kernels(stage: Stage, kernels: Kernels) -> Path:
    """The executable of a stage's program with the likelihood of the kernels."""
    text = kernel_sources.program_with_kernels(stage)
    folder = cache.cache_folder() / "programs" / f"{stage.name}-{cache.key([text])}"
    source = f"{stage.name}.stan"
    cache.folder_once(folder, lambda part: (part / source).write_text(text, encoding="utf-8"))
    return compile_program(
        folder / source,
        [kernels.headers, stage.program.parent / "functions"],
        user_header=kernels.headers / f"{stage.number[:2]}.hpp",
        object_files=[kernels.object_file],
    )


def _build(required: bool) -> Kernels | None:
    try:
        return kernel_sources.build()
    except ToolchainError as error:
        if required:
            raise
        _log.warning("%s; the likelihood is computed by plain Stan instead", error)
        return None
