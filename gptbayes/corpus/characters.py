"""Show the characters of a text: one place for each, whatever it does to a terminal or a page."""

from __future__ import annotations

import functools
import unicodedata

_PICTURES = {
    **{chr(code): chr(0x2400 + code) for code in range(32)},  # ␀ to ␟
    "\x7f": "\N{SYMBOL FOR DELETE}",
    "\t": "\N{RIGHTWARDS ARROW TO BAR}",
    "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}",
    " ": "\N{OPEN BOX}",
}
_OTHER_SPACE = "\N{SHOULDERED OPEN BOX}"
_NO_SHAPE = "\N{SYMBOL FOR SUBSTITUTE FORM TWO}"
_CARRIER = "\N{DOTTED CIRCLE}"
_BLANK_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_VARIATION_SELECTORS = (
    range(0x180B, 0x1810),
    range(0xFE00, 0xFE10),
    range(0xE0100, 0xE01F0),
)


def visible(text: str, *, keep: str = "") -> str:
    """Show every character in a place of its own.

    Characters of a text are what is modelled, and some have no shape, join others or change how a
    terminal or a page shows what follows.

    Parameters
    ----------
    text : str
    keep : str
        Characters that stay as they are, such as the space between words.

    Returns
    -------
    str
        Spaces as ␣ (others than the usual one ⍽), line breaks ↵, tabs ⇥, other ASCII control
        characters their pictures such as ␛, combining characters on a dotted circle, and ␦ for
        all others without a shape: format characters, surrogates, private and unassigned code
        points, variation selectors and blank letters.

    Examples
    --------
    >>> visible("to be\\n")
    'to␣be↵'
    """
    return "".join(c if c in keep else _visible(c) for c in text)


def printable(text: str) -> str:
    """A name or a sentence as it can be printed: characters that change its surroundings are shown.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        Control, format and surrogate characters are shown as by `visible`; spaces, line breaks,
        tabs, letters and their marks stay as they are.
    """
    if text.isprintable():  # nearly always, and figures are long
        return text
    harmful = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        _visible(c) if unicodedata.category(c) in harmful and c not in "\n\t" else c for c in text
    )


@functools.lru_cache(maxsize=4096)
def _visible(character):
    if character in _PICTURES:
        return _PICTURES[character]
    category = unicodedata.category(character)
    code = ord(character)
    selects = any(code in each for each in _VARIATION_SELECTORS)
    if selects or category[0] == "C" or character in _BLANK_LETTERS or code == 0x034F:
        return _NO_SHAPE
    if category[0] == "Z":
        return _OTHER_SPACE if category == "Zs" else _PICTURES["\n"]
    joins = category[0] == "M" or 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FF
    joins |= 0x1F3FB <= code <= 0x1F3FF  # skin tones
    return _CARRIER + character if joins else character
