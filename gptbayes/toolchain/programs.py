"""Compile a Stan program once: a cache of executables, addressed by content."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cmdstanpy

from gptbayes.toolchain import build, cache, system
from gptbayes.toolchain.errors import ToolchainError
from gptbayes.toolchain.install import ensure_cmdstan, flags_of

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
    ToolchainError
        If it cannot be compiled: with what the Stan or C++ compiler said.
    """
    source = Path(stan_file).resolve()
    if not source.is_file():
        raise ToolchainError(f"no Stan program {stan_file}")
    stanc = dict(stanc_options or {})
    folders = [str(Path(path).resolve()) for path in include_paths]
    if folders:
        stanc["include-paths"] = folders
    cpp = dict(cpp_options or {})
    header = Path(user_header).resolve() if user_header is not None else None
    objects = [Path(path).resolve() for path in object_files]

    cmdstan = ensure_cmdstan()
    parts = _content(cmdstan, source, folders, header, stanc, cpp)
    parts += [path.read_bytes() for path in objects]
    if objects:  # after the key, for what is in them counts, and not where they are
        libraries = [os.environ.get("LDLIBS", ""), *map(str, objects)]
        cpp["LDLIBS"] = " ".join(filter(None, libraries))
    target = cache.cache_folder() / "models" / f"{source.stem}-{cache.key(parts)}"

    def fill(folder: Path) -> None:
        system.require_compiler_and_make()
        _log.info("compiling %s: about half a minute, once", source.name)
        build.prepare(cmdstan, [f"{name}={value}" for name, value in cpp.items()])
        _compile(shutil.copy(source, folder / source.name), header, stanc, cpp)

    return cache.folder_once(target, fill) / source.stem


def check() -> Check:
    """Compile and sample a program of three lines, to see that everything works."""
    start = time.perf_counter()
    program = "parameters {\n  real x;\n}\nmodel {\n  x ~ std_normal();\n}\n"
    folder = cache.cache_folder() / "check"
    folder.mkdir(parents=True, exist_ok=True)
    stan_file = folder / "check.stan"
    stan_file.write_text(program, encoding="utf-8")
    executable = compile_program(stan_file)
    model = cmdstanpy.CmdStanModel(exe_file=str(executable))
    fit = model.sample(chains=4, seed=1, show_progress=False)
    draws = fit.stan_variable("x")
    return Check(executable, time.perf_counter() - start, float(draws.mean()), float(draws.std()))


def _content(
    cmdstan: Path,
    source: Path,
    folders: list[str],
    header: Path | None,
    stanc: Mapping[str, Any],
    cpp: Mapping[str, Any],
) -> list[str | bytes]:
    """All that the executable depends on."""
    parts: list[str | bytes] = [str(cmdstan), flags_of(cmdstan), system.compiler_version()]
    for options in (stanc, cpp):
        visible = {name: value for name, value in options.items() if name != "include-paths"}
        parts.append(json.dumps(visible, sort_keys=True, default=str))
    for text in [source, *_included(cmdstan, source, folders, stanc)]:
        parts += [text.name, text.read_bytes()]
    for text in _headers(header):
        parts += [text.name, text.read_bytes()]
    return parts


def _included(
    cmdstan: Path, source: Path, folders: list[str], stanc: Mapping[str, Any]
) -> list[Path]:
    """The files a program includes, directly or not, as the Stan compiler finds them."""
    command = [str(cmdstan / "bin" / "stanc"), "--info", "--allow-undefined"]
    if folders:
        command.append(f"--include-paths={','.join(folders)}")
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolchainError(f"{source.name} is no valid Stan program:\n{done.stderr.strip()}")
    return [Path(name) for name in json.loads(done.stdout).get("included_files", [])]


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
    source: str | Path, header: Path | None, stanc: Mapping[str, Any], cpp: Mapping[str, Any]
) -> None:
    try:
        cmdstanpy.compile_stan_file(
            source, stanc_options=dict(stanc), cpp_options=dict(cpp), user_header=header
        )
    except ValueError as error:
        raise ToolchainError(str(error)) from error
