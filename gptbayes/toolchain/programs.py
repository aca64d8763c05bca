"""Compile a Stan program once: a cache of executables, addressed by content."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gptbayes import home
from gptbayes.toolchain import build, cache, interface, system
from gptbayes.toolchain.errors import ToolchainError
from gptbayes.toolchain.install import ensure_cmdstan, flags_of

_INCLUDE = re.compile(r"""^[ \t]*#include[ \t]*[<"]?([^\s<>"]+)""", re.MULTILINE)
_log = logging.getLogger("gptbayes")


class Check(NamedTuple):
    """What compiling and sampling a program of three lines came to.

    Attributes
    ----------
    executable
        The compiled program.
    seconds
        Time to compile it (none, if it was in the cache) and to sample.
    mean, sd
        Of 4000 draws of a standard normal.
    """

    executable: Path
    seconds: float
    mean: float
    sd: float


def compile_program(
    stan_file: str | Path,
    include_paths: Iterable[str | Path] = (),
    user_header: str | Path | None = None,
    stanc_options: Mapping[str, Any] | None = None,
    cpp_options: Mapping[str, Any] | None = None,
    object_files: Iterable[str | Path] = (),
) -> Path:
    """The executable of a Stan program, compiled now if it is not in the cache.

    Parameters
    ----------
    stan_file
        The program.
    include_paths
        Folders in which `#include` looks.
    user_header
        C++ definitions of functions that the program declares only.
    stanc_options, cpp_options
        As `cmdstanpy.CmdStanModel` takes them, such as `{"O1": True}`, `{"STAN_THREADS": True}`.
    object_files
        Compiled C++ to link with it, where the functions of the header are.

    Returns
    -------
    Path
        The executable, `models/<name>-<key>/<name>` in the cache. The key is a hash of the text of
        the program and all that it includes, of the options, and of CmdStan and the compiler:
        whoever asks for the same, again or at the same time, gets the same file, compiled once.

    Raises
    ------
    ValueError
        If there is no such program.
    ToolchainError
        If it cannot be compiled: with what the Stan or C++ compiler said.
    """
    source = Path(stan_file).resolve()
    if not source.is_file():
        raise ValueError(f"program must be a Stan file, there is none at {stan_file}")
    stanc, cpp = dict(stanc_options or {}), dict(cpp_options or {})
    folders = [Path(path).resolve() for path in include_paths]
    header = Path(user_header).resolve() if user_header is not None else None
    objects = [Path(path).resolve() for path in object_files]

    cmdstan = ensure_cmdstan()
    included = _included(source, folders)
    parts = _content(cmdstan, source, included, header, stanc, cpp)
    parts += [path.read_bytes() for path in objects]
    if objects:  # after the key, for what is in them counts, and not where they are
        libraries = [os.environ.get("LDLIBS", ""), *map(str, objects)]
        cpp["LDLIBS"] = " ".join(filter(None, libraries))
    target = cache.cache_folder() / "models" / f"{source.stem}-{cache.key(parts)}"

    def fill(folder: Path) -> None:
        system.require_compiler_and_make()
        _log.info("compiling %s: about half a minute, once", source.name)
        build.prepare(cmdstan, [f"{name}={value}" for name, value in cpp.items()])
        # All that is included goes along: whatever characters the folders of the package have in
        # their paths, make and the shell see those of the cache only.
        copy = Path(shutil.copy(source, folder / source.name))
        for name, path in included.items():
            (folder / "include" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "include" / name)
        if included:
            stanc["include-paths"] = [str(folder / "include")]
        _check_program(cmdstan, copy, folder / "include" if included else None)
        _compile(copy, header, stanc, cpp)

    return cache.folder_once(target, fill) / source.stem


def check() -> Check:
    """Compile and sample a program of three lines, to see that everything works."""
    start = time.perf_counter()
    program = "parameters {\n  real x;\n}\nmodel {\n  x ~ std_normal();\n}\n"
    with tempfile.TemporaryDirectory(dir=home.temporary_folder()) as folder:
        stan_file = Path(folder) / "check.stan"
        stan_file.write_text(program, encoding="utf-8")
        executable = compile_program(stan_file)
        fit = interface.run(executable, "sample", chains=4, seed=1, output_dir=folder)
        draws = fit.stan_variable("x")
    return Check(executable, time.perf_counter() - start, float(draws.mean()), float(draws.std()))


def _content(
    cmdstan: Path,
    source: Path,
    included: Mapping[str, Path],
    header: Path | None,
    stanc: Mapping[str, Any],
    cpp: Mapping[str, Any],
) -> list[str | bytes]:
    """All that the executable depends on."""
    parts: list[str | bytes] = [str(cmdstan), flags_of(cmdstan), system.compiler_version()]
    parts += [json.dumps(options, sort_keys=True, default=str) for options in (stanc, cpp)]
    parts += [interface.script(), source.name, source.read_bytes()]
    for name, path in included.items():
        parts += [name, path.read_bytes()]
    for text in _headers(header):
        parts += [text.name, text.read_bytes()]
    return parts


def _included(source: Path, folders: list[Path]) -> dict[str, Path]:
    """The files a program includes, directly or not, by the name it includes them by.

    What is found nowhere is left to the Stan compiler to complain about.
    """
    found: dict[str, Path] = {}
    waiting = [source]
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8", errors="replace")
        for name in _INCLUDE.findall(text):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ToolchainError(f"{source.name} includes {name}, wanted a path below a folder")
            path = next((each / name for each in folders if (each / name).is_file()), None)
            if path is not None and name not in found:
                found[name] = path
                waiting.append(path)
    return dict(sorted(found.items()))


def _check_program(cmdstan: Path, source: Path, include: Path | None) -> None:
    """Let the Stan compiler alone have a look first: what it says is all that a user wants."""
    command = [str(cmdstan / "bin" / "stanc"), "--info", "--allow-undefined"]
    command += [] if include is None else [f"--include-paths={include}"]
    command.append(source.name)
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolchainError(f"{source.name} is no valid Stan program:\n{done.stderr.strip()}")


def _headers(header: Path | None) -> list[Path]:
    """A C++ header and what it includes between quotation marks, directly or not."""
    found: list[Path] = []
    waiting = [] if header is None else [header]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.append(path)
        text = path.read_text(encoding="utf-8")
        names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)
        waiting += [(path.parent / name).resolve() for name in names]
    return found


def _compile(
    source: Path, header: Path | None, stanc: Mapping[str, Any], cpp: Mapping[str, Any]
) -> None:
    try:
        interface.compile_program(source, header, stanc, cpp)
    except ValueError as error:
        raise ToolchainError(str(error)) from error
