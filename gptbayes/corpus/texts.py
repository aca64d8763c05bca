"""Read a text, and keep its frequent characters."""

from __future__ import annotations

import codecs
import importlib.util
import os
from collections import Counter
from pathlib import Path
from typing import Any

from gptbayes.corpus.numbers import whole_number

UNK = "\N{WHITE SQUARE}"
"""Character that replaces every infrequent character, see `keep_frequent`."""


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file, with any kind of line ending as ``\\n``.

    Parameters
    ----------
    path : path

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the file is missing, a folder, empty, binary, or not UTF-8.

    See Also
    --------
    zen_of_python : A text that needs no file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "poem.txt"
    ...     _ = path.write_bytes(b"one line\\r\\nanother line")
    ...     read_text(path)
    'one line\\nanother line'
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        reason = "which is a folder" if path.is_dir() else "which does not exist"
        raise ValueError(f"text must be a file, got {path}, {reason}")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError(f"text must have characters, got {path}, which is empty")
    if b"\0" in raw:
        raise ValueError(f"text must be UTF-8, got {path}, which is a binary file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be UTF-8, got byte 0x{raw[error.start]:02x} at offset {error.start} "
            f"of {path}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def zen_of_python() -> str:
    """The Zen of Python (Tim Peters, 2004): 856 characters that come with every Python.

    It is decoded from the source of the module ``this``, because importing that module prints it.

    Returns
    -------
    str

    See Also
    --------
    read_text : Read any other text.

    Examples
    --------
    >>> zen_of_python()[:17]
    'The Zen of Python'
    """
    spec: Any = importlib.util.find_spec("this")  # of the standard library, so there is one
    rotated = spec.loader.get_source("this").split('"""')[1]
    return codecs.decode(rotated, "rot13")


def keep_frequent(text: str, n_characters: int) -> str:
    """Keep the most frequent characters of a text and replace all others by `UNK`.

    Deleting the others would make neighbors of characters that are not neighbors in the text.

    Parameters
    ----------
    text : str
    n_characters : int
        Number of distinct characters to keep. Ties go to the character that sorts first.

    Returns
    -------
    str
        As long as ``text``.

    Raises
    ------
    ValueError
        If ``n_characters`` is less than 1.

    Examples
    --------
    >>> keep_frequent("banana", 2)
    '□anana'
    """
    n_characters = whole_number("n_characters", n_characters)
    by_frequency = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))
    kept = {character for character, _ in by_frequency[:n_characters]}
    return "".join(character if character in kept else UNK for character in text)


def source_name(path: str | Path) -> str:
    """The name of a file as text that is valid UTF-8.

    Parameters
    ----------
    path : path

    Returns
    -------
    str
        Bytes of the name that are not UTF-8 are written as ``\\xe9``.
    """
    return os.fsencode(Path(path).name).decode("utf-8", "backslashreplace")
