"""The settings of an analysis script, which its command line may change, and its files."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def settings_from(namespace: Mapping[str, Any], argv: Sequence[str] | None = None) -> dict:
    """Read the values that a command line gives to the settings of a script.

    A setting is a variable whose name is in lower case and whose value is a string, a number, a
    truth value, a list of such, or None, which stands for an optional string. Its option has its
    name, ``iter_sampling`` is ``--iter-sampling``, and the comment behind it is the option's help.

    Parameters
    ----------
    namespace : mapping
        The script's ``globals()`` after its settings.
    argv : sequence of str, optional
        By default those of the process if it runs this script, else none: the arguments of a
        notebook's kernel are not the script's.

    Returns
    -------
    dict
        All settings, those that were not given as they were.

    Raises
    ------
    SystemExit
        After ``--help``, and for an unknown option or an unusable value, which is named.

    Examples
    --------
    >>> settings_from({"chains": 4, "text": None}, ["--chains", "2"])
    {'chains': 2, 'text': None}
    """
    settings = {name: value for name, value in namespace.items() if _is_setting(name, value)}
    file = namespace.get("__file__")
    if argv is None:
        argv = sys.argv[1:] if file and _is_running(file) else []
    source = Path(file).read_text(encoding="utf-8") if file else ""
    title = re.search(r"^# # (.*)$", source, re.MULTILINE)
    parser = argparse.ArgumentParser(description=title and title[1])
    for name, value in settings.items():
        comment = re.search(rf"^{name} = .*?  # (.*)$", source, re.MULTILINE)
        _add_option(parser, name, value, comment[1] if comment else "")
    return vars(parser.parse_args(argv))


def output_folder(path: str | Path) -> Path:
    """Make the folder that an analysis writes to.

    Parameters
    ----------
    path : path
        A relative one counts from the working directory. That of a notebook in ``analyses/`` is
        ``analyses/`` itself, that of a script the project above it; both get the same folder.

    Returns
    -------
    pathlib.Path
    """
    here = Path.cwd()
    folder = (here.parent if here.name == "analyses" else Path()) / path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_beside(namespace: Mapping[str, Any], name: str) -> Path:
    """Find a file that an analysis reads, such as its Stan program.

    Parameters
    ----------
    namespace : mapping
        The script's ``globals()``.
    name : str
        Of a file in the folder of the script. A notebook does not know its file: its working
        directory is ``analyses/`` or the folder above it.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    script = namespace.get("__file__")
    folders = [Path(script).parent] if script else [Path.cwd(), Path.cwd() / "analyses"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{name} must be in {' or '.join(map(str, folders))}")


def _is_setting(name, value):
    if isinstance(value, list):
        return bool(value) and all(_is_setting(name, each) for each in value)
    plain = isinstance(value, str | int | float | None)
    return plain and re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


def _is_running(file):
    return bool(sys.argv[0]) and Path(sys.argv[0]).resolve() == Path(file).resolve()


def _add_option(parser, name, value, comment):
    option, note = f"--{name.replace('_', '-')}", comment.replace("%", "%%")
    if isinstance(value, bool):
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=value, help=note)
        return
    several = isinstance(value, list)
    kind = str if value is None else type(value[0] if several else value)
    given = " ".join(map(str, value)) if several else value
    default = "" if value is None else f"(default {given})"
    parser.add_argument(
        option,
        type=kind,
        nargs="+" if several else None,
        default=value,
        metavar=name.upper(),
        help=f"{note} {default}".strip() or None,
    )
