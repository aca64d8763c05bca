"""What a reader counts in text: characters, words, and what was seen before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from gptbayes.corpus import Windows

SPAN = 6
"""Characters of a span that is looked for in the text before it."""

BETWEEN = "\0"
"""Stands between the pieces of a text of which parts are missing; no character of any text."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def whole_text(windows: Windows, decode: Callable[[np.ndarray], str]) -> str:
    """The text that windows were cut from.

    Parameters
    ----------
    windows : Windows
        In the order of the text: side by side, or overlapping all by the same number of
        characters.
    decode : callable
        From tokens to characters.

    Returns
    -------
    str
        Where windows are neither they come one after the other, with `BETWEEN` between them.
    """
    rows = np.column_stack([windows.x, windows.y[:, -1]])  # (sequence, T + 1)
    width = rows.shape[1]
    for shared in (1, *range(width - 1, 1, -1)):  # even those side by side share one character
        if np.array_equal(rows[1:, :shared], rows[:-1, width - shared :]):
            return decode(rows[0]) + decode(rows[1:, shared:])
    return BETWEEN.join(decode(row) for row in rows)


def words(text: str) -> list[str]:
    """Runs of letters, whatever their case; an apostrophe may be inside."""
    return [word.casefold() for word in _WORD.findall(text)]


def shares(
    texts: Sequence[str], items: Callable[[str], Sequence[str | int]]
) -> tuple[list[str | int], np.ndarray]:
    """Relative frequencies of what texts consist of.

    Parameters
    ----------
    texts : sequence of str
    items : callable
        Takes a text apart: `characters`, `bigrams`, `word_lengths`.

    Returns
    -------
    tuple of list and ndarray, (text, item)
        All items of all texts, sorted, and their shares of each text.
    """
    counts = [Counter(items(text)) for text in texts]
    names = sorted(set().union(*counts))
    table = np.array([[count[name] for name in names] for count in counts], dtype=float)
    return names, table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def characters(text: str) -> list[str]:
    """Its characters."""
    return list(text)


def bigrams(text: str) -> list[str]:
    """Its pairs of adjacent characters."""
    return [first + second for first, second in pairwise(text)]


def word_lengths(text: str) -> list[int]:
    """Of each word, in characters; 0 if there are none."""
    return [len(word) for word in words(text)] or [0]


def mean_word_length(texts: Sequence[str], reference: str) -> np.ndarray:
    """In characters, (text,); nan for texts without words, here and below."""
    return np.array([_mean([len(word) for word in words(text)]) for text in texts])


def known_words(texts: Sequence[str], reference: str) -> np.ndarray:
    """Share of words that occur in a reference, (text,)."""
    known = set(words(reference))
    return np.array([_mean([word in known for word in words(text)]) for text in texts])


def known_pairs(texts: Sequence[str], reference: str) -> np.ndarray:
    """Share of pairs of adjacent words that occur as such in a reference, (text,)."""
    known = {pair for piece in reference.split(BETWEEN) for pair in pairwise(words(piece))}
    return np.array([_mean([pair in known for pair in pairwise(words(text))]) for text in texts])


def longest_copied(texts: Sequence[str], reference: str) -> np.ndarray:
    """Length of the longest span that occurs in a reference too, in characters, (text,).

    Found by doubling and bisection: all that is inside of a copied span is copied too.
    """
    of_reference = {}

    def is_copied(text, size):
        if size not in of_reference:
            of_reference[size] = _spans(reference, size)
        return not of_reference[size].isdisjoint(_spans(text, size))

    def longest(text):
        above = 1
        while is_copied(text, above):  # no text has a span that is longer than itself
            above *= 2
        below = above // 2
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if is_copied(text, middle) else (below, middle)
        return below

    return np.array([longest(text) for text in texts], dtype=float)


def repetition(texts: Sequence[str], reference: str) -> np.ndarray:
    """Share of spans of six characters that occurred before in the same text, (text,)."""
    n_spans = [max(0, len(text) - SPAN + 1) for text in texts]
    return np.array(
        [
            1 - len(_spans(text, SPAN)) / n if n else np.nan
            for text, n in zip(texts, n_spans, strict=True)
        ]
    )


def _spans(text, size):
    return {text[start : start + size] for start in range(len(text) - size + 1)}


def _mean(values):
    return np.mean(values) if values else np.nan
