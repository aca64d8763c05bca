"""References of the methods that a report uses, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from gptbayes import __version__


def bibtex(keys: Sequence[str]) -> list[str]:
    """The BibTeX entries of some references.

    Parameters
    ----------
    keys : sequence of str
        Of ``references.bib`` beside this module.

    Returns
    -------
    list of str
        In the order of the keys.

    Examples
    --------
    >>> bibtex(["zhang2022pathfinder"])[0].splitlines()[0]
    '@article{zhang2022pathfinder,'
    """
    source = resources.files("gptbayes.report").joinpath("references.bib")
    entries = source.read_text(encoding="utf-8").replace("VERSION", __version__).strip()
    by_key = {_key(entry): entry for entry in entries.split("\n\n")}
    return [by_key[key] for key in keys]


def _key(entry):
    found = re.match(r"@\w+\{([^,]+),", entry)
    if found is None:
        raise ValueError(f"a BibTeX entry must begin with @type{{key, got {entry[:40]!r}")
    return found[1]
