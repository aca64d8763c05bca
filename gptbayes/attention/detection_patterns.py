"""Kinds of places that a head may look at, told from the text alone.

Each class is a function of a text of n characters and gives an ndarray of bool,
``(query_position, key_position)``, n by n: does the place belong to the class, seen from the
position that looks? Never true of the future. Classes overlap: a space may be the previous
character too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np

VOWELS = frozenset("aeiouyæœøıəαεηιουωаеиоуыэюяіїєѣөү")
"""Of the Latin, Greek and Cyrillic scripts, without their marks; y counts as one."""
SEMIVOWELS = frozenset("йў")
"""Letters that decompose to a vowel and a mark, and are none."""


def is_vowel(character: str) -> bool:
    """Whether a character is a vowel, with or without marks, in either case.

    Of scripts other than Latin, Greek and Cyrillic no letter is.
    """
    lower = unicodedata.normalize("NFC", character).lower()
    return lower not in SEMIVOWELS and unicodedata.normalize("NFD", lower)[:1] in VOWELS


def is_letter(character: str) -> bool:
    """Whether a character is part of a word: a letter, or a mark on one."""
    return character.isalpha() or unicodedata.category(character).startswith("M")


def is_punctuation(character: str) -> bool:
    """Whether Unicode files a character under punctuation."""
    return unicodedata.category(character).startswith("P")


def itself(text: str) -> np.ndarray:
    """The position that looks."""
    return np.eye(len(text), dtype=bool)


def previous_character(text: str) -> np.ndarray:
    """The one before."""
    return np.eye(len(text), k=-1, dtype=bool)


def first_position(text: str) -> np.ndarray:
    """The first of the context, seen from later ones."""
    found = np.zeros((len(text), len(text)), dtype=bool)
    found[1:, :1] = True
    return found


def same_character(text: str) -> np.ndarray:
    """Earlier copies of the character that looks."""
    characters = np.array(list(text))
    return (characters[:, None] == characters) & _earlier(text)


def after_same_character(text: str) -> np.ndarray:
    """What came after an earlier copy of the character that looks.

    Where an induction head looks (Olsson et al. 2022); the position itself is not counted.
    """
    found = np.zeros((len(text), len(text)), dtype=bool)
    found[:, 1:] = same_character(text)[:, :-1]
    return found & _earlier(text)


def vowel(text: str) -> np.ndarray:
    """Vowels so far, the position itself included."""
    return _of_kind(text, is_vowel)


def last_vowel(text: str) -> np.ndarray:
    """The last vowel before the position."""
    return _last(vowel(text))


def white_space(text: str) -> np.ndarray:
    """Spaces and line breaks so far, the position itself included."""
    return _of_kind(text, str.isspace)


def last_white_space(text: str) -> np.ndarray:
    """The last space or line break before the position."""
    return _last(white_space(text))


def punctuation(text: str) -> np.ndarray:
    """Punctuation so far, the position itself included."""
    return _of_kind(text, is_punctuation)


def current_word(text: str) -> np.ndarray:
    """Earlier letters of the word that the position is in."""
    letters = np.array([is_letter(character) for character in text])
    word = np.cumsum(~letters)  # a new number after every character that is no letter
    return (word[:, None] == word) & letters[:, None] & letters & _earlier(text)


DETECTION_PATTERNS: dict[str, Callable[[str], np.ndarray]] = {
    "itself": itself,
    "previous character": previous_character,
    "first position": first_position,
    "same character": same_character,
    "after the same character": after_same_character,
    "vowels": vowel,
    "last vowel": last_vowel,
    "spaces and line breaks": white_space,
    "last space or line break": last_white_space,
    "punctuation": punctuation,
    "current word": current_word,
}
"""The roles that `gptbayes.attention.head_roles` looks for, by name."""


def _earlier(text):
    return np.tri(len(text), k=-1, dtype=bool)


def _of_kind(text, test):
    return np.array([test(character) for character in text]) & np.tri(len(text), dtype=bool)


def _last(places):
    """Of the places in each row the last one before the position."""
    before = places & np.tri(len(places), k=-1, dtype=bool)
    return before & (np.cumsum(before[:, ::-1], axis=1)[:, ::-1] == 1)
