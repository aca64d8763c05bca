"""Detection patterns: the key positions that define the role of a head, given the text.

Each pattern is a function of a text of n characters. It returns an ndarray of bool,
``(query_position, key_position)``, n by n, which is True where the key position belongs to the
pattern of the query position. Future positions never belong to it. Patterns overlap: the previous
token may be a space. The first five are those of the head detector of TransformerLens and Olsson et
al. (2022); a token is a character.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np

VOWELS = frozenset("aeiouyæœøıəαεηιουωаеиоуыэюяіїєѣөү")
"""Latin, Greek and Cyrillic vowels without diacritics, including y."""
SEMIVOWELS = frozenset("йў")
"""Letters that decompose into a vowel and a diacritic but are not vowels."""


def is_vowel(character: str) -> bool:
    """Return whether a character is a Latin, Greek or Cyrillic vowel, in either case.

    Examples
    --------
    >>> [is_vowel(character) for character in "aÉsй"]
    [True, True, False, False]
    """
    lower = unicodedata.normalize("NFC", character).lower()
    return lower not in SEMIVOWELS and unicodedata.normalize("NFD", lower)[:1] in VOWELS


def is_letter(character: str) -> bool:
    """Return whether a character is part of a word: a letter or a combining mark."""
    return character.isalpha() or unicodedata.category(character).startswith("M")


def is_punctuation(character: str) -> bool:
    """Return whether the Unicode category of a character is punctuation."""
    return unicodedata.category(character).startswith("P")


def current_token(text: str) -> np.ndarray:
    """The query position."""
    return np.eye(len(text), dtype=bool)


def previous_token(text: str) -> np.ndarray:
    """The position before the query position."""
    return np.eye(len(text), k=-1, dtype=bool)


def first_token(text: str) -> np.ndarray:
    """The first position of the context, for later query positions."""
    found = np.zeros((len(text), len(text)), dtype=bool)
    found[1:, :1] = True
    return found


def duplicate_token(text: str) -> np.ndarray:
    """Earlier positions of the same token."""
    characters = np.array(list(text))
    return (characters[:, None] == characters) & _earlier(text)


def induction(text: str) -> np.ndarray:
    """Positions after earlier positions of the same token (Olsson et al. 2022).

    The query position does not count.

    Examples
    --------
    >>> np.argwhere(induction("abab")).tolist()  # query and key positions
    [[2, 1], [3, 2]]
    """
    found = np.zeros((len(text), len(text)), dtype=bool)
    found[:, 1:] = duplicate_token(text)[:, :-1]
    return found & _earlier(text)


def vowel(text: str) -> np.ndarray:
    """Vowels up to and including the query position."""
    return _of_kind(text, is_vowel)


def last_vowel(text: str) -> np.ndarray:
    """The last vowel before the query position."""
    return _last(vowel(text))


def white_space(text: str) -> np.ndarray:
    """White space up to and including the query position."""
    return _of_kind(text, str.isspace)


def last_white_space(text: str) -> np.ndarray:
    """The last white space before the query position."""
    return _last(white_space(text))


def punctuation(text: str) -> np.ndarray:
    """Punctuation up to and including the query position."""
    return _of_kind(text, is_punctuation)


def current_word(text: str) -> np.ndarray:
    """Earlier letters of the word at the query position."""
    letters = np.array([is_letter(character) for character in text])
    word = np.cumsum(~letters)  # increases at each character that is not a letter
    return (word[:, None] == word) & letters[:, None] & letters & _earlier(text)


DETECTION_PATTERNS: dict[str, Callable[[str], np.ndarray]] = {
    "current token": current_token,
    "previous token": previous_token,
    "first token": first_token,
    "duplicate token": duplicate_token,
    "induction": induction,
    "vowels": vowel,
    "last vowel": last_vowel,
    "white space": white_space,
    "last white space": last_white_space,
    "punctuation": punctuation,
    "current word": current_word,
}
"""The patterns of `gptbayes.attention.head_roles`, by the name of the role."""


def _earlier(text):
    return np.tri(len(text), k=-1, dtype=bool)


def _of_kind(text, test):
    return np.array([test(character) for character in text]) & np.tri(len(text), dtype=bool)


def _last(pattern):
    """The last position of the pattern before each query position."""
    before = pattern & np.tri(len(pattern), k=-1, dtype=bool)
    return before & (np.cumsum(before[:, ::-1], axis=1)[:, ::-1] == 1)
