"""A vocabulary, and windows of a text: training and held-out sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gptbayes.corpus.numbers import real_number, whole_number


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
        """The vocabulary of a text.

        Parameters
        ----------
        text : str

        Returns
        -------
        Vocabulary
            Its characters in the order of their code points.
        """
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


def _no_windows(block_size):
    return Windows(*(np.empty((0, block_size), dtype=np.int64) for _ in range(2)))


def _quoted(characters):
    return " ".join(repr(character) for character in characters)
