"""Make sure that there is a CmdStan, by one of three routes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from pathlib import Path
from typing import NamedTuple

from gptbayes.toolchain import build, find, interface, system
from gptbayes.toolchain.errors import ToolchainError

ROUTES = ("auto", "installed", "official", "httpstan")

_log = logging.getLogger("gptbayes")


class Toolchain(NamedTuple):
    """What compiles and runs Stan programs here.

    Attributes
    ----------
    route
        `installed`, `official` (just downloaded) or `httpstan` (built from its wheel).
    folder
        The CmdStan.
    cmdstan
        Its version, such as `2.35.0`.
    stanc
        The version of its Stan compiler.
    compiler
        The version of the C++ compiler.
    flags
        C++ flags that the environment or the CmdStan's make/local adds; empty for none.
    """

    route: str
    folder: Path
    cmdstan: str
    stanc: str
    compiler: str
    flags: str


def ensure_cmdstan() -> Path:
    """Make sure that there is a CmdStan, tell cmdstanpy, and return its folder.

    Takes the first that works of: an installed one (the environment variable CMDSTAN, or where
    cmdstanpy installs) of version 2.33 or newer; the official release, if GitHub can be reached;
    one built from the httpstan wheel into the per-user cache. The environment variable
    GPTBAYES_CMDSTAN forces a route: `installed`, `official` or `httpstan`.

    Returns
    -------
    Path
        The folder, as `cmdstanpy.cmdstan_path()` gives it from now on.

    Raises
    ------
    ToolchainError
        If there is no way, saying why.
    """
    return _ensure()[1]


def describe() -> Toolchain:
    """What `ensure_cmdstan` comes to here, with versions; makes sure of it first."""
    route, folder = _ensure()
    stanc = system.first_line([folder / "bin" / "stanc", "--version"])
    version = ".".join(str(number) for number in find.version_of(folder))
    return Toolchain(route, folder, version, stanc, system.compiler_version(), flags_of(folder))


def flags_of(folder: Path) -> str:
    """What the environment and make/local add to the C++ flags of a CmdStan."""
    names = ("CPPFLAGS", "CXXFLAGS", "LDFLAGS")
    given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    local = folder / "make" / "local"
    if local.is_file():
        lines = local.read_text(encoding="utf-8").splitlines()
        given += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return " ".join(given)


def _ensure() -> tuple[str, Path]:
    wanted = os.environ.get("GPTBAYES_CMDSTAN") or "auto"
    if wanted not in ROUTES:
        raise ToolchainError(f"GPTBAYES_CMDSTAN must be one of {', '.join(ROUTES)}, got {wanted}")
    system.require_supported_platform()
    route, folder = _choose(wanted)
    interface.use(folder)
    return route, folder


def _choose(wanted: str) -> tuple[str, Path]:
    if wanted in ("auto", "installed"):
        folder, passed_over = find.find_installed()
        if folder is not None:
            return ("httpstan" if build.is_built_here(folder) else "installed"), folder
        for reason in passed_over:
            _log.warning("passed over: %s", reason)
        if wanted == "installed":
            raise ToolchainError("; ".join(passed_over) or "no CmdStan is installed")
    if wanted == "official" or (wanted == "auto" and _worth_downloading()):
        try:
            return "official", _download()
        except ToolchainError as error:
            if wanted == "official":
                raise
            _log.warning("%s; building one from httpstan instead", error)
    return "httpstan", build.build_from_httpstan()


def _worth_downloading() -> bool:
    """Not if one is built already: a network that comes back does not change a user's engine."""
    with contextlib.suppress(ToolchainError):
        if build.engine_folder().is_dir():
            return False
    return find.release_reachable()


def _download() -> Path:
    system.require_compiler_and_make()
    if not find.release_reachable():
        raise ToolchainError("cannot reach GitHub to download CmdStan")
    _log.info("downloading and building CmdStan %s: some minutes, once per machine", find.RELEASE)
    spoken = io.StringIO()
    try:
        with contextlib.redirect_stdout(spoken):
            done = interface.install(find.RELEASE, system.jobs())
    except Exception as error:  # of many kinds: network, archive, disk, compiler
        raise ToolchainError(f"installing the official CmdStan failed: {error}") from error
    _log.debug("%s", spoken.getvalue())
    folder, passed_over = find.find_installed()
    if not done or folder is None:
        reasons = "; ".join(passed_over) or spoken.getvalue().strip()[-200:]
        raise ToolchainError(f"installing the official CmdStan failed: {reasons}")
    return folder
