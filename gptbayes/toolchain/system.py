"""What the machine has: a C++ compiler, make, cores."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from gptbayes.toolchain.errors import ToolchainError

_HOW = "on Debian or Ubuntu: apt-get install g++ make; on macOS: xcode-select --install"


def compiler() -> str:
    """The C++ compiler to use: the environment variable CXX, or g++."""
    return os.environ.get("CXX") or "g++"


def make() -> str:
    """The make to use: the environment variable MAKE, or make."""
    return os.environ.get("MAKE") or "make"


def require_compiler_and_make() -> None:
    """Raise ToolchainError, saying what to install, unless both are there."""
    needed = {"a C++ compiler": compiler(), "make": make()}
    missing = [f"{what} ({name})" for what, name in needed.items() if not _is_command(name)]
    if missing:
        raise ToolchainError(f"missing {' and '.join(missing)}; {_HOW}")


def compiler_version() -> str:
    """The first line of the compiler's own account, or what is wrong with it."""
    try:
        return first_line([*compiler().split(), "--version"])
    except (OSError, subprocess.SubprocessError):
        return f"{compiler()}: not found"


def first_line(command: list[str | Path]) -> str:
    """The first line a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.partition("\n")[0].strip()


def jobs() -> int:
    """How many compilers to run at once: each takes up to 2 GB."""
    return max(1, min(os.cpu_count() or 1, 4))


def _is_command(name: str) -> bool:
    return bool(name.split()) and shutil.which(name.split()[0]) is not None
