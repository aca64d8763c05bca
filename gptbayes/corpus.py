"""Read a text, encode it as tokens, split it into windows, and show its characters.

Tokens are 0-based here and everywhere in Python. `gptbayes.model.problem` makes them 1-based for
Stan. Imports nothing of the package.
"""

from __future__ import annotations

import codecs
import functools
import importlib.util
import math
import operator
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNK = "\N{WHITE SQUARE}"
"""Character that replaces every infrequent character, see `keep_frequent`."""

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


@dataclass(frozen=True)
class Vocabulary:
    """The distinct characters of a text; a token is the index of a character.

    Attributes
    ----------
    characters : tuple of str
        One character per token, sorted.

    Raises
    ------
    ValueError
        If there are none, they are not different single characters, or one cannot be saved: half
        of a surrogate pair, which has no UTF-8, or the null character, which ends a string in C.

    Examples
    --------
    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.characters
    ('a', 'b', 'n')
    >>> vocabulary.encode("nab").tolist()
    [2, 0, 1]
    >>> vocabulary.decode([1, 0, 2])
    'ban'
    """

    characters: tuple[str, ...]

    def __post_init__(self):
        if not self.characters or len(set(self.characters)) != len(self.characters):
            raise ValueError(
                "a vocabulary needs characters that are all different, got "
                f"{_quoted(self.characters) or 'none'}"
            )
        bad = [c for c in self.characters if len(c) != 1 or c == "\0" or "\ud800" <= c <= "\udfff"]
        if bad:
            raise ValueError(
                f"a vocabulary needs single characters that have UTF-8, got {_quoted(bad)}"
            )

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The vocabulary of a text."""
        return cls(tuple(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Convert characters to tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        ndarray of int, (len(text),)

        Raises
        ------
        ValueError
            If a character is not in the vocabulary. The message lists the vocabulary.
        """
        index = {character: token for token, character in enumerate(self.characters)}
        unknown = sorted(set(text) - set(index))
        if unknown:
            raise ValueError(
                f"text has {_quoted(unknown)} not in the vocabulary, which has: "
                f"{_quoted(self.characters)}"
            )
        return np.array([index[character] for character in text], dtype=np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """Convert tokens to characters.

        Parameters
        ----------
        tokens : iterable of int
            0-based; an array of any shape is read in C order.

        Returns
        -------
        str
        """
        return "".join(self.characters[token] for token in np.asarray(tokens).ravel())


class Windows(NamedTuple):
    """Sequences of input tokens and their targets.

    Attributes
    ----------
    x : ndarray of int, (sequence, position)
        Input tokens.
    y : ndarray of int, (sequence, position)
        Targets: ``y[b, t]`` is the token that follows ``x[b, t]`` in the text.
    """

    x: np.ndarray
    y: np.ndarray


class Split(NamedTuple):
    """Training and held-out windows of one text.

    Attributes
    ----------
    training : Windows
        From the first part of the text.
    held_out : Windows
        From the last part of the text. None of its targets is a training target.
    """

    training: Windows
    held_out: Windows


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


def source_name(path: str | Path) -> str:
    """The name of a file, as text that any file format can hold.

    File names are bytes, and not always UTF-8; those that are not are written as ``\\xe9``.

    Parameters
    ----------
    path : path
    """
    return os.fsencode(Path(path).name).decode("utf-8", "backslashreplace")


def whole_number(name: str, value, *, least: int = 1) -> int:
    """A count or a size as a Python integer, from any integer type.

    Parameters
    ----------
    name : str
        For the message.
    value : int or NumPy integer
    least : int

    Raises
    ------
    ValueError
        If it is not an integer, or less than ``least``. Booleans are not integers here.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or number < least:
        wanted = {0: "0 or a positive integer", 1: "a positive integer"}
        raise ValueError(
            f"{name} must be {wanted.get(least, f'an integer of at least {least}')}, got {value!r}"
        )
    return number


def real_number(name: str, value, wanted: str = "a finite number") -> float:
    """A finite number as a Python float, from any number type.

    Parameters
    ----------
    name : str
        For the message.
    value : float, int or NumPy scalar
    wanted : str
        For the message too.

    Raises
    ------
    ValueError
        If it is not a number, or not finite.
    """
    number = math.nan
    if not isinstance(value, str | bytes):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


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


def cut(tokens: np.ndarray, block_size: int, *, stride: int | None = None) -> Windows:
    """Cut a sequence of tokens into windows.

    Parameters
    ----------
    tokens : ndarray of int, (n,)
    block_size : int
        Length of each window.
    stride : int, optional
        Distance between the starts of successive windows. The default, ``block_size``, gives
        disjoint windows: each character is a target at most once, and the product over windows is
        a likelihood of the text. With a smaller stride, characters are counted several times and
        the posterior is too narrow.

    Returns
    -------
    Windows
        Each array ``(sequence, position)``. Tokens after the last full window are left out.

    Raises
    ------
    ValueError
        If ``block_size`` or ``stride`` is less than 1.

    See Also
    --------
    split : Training and held-out windows of a text.

    Examples
    --------
    >>> x, y = cut(np.arange(7), block_size=3)
    >>> x
    array([[0, 1, 2],
           [3, 4, 5]])
    >>> y
    array([[1, 2, 3],
           [4, 5, 6]])
    """
    block_size = whole_number("block_size", block_size)
    stride = block_size if stride is None else whole_number("stride", stride)
    starts = np.arange(0, max(len(tokens) - block_size, 0), stride)
    index = starts[:, None] + np.arange(block_size)  # (sequence, position)
    tokens = np.asarray(tokens)
    return Windows(tokens[index], tokens[index + 1]) if len(starts) else _no_windows(block_size)


def split(
    tokens: np.ndarray,
    block_size: int,
    *,
    batch_size: int | None = None,
    held_out_fraction: float = 0.2,
    held_out_size: int = 256,
    stride: int | None = None,
) -> Split:
    """Split a text into training windows and, from its last part, held-out windows.

    Parameters
    ----------
    tokens : ndarray of int, (n,)
    block_size : int
        Length of each window.
    batch_size : int, optional
        Number of training windows, taken from the start of the text. By default all of them.
    held_out_fraction : float
        Fraction of the windows that is held out, from the end of the text.
    held_out_size : int
        Maximum number of held-out windows, taken from the start of the held-out part.
    stride : int, optional
        As in `cut`, for the training windows. Held-out windows are always disjoint.

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        If a size or fraction is out of range, or if the text is shorter than two windows or
        has fewer than ``batch_size`` training windows.

    See Also
    --------
    cut : Windows of a whole text.
    gptbayes.model.problem.make_problem : The same split, with a stage and its priors.

    Examples
    --------
    >>> training, held_out = split(np.arange(101), block_size=5, held_out_fraction=0.25)
    >>> training.x.shape, held_out.x.shape
    ((15, 5), (5, 5))
    """
    block_size = whole_number("block_size", block_size)
    held_out_size = whole_number("held_out_size", held_out_size)
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size)
    held_out_fraction = real_number("held_out_fraction", held_out_fraction, "between 0 and 1")
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"held_out_fraction must be between 0 and 1, got {held_out_fraction}")
    n_windows = (len(tokens) - 1) // block_size
    if n_windows < 2:
        raise ValueError(
            f"text must fill two windows of {block_size} characters, one to fit and one to hold "
            f"out, which takes {2 * block_size + 1} characters, got {len(tokens)}"
        )
    n_held_out = min(max(1, round(held_out_fraction * n_windows)), n_windows - 1)
    boundary = (n_windows - n_held_out) * block_size
    training = cut(tokens[: boundary + 1], block_size, stride=stride)
    if batch_size is not None and batch_size > len(training.x):
        raise ValueError(
            f"batch_size must be at most {len(training.x)}, the number of training windows of "
            f"{block_size} characters in this text, got {batch_size}"
        )
    held_out = cut(tokens[boundary:], block_size)
    return Split(
        Windows(*(part[:batch_size] for part in training)),
        Windows(*(part[:held_out_size] for part in held_out)),
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


def _no_windows(block_size):
    return Windows(*(np.empty((0, block_size), dtype=np.int64) for _ in range(2)))


def _quoted(characters):
    return " ".join(repr(character) for character in characters)
