"""Text in, tokens out: reading, vocabulary, windows.

Tokens are 0-based here and everywhere in Python; `gptbayes.model.problem` adds the one for Stan.
"""

from __future__ import annotations

import codecs
import importlib.util
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

UNK = "\N{WHITE SQUARE}"
"""Stands for every character that was not kept, see `keep_frequent`."""


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a text, sorted; a token is a place in this list.

    Attributes
    ----------
    characters : tuple of str
        One character per token.
    """

    characters: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The vocabulary of a text."""
        return cls(tuple(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Characters to tokens, shape ``(len(text),)``.

        Raises
        ------
        ValueError
            If a character is not in the vocabulary; the message lists those that are.
        """
        index = {character: token for token, character in enumerate(self.characters)}
        unknown = sorted(set(text) - set(index))
        if unknown:
            raise ValueError(
                f"{_shown(unknown)} not in the vocabulary, which has: {_shown(self.characters)}"
            )
        return np.array([index[character] for character in text], dtype=np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens to characters."""
        return "".join(self.characters[token] for token in np.asarray(tokens).ravel())


class Windows(NamedTuple):
    """Sequences of tokens and, for each, the token that comes next.

    Attributes
    ----------
    x : ndarray of int, (sequence, position)
        What the model reads.
    y : ndarray of int, (sequence, position)
        ``y[b, t]`` is the character after ``x[b, t]`` in the text.
    """

    x: np.ndarray
    y: np.ndarray


class Split(NamedTuple):
    """A text cut into what is fitted and what is held out.

    Attributes
    ----------
    training : Windows
        From the beginning of the text.
    held_out : Windows
        From its last part; no character of it is a target in training.
    """

    training: Windows
    held_out: Windows


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file.

    Raises
    ------
    ValueError
        If the file is missing, a folder, empty, binary, or not UTF-8.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"text must be a file, {path} {what}")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError(f"text must have characters, {path} is empty")
    if b"\0" in raw:
        raise ValueError(f"text must be UTF-8, {path} is a binary file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be UTF-8, {path} has byte 0x{raw[error.start]:02x} at offset {error.start}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def zen_of_python() -> str:
    """The Zen of Python (Tim Peters, 2004), 856 characters that every Python carries.

    Read from the source of the module ``this``, which would print it if it were imported.
    """
    source = importlib.util.find_spec("this").loader.get_source("this")
    rotated = source.split('"""')[1]
    return codecs.decode(rotated, "rot13")


def keep_frequent(text: str, n_characters: int) -> str:
    """Keep the most frequent characters and write `UNK` for all the others.

    Dropping the others instead would put characters side by side that never were.

    Parameters
    ----------
    text : str
    n_characters : int
        How many to keep; ties go to the character that sorts first.
    """
    if n_characters < 1:
        raise ValueError(f"the number of characters to keep must be at least 1, got {n_characters}")
    by_frequency = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))
    kept = {character for character, _ in by_frequency[:n_characters]}
    return "".join(character if character in kept else UNK for character in text)


def cut(tokens: np.ndarray, block_size: int, *, stride: int | None = None) -> Windows:
    """Cut tokens into windows of length ``block_size``.

    Parameters
    ----------
    tokens : ndarray of int, (n,)
    block_size : int
    stride : int, optional
        Distance between the beginnings of windows. The default, ``block_size``, makes them
        disjoint: every character is a target once, and the likelihood is one of the text. With
        a smaller stride characters count several times, and the posterior is too narrow.

    Returns
    -------
    Windows
        ``(sequence, position)``; a remainder at the end is left out.
    """
    stride = block_size if stride is None else stride
    if block_size < 1 or stride < 1:
        raise ValueError(f"block_size and stride must be positive, got {block_size} and {stride}")
    starts = np.arange(0, max(len(tokens) - block_size, 0), stride)
    at = starts[:, None] + np.arange(block_size)
    tokens = np.asarray(tokens)
    return Windows(tokens[at], tokens[at + 1]) if len(starts) else _no_windows(block_size)


def split(
    tokens: np.ndarray,
    block_size: int,
    *,
    batch_size: int | None = None,
    held_out_fraction: float = 0.2,
    held_out_size: int = 256,
    stride: int | None = None,
) -> Split:
    """Training windows from the beginning of a text, held-out windows from its end.

    Parameters
    ----------
    tokens : ndarray of int, (n,)
    block_size : int
    batch_size : int, optional
        How many training windows; all there are by default.
    held_out_fraction : float
        Share of the windows, from the end of the text, that is never trained on.
    held_out_size : int
        At most so many held-out windows are kept: the first ones of that last part.
    stride : int, optional
        As in `cut`, for the training windows; held-out windows are always disjoint.

    Raises
    ------
    ValueError
        If the text is shorter than two windows, or has fewer windows than asked for.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be a positive integer, got {block_size}")
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"held_out_fraction must be between 0 and 1, got {held_out_fraction}")
    n_windows = (len(tokens) - 1) // block_size
    if n_windows < 2:
        raise ValueError(
            f"text must fill two windows of {block_size} characters, one to fit and one to hold "
            f"out, that is {2 * block_size + 1} characters, got {len(tokens)}"
        )
    n_held_out = min(max(1, round(held_out_fraction * n_windows)), n_windows - 1)
    boundary = (n_windows - n_held_out) * block_size
    training = cut(tokens[: boundary + 1], block_size, stride=stride)
    if batch_size is not None and batch_size > len(training.x):
        raise ValueError(
            f"batch_size must be at most {len(training.x)}, the windows of {block_size} characters "
            f"in the first part of this text, got {batch_size}"
        )
    held_out = cut(tokens[boundary:], block_size)
    return Split(
        Windows(*(part[:batch_size] for part in training)),
        Windows(*(part[:held_out_size] for part in held_out)),
    )


def _no_windows(block_size):
    return Windows(*(np.empty((0, block_size), dtype=np.int64) for _ in range(2)))


def _shown(characters):
    return " ".join(repr(character) for character in characters)
