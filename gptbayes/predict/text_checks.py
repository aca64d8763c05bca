"""Posterior predictive checks that a reader of text would make.

Would one take the held-out text for something the model wrote? What is observed is text that no
one fitted; what is replicated are texts of the same length that draws of the posterior go on with
from the same beginning. If the model were right all of them would be exchangeable, so that ranks
of the observed one are honest tail probabilities, without the double use of data that makes those
of posterior predictive checks conservative (Gelman, Meng & Stern 1996; Bayarri & Berger 2000).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.findings import FEW_CHARACTERS, Finding
from gptbayes.inference import problem_of
from gptbayes.predict import text_statistics
from gptbayes.predict.generated_text import Written, coherent
from gptbayes.stats.uniformity import holm

ALPHA = 0.05
"""Of all checks together, after Holm's correction."""

FEW_WORDS = 20
"""A text of fewer is too short for checks that say much."""

FREQUENCIES: dict[str, Callable[[str], Sequence[str | int]]] = {
    "characters": text_statistics.characters,
    "bigrams": text_statistics.bigrams,
    "word lengths": text_statistics.word_lengths,
}


class TextChecks(NamedTuple):
    """Checks of a fit against its held-out text.

    Attributes
    ----------
    checks : Dataset (check, text)
        As `check` returns it.
    frequencies : dict of str to Dataset
        Of characters, bigrams and word lengths, as `frequencies` returns it.
    observed : str
        The held-out text behind its first window.
    written : Written
        The model's texts; their ``prompt`` is the first window of the held-out text.
    reference : str
        The training text.
    """

    checks: xr.Dataset
    frequencies: dict[str, xr.Dataset]
    observed: str
    written: Written
    reference: str

    @property
    def findings(self) -> list[Finding]:
        """One sentence for each check, failures as warnings, and what limits their power."""
        ok, sentences = (self.checks[name].values for name in ("ok", "sentence"))
        found = [Finding(bool(o), str(s)) for o, s in zip(ok, sentences, strict=True)]
        return [*found, *(Finding(False, note) for note in self.checks.attrs["notes"])]


def check_text(
    idata: az.InferenceData,
    rng: np.random.Generator,
    *,
    n_texts: int = 400,
    prob: float = 0.9,
    group: str = "posterior",
) -> TextChecks:
    """Check what a fit writes against the text that was held out from it.

    Parameters
    ----------
    idata : InferenceData
    rng : numpy.random.Generator
    n_texts : int
        How many the model writes, each by a draw of its own as long as there are some; a mode
        writes all of them. With fewer than 320 no two-sided check can stand out among eight.
    prob : float
        Mass of the intervals.
    group : {"posterior", "prior"}

    Returns
    -------
    TextChecks

    Raises
    ------
    ValueError
        If ``n_texts`` is less than 2 or the problem has no held-out text.
    """
    problem = problem_of(idata)
    if not problem.held_out.x.size:
        raise ValueError("checks of text need held-out text, this problem has none")
    decode, block_size = problem.vocabulary.decode, problem.design.block_size
    held_out = text_statistics.whole_text(problem.held_out, decode).split(text_statistics.BETWEEN)[
        0
    ]
    reference = text_statistics.whole_text(problem.training, decode)
    prompt, observed = held_out[:block_size], held_out[block_size:]
    written = coherent(idata, prompt, len(observed), rng, n_texts=n_texts, group=group)
    return TextChecks(
        check(observed, written.texts, reference, prob=prob),
        {kind: frequencies(observed, written.texts, kind, prob=prob) for kind in FREQUENCIES},
        observed,
        written,
        reference,
    )


def check(
    observed: str, replicated: Sequence[str], reference: str, *, prob: float = 0.9
) -> xr.Dataset:
    """Rank a text among texts that a model wrote.

    Frequencies of characters, of bigrams and of word lengths are vectors: each text has a
    distance (total variation) from the mean of all the others, and only one that is too far
    counts against the model. The other checks are two-sided: mean word length, shares of words
    and of pairs of adjacent words that occur in the reference, the longest span copied from it,
    and the share of spans of six characters that occurred before in the same text. Words are runs
    of letters, whatever their case; an apostrophe may be inside.

    Parameters
    ----------
    observed : str
    replicated : sequence of str
        Of the same length.
    reference : str
        The training text.
    prob : float
        Mass of the intervals.

    Returns
    -------
    Dataset (check, text)
        ``observed`` (check) and ``replicated`` (check, text); ``mean``, ``lower`` and ``upper``
        of the replicated. ``p``, the tail probability (1 + how many are as extreme) / (n + 1), of
        the smaller tail and doubled where two-sided. Ties count in full: if the model is right it
        is at most alpha with probability alpha or less. ``p_mcse``, its Monte Carlo error;
        ``p_holm``, corrected for the number of checks; ``ok``, unless that is below 0.05; ``unit``;
        ``sentence``, all this in words.
        What is counted in words is nan where there are none, and ranks below all other values.
        In ``attrs``: ``prob`` and ``notes``, a list of sentences on what makes the checks weak.

    Raises
    ------
    ValueError
        If ``prob`` is not between 0 and 1, there are fewer than two replicated texts, or they are
        not all as long as the observed one.
    """
    _refuse(observed, replicated, prob)
    texts = [observed, *replicated]
    values = np.stack([each.of(texts, reference) for each in CHECKS.values()])  # (check, text)
    sides = [each.two_sided for each in CHECKS.values()]
    p, p_mcse = np.array([_tail(*each) for each in zip(values, sides, strict=True)]).T
    p_holm = holm(p)
    found = xr.Dataset(
        {
            "observed": ("check", values[:, 0]),
            "replicated": (("check", "text"), values[:, 1:]),
            **_interval(values[:, 1:], "check", prob),
            "p": ("check", p),
            "p_mcse": ("check", p_mcse),
            "p_holm": ("check", p_holm),
            "ok": ("check", ~(p_holm < ALPHA)),
            "unit": ("check", [each.unit for each in CHECKS.values()]),
        },
        {"check": list(CHECKS)},
        attrs={"prob": prob, "notes": _notes(observed, values[:, 1:], reference)},
    )
    sentences = [_sentence(each, found.sel(check=name)) for name, each in CHECKS.items()]
    return found.assign(sentence=("check", sentences))


def frequencies(
    observed: str, replicated: Sequence[str], kind: str = "characters", *, prob: float = 0.9
) -> xr.Dataset:
    """How often each character, bigram or word length comes in a text, and in those of a model.

    Parameters
    ----------
    observed, replicated, prob
        As for `check`.
    kind : {"characters", "bigrams", "word lengths"}

    Returns
    -------
    Dataset (character), (bigram) or (word_length)
        ``observed``; ``mean``, ``lower`` and ``upper`` of the replicated; shares of a text. All
        that occurs in any text, sorted; a text without words has one of length 0.

    Raises
    ------
    ValueError
        As `check`, and for an unknown kind.
    """
    if kind not in FREQUENCIES:
        raise ValueError(f"kind must be one of {', '.join(FREQUENCIES)}, got {kind!r}")
    _refuse(observed, replicated, prob)
    names, shares = text_statistics.shares([observed, *replicated], FREQUENCIES[kind])
    dim = kind.removesuffix("s").replace(" ", "_")
    columns = {"observed": (dim, shares[0]), **_interval(shares[1:].T, dim, prob)}
    return xr.Dataset(columns, {dim: names}, attrs={"prob": prob})


class Check(NamedTuple):
    """One statistic of text.

    Attributes
    ----------
    of : callable
        From texts and a reference to values (text,).
    says : str
        Around the observed value and what the model's texts have.
    too_high, too_low : str
        What it means that the observed one is.
    unit : str
    two_sided : bool
    """

    of: Callable[[Sequence[str], str], np.ndarray]
    says: str
    too_high: str
    too_low: str = ""
    unit: str = "%"
    two_sided: bool = True


def _distance(kind: str, noun: str) -> Check:
    def of(texts, reference):
        shares = text_statistics.shares(texts, FREQUENCIES[kind])[1]
        others = (shares.sum(axis=0) - shares) / (len(texts) - 1)
        return np.abs(shares - others).sum(axis=1).round(12) / 2  # equal texts are exactly tied

    return Check(
        of,
        f"frequencies of {noun} in the held-out text are {{observed}} away from those of all "
        "other texts, in each of the model's texts {model}",
        f"the model has other frequencies of {noun} than the text",
        two_sided=False,
    )


CHECKS = {
    "characters": _distance("characters", "characters"),
    "bigrams": _distance("bigrams", "pairs of characters"),
    "word lengths": _distance("word lengths", "word lengths"),
    "mean word length": Check(
        text_statistics.mean_word_length,
        "words of the held-out text have {observed} on average, the model's {model}",
        "the model's words are too short",
        "the model's words are too long",
        unit="characters",
    ),
    "known words": Check(
        text_statistics.known_words,
        "of the held-out text's words {observed} occur in the training text, of the model's "
        "{model}",
        "the model makes up words",
        "the model keeps to words that it has read, more than the text does",
    ),
    "known pairs of words": Check(
        text_statistics.known_pairs,
        "of the held-out text's pairs of adjacent words {observed} occur in the training text, of "
        "the model's {model}",
        "the model does not know which words go together",
        "the model keeps to pairs of words that it has read, more than the text does",
    ),
    "longest copied span": Check(
        text_statistics.longest_copied,
        "the longest span that the held-out text shares with the training text has {observed}, "
        "that of the model's texts {model}",
        "the model shares less with the text that it has read than unseen text does",
        "the model copies more than the unseen text does: memorising",
        unit="characters",
    ),
    "repetition": Check(
        text_statistics.repetition,
        f"of the held-out text's spans of {text_statistics.SPAN} characters {{observed}} occurred "
        "in it before, of the model's {model}",
        "the model repeats itself less than the text does",
        "the model repeats itself more than the text does",
    ),
}
"""What is checked, in this order."""


def _tail(values, two_sided):
    """Tail probability of the first among all, and its Monte Carlo error."""
    if np.isnan(values).all():
        return np.nan, np.nan
    observed, *others = np.where(np.isnan(values), -np.inf, values)
    n = len(others)
    high = (1 + np.sum(others >= observed)) / (n + 1)
    low = (1 + np.sum(others <= observed)) / (n + 1)
    tail, sides = (min(high, low), 2) if two_sided else (high, 1)
    # For the error the share is pulled towards one half by half a text on either side, so that a
    # tail in which no text, or every text, lies has an error too.
    pulled = (n * min(tail, 1.0) + 0.5) / (n + 1)
    return min(1.0, sides * tail), sides * np.sqrt(pulled * (1 - pulled) / n)


def _interval(values, dim, prob):
    """Mean and interval over texts of (dim, text), of those that are there."""
    found = {name: np.full(len(values), np.nan) for name in ("mean", "lower", "upper")}
    for i, row in enumerate(values):
        there = row[np.isfinite(row)]
        if there.size:
            found["mean"][i] = there.mean()
            found["lower"][i], found["upper"][i] = np.quantile(
                there, [(1 - prob) / 2, (1 + prob) / 2]
            )
    return {name: (dim, row) for name, row in found.items()}


def _notes(observed, replicated, reference):
    notes = []
    n_words, n_texts = len(text_statistics.words(observed)), replicated.shape[1]
    if len(observed) < FEW_CHARACTERS or n_words < FEW_WORDS:
        notes.append(
            f"the held-out text has {len(observed)} characters and {n_words} words: checks are "
            "weak, and what passes may fail with more text"
        )
    least = round(2 * len(CHECKS) / ALPHA)  # 2 / (n + 1) times so many is just below
    if n_texts < least:
        notes.append(
            f"with {n_texts} texts by the model no two-sided check can stand out among "
            f"{len(CHECKS)}: that takes {least}"
        )
    n_wordless = int(np.isnan(replicated[list(CHECKS).index("mean word length")]).sum())
    if n_wordless:
        notes.append(f"{n_wordless} of the model's {n_texts} texts have no words")
    if text_statistics.BETWEEN in reference:
        notes.append("the training text has gaps: words and spans that lie across are not known")
    return notes


def _sentence(check, row):
    observed, mean, lower, upper = (
        _number(float(row[name]), check.unit) for name in ("observed", "mean", "lower", "upper")
    )
    interval = f"{round(100 * row.attrs['prob'])} % interval {lower} to {upper} {check.unit}"
    model = f"{mean} {check.unit} ({interval})" if mean else "none: no words"
    observed = f"{observed} {check.unit}" if observed else "none: no words"
    says = check.says.format(observed=observed, model=model)
    if np.isnan(row["p"]):
        return f"{says}: cannot be checked"
    p = f"p = {float(row['p']):.2g} ± {float(row['p_mcse']):.1g}"
    if row["ok"] and row["p"] >= ALPHA:
        return f"{says}: {p}"
    corrected = f"{float(row['p_holm']):.2g} after correction for {len(CHECKS)} checks"
    if row["ok"]:
        return f"{says}: {p}, {corrected}, which is not remarkable among so many"
    high = not check.two_sided or row["observed"] >= row["replicated"].median()
    return f"{says}: {p}, {corrected}: {check.too_high if high else check.too_low}"


def _number(value, unit):
    """With a decimal where it says something; nothing if there is no value."""
    if np.isnan(value):
        return ""
    value = 100 * value if unit == "%" else value
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _refuse(observed, replicated, prob):
    if not 0 < prob < 1:
        raise ValueError(f"prob must be between 0 and 1, got {prob}")
    if len(replicated) < 2:
        raise ValueError(f"checks need at least 2 replicated texts, got {len(replicated)}")
    lengths = {len(text) for text in replicated}
    if lengths != {len(observed)} or not observed:
        raise ValueError(
            f"replicated texts must be as long as the observed one, which has {len(observed)} "
            f"characters and at least 1, got {', '.join(map(str, sorted(lengths)))}"
        )
