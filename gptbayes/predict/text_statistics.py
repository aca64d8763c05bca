"""Statistics of texts: characters, words, and overlap with a reference text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from gptbayes.corpus import Windows

SPAN_LENGTH = 6
"""Length of the spans that `repetition` counts, in characters."""

GAP = "\0"
"""Separator between the pieces of an incomplete text. It does not occur in any text."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def join_windows(windows: Windows, decode: Callable[[np.ndarray], str]) -> str:
    """Reconstruct the text from which windows were cut.

    Parameters
    ----------
    windows : gptbayes.corpus.Windows
        In the order of the text.
    decode : callable
        A function from tokens to text.

    Returns
    -------
    str
        The text, if windows are adjacent or all overlap by the same number of characters.
        Otherwise the windows, separated by `GAP`.
    """
    rows = np.column_stack([windows.x, windows.y[:, -1]])  # (sequence, T + 1)
    width = rows.shape[1]
    for shared in (1, *range(width - 1, 1, -1)):  # adjacent windows share one character
        if np.array_equal(rows[1:, :shared], rows[:-1, width - shared :]):
            return decode(rows[0]) + decode(rows[1:, shared:])
    return GAP.join(decode(row) for row in rows)


def words(text: str) -> list[str]:
    """Split a text into case-folded words: runs of letters, with apostrophes inside.

    Examples
    --------
    >>> words("Don't stop: 3 times.")
    ["don't", 'stop', 'times']
    """
    return [word.casefold() for word in _WORD.findall(text)]


def item_frequencies(
    texts: Sequence[str], items: Callable[[str], Sequence[str | int]]
) -> tuple[list[str | int], np.ndarray]:
    """Compute the relative frequencies of the items of texts.

    Parameters
    ----------
    texts : sequence of str
    items : callable
        A function from a text to its items: `characters`, `bigrams` or `word_lengths`.

    Returns
    -------
    tuple of list and ndarray, (text, item)
        The items of all texts, sorted, and their relative frequencies in each text.
    """
    counts = [Counter(items(text)) for text in texts]
    names = sorted(set().union(*counts))
    table = np.array([[count[name] for name in names] for count in counts], dtype=float)
    return names, table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def characters(text: str) -> list[str]:
    """List the characters of a text."""
    return list(text)


def bigrams(text: str) -> list[str]:
    """List the pairs of adjacent characters of a text."""
    return [first + second for first, second in pairwise(text)]


def word_lengths(text: str) -> list[int]:
    """List the lengths of the words of a text, in characters; [0] for a text without words."""
    return [len(word) for word in words(text)] or [0]


def mean_word_length(texts: Sequence[str], reference: str) -> np.ndarray:
    """Compute the mean word length in characters, (text,); nan for texts without words."""
    return np.array([_mean([len(word) for word in words(text)]) for text in texts])


def known_words(texts: Sequence[str], reference: str) -> np.ndarray:
    """Compute the fraction of words that occur in a reference, (text,); nan without words."""
    known = set(words(reference))
    return np.array([_mean([word in known for word in words(text)]) for text in texts])


def known_word_pairs(texts: Sequence[str], reference: str) -> np.ndarray:
    """Compute the fraction of pairs of adjacent words that occur in a reference, (text,)."""
    known = {pair for piece in reference.split(GAP) for pair in pairwise(words(piece))}
    return np.array([_mean([pair in known for pair in pairwise(words(text))]) for text in texts])


def longest_copied_span(texts: Sequence[str], reference: str) -> np.ndarray:
    """Compute the length in characters of the longest span that occurs in a reference, (text,).

    By doubling and bisection: every part of a span that occurs in the reference occurs there too.
    """
    reference_spans = {}

    def occurs(text, size):
        if size not in reference_spans:
            reference_spans[size] = _spans(reference, size)
        return not reference_spans[size].isdisjoint(_spans(text, size))

    def longest(text):
        above = 1
        while occurs(text, above):  # ends, as no span is longer than its text
            above *= 2
        below = above // 2
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if occurs(text, middle) else (below, middle)
        return below

    return np.array([longest(text) for text in texts], dtype=float)


def repetition(texts: Sequence[str], reference: str) -> np.ndarray:
    """Compute the fraction of spans of six characters that occur earlier in the text, (text,)."""
    n_spans = [max(0, len(text) - SPAN_LENGTH + 1) for text in texts]
    return np.array(
        [
            1 - len(_spans(text, SPAN_LENGTH)) / n if n else np.nan
            for text, n in zip(texts, n_spans, strict=True)
        ]
    )


def _spans(text, size):
    return {text[start : start + size] for start in range(len(text) - size + 1)}


def _mean(values):
    return np.mean(values) if values else np.nan
