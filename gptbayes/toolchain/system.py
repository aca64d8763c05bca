"""What the machine has: an operating system, a C++ compiler, make, cores and memory."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from gptbayes.processes import n_cores
from gptbayes.toolchain.errors import ToolchainError

_HOW = "on Debian or Ubuntu: apt-get install g++ make; on macOS: xcode-select --install"
_BYTES_PER_JOB = 2 * 1024**3  # of a C++ compiler that reads Stan's headers


def require_supported_platform() -> None:
    """Raise ToolchainError on a system where nothing would be found or built."""
    if os.name != "posix":
        raise ToolchainError(
            f"gptbayes runs on Linux and macOS, not on {platform.system() or os.name}; "
            "on Windows install it inside WSL 2"
        )


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


def usable_memory() -> int | None:
    """Bytes of memory that this process may have, or None on a system that does not say.

    That of the machine, or less where a container or a job of a cluster has a limit.
    """
    bounds = _memory_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    try:
        bounds.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # no sysconf, no such name, no answer
        pass
    return min((n_bytes for n_bytes in bounds if n_bytes > 0), default=None)  # -1: not determined


def _memory_limits(own, mounted):
    """Limits of the control groups of Linux that this process is in, and of those above them.

    Parameters
    ----------
    own : pathlib.Path
        A file of lines ``number:controllers:group``; version 2 names no controllers.
    mounted : pathlib.Path
        Where control groups are mounted.
    """
    found = []
    for line in _lines(own):
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = Path(group.lstrip("/"))
        for folder in (inner, *inner.parents):  # a container may see its own group as the top one
            found += [int(limit) for limit in _lines(top / folder / name) if limit.isdecimal()]
    return found


def _lines(path):
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    lines = _lines(Path("/proc/cpuinfo"))
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def jobs() -> int:
    """How many compilers to run at once: at most four, each with 2 GB of memory and a core."""
    memory = usable_memory()
    affordable = 4 if memory is None else memory // _BYTES_PER_JOB
    return max(1, min(n_cores(), 4, affordable))


def _is_command(name: str) -> bool:
    return bool(name.split()) and shutil.which(name.split()[0]) is not None
