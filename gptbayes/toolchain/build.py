"""Build a CmdStan from the Stan library, headers and compiler inside the httpstan wheel.

The wheel has all of CmdStan but its command line and its makefile; these are in `engine/`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gptbayes.toolchain import cache, system
from gptbayes.toolchain.errors import ToolchainError

_SOURCES = Path(__file__).parent / "engine"
_HOW = (
    "pip install 'gptbayes[engine]' (on Linux x86-64 and macOS), or install CmdStan and set the "
    "environment variable CMDSTAN to its folder"
)
_log = logging.getLogger("gptbayes")


def build_from_httpstan() -> Path:
    """The folder of a CmdStan built from httpstan, built now if it is not in the cache.

    The folder's name is its content: the Stan version and a hash of the engine's sources, the
    wheel's version, the compiler's version and the flags of the environment.

    Raises
    ------
    ToolchainError
        Without httpstan, a compiler or make, or if the build fails.
    """
    wheel = _find_wheel()
    target = engine_folder()

    def fill(folder: Path) -> None:
        _log.info(
            "building CmdStan's command line in %s: one to three minutes, once per machine", target
        )
        _lay_out(wheel, folder)
        _run_make(folder, ["build"])

    if not target.is_dir():
        system.require_compiler_and_make()
    # Not build/: it is large, and make adds to it.
    cache.folder_once(target, fill, ("bin/*", "lib/*", "src/*", "makefile"))
    _mend_headers(wheel, target)
    return target


def engine_folder() -> Path:
    """Where `build_from_httpstan` puts what it builds."""
    wheel = _find_wheel()
    version = _stan_version(wheel)
    flags = [f"{name}={os.environ.get(name, '')}" for name in ("CXX", "CPPFLAGS", "CXXFLAGS")]
    parts: list[str | bytes] = [version]
    parts += [importlib.metadata.version("httpstan"), system.compiler_version(), *flags]
    for source in sorted(_SOURCES.iterdir()):
        if source.is_file():
            parts += [source.name, source.read_bytes()]
    return cache.cache_folder() / "cmdstan" / f"cmdstan-{version}-{cache.key(parts)}"


def is_built_here(folder: Path) -> bool:
    """Whether a CmdStan is one of ours (and not the official one)."""
    return (folder / "src" / "program.hpp").is_file()


def prepare(folder: Path, options: Iterable[str]) -> None:
    """Build the command line for more flags (such as STAN_THREADS=true) than the usual ones.

    Several programs may ask for the same flags at once; one builds, others wait. The official
    CmdStan does this in its own makefile.
    """
    arguments = ["objects", *options]
    if is_built_here(folder) and not _is_up_to_date(folder, arguments):
        with cache.locked(folder):
            _run_make(folder, arguments)


def _find_wheel() -> Path:
    spec = importlib.util.find_spec("httpstan")
    if spec is None or not spec.submodule_search_locations:
        raise ToolchainError(f"no CmdStan, and no httpstan to build one from: {_HOW}")
    wheel = Path(spec.submodule_search_locations[0])
    if not (wheel / "stanc").is_file():
        raise ToolchainError(f"the httpstan in {wheel} has no stanc: pip install a wheel of it")
    return wheel


def _stan_version(wheel: Path) -> str:
    header = wheel / "include" / "stan" / "version.hpp"
    text = header.read_text(encoding="utf-8")
    found = re.findall(r"#define STAN_(?:MAJOR|MINOR|PATCH) (\d+)", text)
    if len(found) != 3:
        raise ToolchainError(f"{header} names no version")
    return ".".join(found)


def _lay_out(wheel: Path, folder: Path) -> None:
    """The folder as cmdstanpy wants it; executables need its `lib` only, not the wheel."""
    for name in ("bin", "lib", "src"):
        (folder / name).mkdir()
    shutil.copy2(wheel / "stanc", folder / "bin" / "stanc")
    (folder / "bin" / "stanc").chmod(0o755)
    for library in (wheel / "lib").iterdir():
        shutil.copy2(library, folder / "lib" / library.name)
    (folder / "include").symlink_to(wheel / "include")
    for source in [*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.hpp")]:
        shutil.copyfile(source, folder / "src" / source.name)
    text = (_SOURCES / "makefile").read_text(encoding="utf-8")
    makefile = text.replace("@STAN_VERSION@", _stan_version(wheel))
    (folder / "makefile").write_text(makefile, encoding="utf-8")


def _mend_headers(wheel: Path, folder: Path) -> None:
    """Point to the headers of this wheel if the one we were built from is gone."""
    link = folder / "include"
    if (link / "stan" / "version.hpp").is_file():
        return
    with cache.locked(folder):
        fresh = folder / f".include-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(wheel / "include")
        fresh.replace(link)


def _is_up_to_date(folder: Path, arguments: list[str]) -> bool:
    """Whether make has nothing to do, which may be all that a folder of somebody else allows."""
    command = [system.make(), "--question", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


def _run_make(folder: Path, arguments: list[str]) -> None:
    command = [system.make(), f"-j{system.jobs()}", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    _log.debug("%s\n%s", " ".join(command), done.stdout)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        reason = next((line for line in lines if "error" in line.lower()), "")
        last = reason or (lines[-1] if lines else f"make ended with {done.returncode}")
        raise ToolchainError(f"building CmdStan's command line failed: {last.strip()}")
