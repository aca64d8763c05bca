"""Find a CmdStan that is there, and see whether one could be downloaded."""

from __future__ import annotations

import logging
import os
import re
import threading
import urllib.request
from pathlib import Path

from gptbayes.toolchain import interface
from gptbayes.toolchain.errors import ToolchainError

TESTED = {
    "2.35.0": "httpstan 4.13's Stan library, and digit for digit with the official CmdStan",
    "2.39.0": "httpstan 4.17's Stan library",
}
"""Versions that this package's tests were run with, oldest first, and what of each was run."""

RELEASE = list(TESTED)[-1]
"""The official release to download: the newest that was tested."""

_ADDRESS = (
    f"https://github.com/stan-dev/cmdstan/releases/download/v{RELEASE}/cmdstan-{RELEASE}.tar.gz"
)
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
        if version[:2] < interface.OLDEST_CMDSTAN:
            passed_over.append(
                f"the CmdStan in {folder} is version {_dotted(version)}, "
                f"wanted {_dotted(interface.OLDEST_CMDSTAN)} or newer"
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
            request = urllib.request.Request(_ADDRESS, method="HEAD")
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                answers.append(answer.status == 200)
        except (OSError, ValueError) as error:
            _log.debug("cannot reach %s: %s", _ADDRESS, error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answers == [True]


def _candidates() -> list[Path]:
    given, found = os.environ.get("CMDSTAN"), interface.find()
    return [Path(folder) for folder in (given, found) if folder]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
