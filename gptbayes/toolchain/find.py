"""Find a CmdStan that is there, and see whether one could be downloaded."""

from __future__ import annotations

import logging
import os
import re
import threading
import urllib.request
from pathlib import Path

import cmdstanpy

from gptbayes.toolchain.errors import ToolchainError

OLDEST = (2, 33)  # the first with Pathfinder

_RELEASE = "https://github.com/stan-dev/cmdstan/releases/download/v2.35.0/cmdstan-2.35.0.tar.gz"
_log = logging.getLogger("gptbayes")


def version_of(folder: Path) -> tuple[int, ...]:
    """The version of the CmdStan in a folder.

    Raises
    ------
    ToolchainError
        If the folder holds none, or one that is not built.
    """
    try:
        text = (folder / "makefile").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise ToolchainError(f"{folder} holds no CmdStan: it has no makefile") from None
    found = re.search(r"^CMDSTAN_VERSION := (\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    if not found:
        raise ToolchainError(f"{folder} holds no CmdStan: its makefile names no version")
    if not (folder / "bin" / "stanc").is_file():
        raise ToolchainError(f"the CmdStan in {folder} is not built: it has no bin/stanc")
    return tuple(int(number) for number in found.groups())


def find_installed() -> tuple[Path | None, list[str]]:
    """The CmdStan that is there, if one is new enough, and why others are passed over.

    Looks at the environment variable CMDSTAN, then where cmdstanpy installs.
    """
    passed_over = []
    for folder in _candidates():
        try:
            version = version_of(folder)
        except ToolchainError as error:
            passed_over.append(str(error))
            continue
        if version[:2] < OLDEST:
            passed_over.append(
                f"the CmdStan in {folder} is version {_dotted(version)}, "
                f"wanted {_dotted(OLDEST)} or newer"
            )
            continue
        return folder, passed_over
    return None, passed_over


def release_reachable(timeout: float = 4.0) -> bool:
    """Whether the official release can be downloaded, found out within `timeout` seconds.

    Asks for the headers of a release as a download would, through the proxies of the environment.
    A thread does the asking, because looking up a name can hang without a timeout.
    """
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(_RELEASE, method="HEAD")
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                answers.append(answer.status == 200)
        except (OSError, ValueError) as error:
            _log.debug("cannot reach %s: %s", _RELEASE, error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answers == [True]


def _candidates() -> list[Path]:
    given = os.environ.get("CMDSTAN")
    folders = [Path(given)] if given else []
    try:
        os.environ.pop("CMDSTAN", None)
        folders.append(Path(cmdstanpy.cmdstan_path()))
    except ValueError as error:
        _log.debug("cmdstanpy finds no CmdStan: %s", error)
    finally:
        if given:
            os.environ["CMDSTAN"] = given
        else:
            os.environ.pop("CMDSTAN", None)
    return folders


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
