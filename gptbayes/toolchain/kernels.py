"""The C++ kernels: compiled once for a machine, linked into every program that wants them."""

from __future__ import annotations

import functools
import logging
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gptbayes.toolchain import cache, system
from gptbayes.toolchain.errors import ToolchainError

_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-w")
_SUFFIXES = (".cpp", ".h", ".hpp")
_log = logging.getLogger("gptbayes")


class Kernels(NamedTuple):
    """The compiled kernels.

    Attributes
    ----------
    object_file : pathlib.Path
        To link with a Stan program.
    library : pathlib.Path
        The same as a shared library, of which ``gpt.h`` says what can be called.
    headers : pathlib.Path
        A folder with all sources: a copy of the given folder's, and the generated ones.
    """

    object_file: Path
    library: Path
    headers: Path


def machine_flags() -> tuple[str, ...]:
    """Flags that let the compiler use all instructions of this machine.

    Empty where the environment variable GPTBAYES_NATIVE is 0, or the compiler knows none: on arm64
    Apple's clang knows ``-mcpu=native`` only, elsewhere ``-march=native`` is the common name.
    """
    if os.environ.get("GPTBAYES_NATIVE") == "0":
        return ()
    names = ["-march=native", "-mcpu=native"]
    if platform.machine().lower() in ("arm64", "aarch64"):
        names.reverse()
    return next(((name,) for name in names if _macros(name)), ())


def build_kernels(
    folder: str | Path,
    flags: tuple[str, ...] | None = None,
    generated: Mapping[str, str] | None = None,
) -> Kernels:
    """Compile ``gpt.cpp`` of a folder, unless it is in the cache.

    Parameters
    ----------
    folder : path
        Where ``gpt.cpp`` and what it includes are: ``stan/kernels``.
    flags : tuple of str, optional
        For the machine, by default `machine_flags`. The cache knows what the compiler makes of
        them, so that a home folder can be shared by machines that differ.
    generated : mapping of str to str, optional
        Text of further sources by file name, which are not in the folder.

    Returns
    -------
    Kernels

    Raises
    ------
    ToolchainError
        Without a compiler, or if it fails, with what it said.
    """
    flags = machine_flags() if flags is None else flags
    parts: list[str | bytes] = [system.compiler_version(), *_FLAGS, *flags, _macros(*flags)]
    paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix in _SUFFIXES]
    sources = {path.name: path.read_bytes() for path in paths}
    sources |= {name: text.encode() for name, text in (generated or {}).items()}
    for name, content in sources.items():
        parts += [name, content]
    target = cache.cache_folder() / "kernels" / cache.key(parts)
    library_name = "libgpt.dylib" if platform.system() == "Darwin" else "libgpt.so"

    def fill(part: Path) -> None:
        system.require_compiler_and_make()
        _log.info("compiling the kernels: some seconds, once")
        for name, content in sources.items():  # cmdstanpy wants headers in a path without spaces
            (part / name).write_bytes(content)
        source, compiled, library = part / "gpt.cpp", part / "gpt.o", part / library_name
        _run([*system.compiler().split(), *_FLAGS, *flags, "-c", str(source), "-o", str(compiled)])
        _run([*system.compiler().split(), "-shared", str(compiled), "-o", str(library)])

    cache.folder_once(target, fill)
    return Kernels(target / "gpt.o", target / library_name, target)


def build_extension(source: str | Path, kernels: Kernels, include: str | Path) -> Path:
    """Compile a shared library that wraps the kernels, unless it is in the cache.

    Parameters
    ----------
    source : path
        A C++ file that includes ``gpt.h``.
    kernels : Kernels
        Linked into the library.
    include : path
        A folder of headers of another library, whose version is a part of its path or not: the
        headers that the source includes from it enter the key by their names and sizes.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ToolchainError
        Without a compiler, or if it fails, with what it said.
    """
    source, include = Path(source), Path(include)
    headers = sorted(path for path in include.rglob("*") if path.suffix in _SUFFIXES)
    parts: list[str | bytes] = [system.compiler_version(), *_FLAGS, source.read_bytes()]
    parts += [kernels.headers.name]
    parts += [f"{path.relative_to(include)} {path.stat().st_size}" for path in headers]
    target = cache.cache_folder() / "kernels" / f"{source.stem}-{cache.key(parts)}"
    name = f"lib{source.stem}.{'dylib' if platform.system() == 'Darwin' else 'so'}"

    def fill(part: Path) -> None:
        system.require_compiler_and_make()
        _log.info("compiling %s: some seconds, once", source.name)
        folders = [f"-I{kernels.headers}", f"-I{include}"]
        files = [str(source), str(kernels.object_file), "-o", str(part / name)]
        _run([*system.compiler().split(), *_FLAGS, "-shared", *folders, *files])

    cache.folder_once(target, fill)
    return target / name


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        raise ToolchainError(f"compiling the kernels failed: {reason}")


def _macros(*flags: str) -> str:
    """What the compiler knows of the machine it compiles for; empty if it refuses the flags."""
    return _output(*system.compiler().split(), *flags, "-dM", "-E", "-x", "c++", os.devnull)


@functools.cache
def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
