"""Written text with its numbers: a block of the report, and a page of its own."""

from __future__ import annotations

from collections.abc import Mapping

import arviz as az
import numpy as np
import xarray as xr

from gptbayes import __version__, plots
from gptbayes.diagnostics.sampler import quick_findings
from gptbayes.inference import problem_of
from gptbayes.report.blocks import Character, Paragraph, Section, Text
from gptbayes.report.format import METHOD_NAMES, headline, percent
from gptbayes.report.page import page

LEVELS = (0.05, 0.15, 0.35, 0.6)
"""Probabilities between the shades under a written character."""
UNSURE = 0.4
"""An interval of a probability wider than this is marked."""
KINDS = (
    "A coherent text is written by one draw of the weights from beginning to end: a sample of "
    "models. In a marginal text each character is drawn from the posterior mean of its "
    "probability, and no single model wrote it."
)
LEGEND = (
    "The bar under a character goes from dark to light with its probability; a grey ground marks "
    f"those whose probability the posterior does not know within {UNSURE}. Point at a character "
    "for its numbers."
)


def text_block(title: str, scored: xr.Dataset) -> Text:
    """A text as a block, the numbers of each character beside it.

    Parameters
    ----------
    title : str
    scored : Dataset (new_position)
        As `gptbayes.predict.score_text` returns it.
    """
    rows = [scored.isel(new_position=k) for k in range(scored.sizes["new_position"])]
    characters = [
        Character("↵\n" if row["character"].item() == "\n" else row["character"].item(), *each)
        for row, each in zip(rows, map(_of_character, rows), strict=True)
    ]
    return Text(title[:1].upper() + title[1:], scored.attrs["prompt"], characters, sentence(scored))


def level(probability: float) -> int:
    """The shade of a probability, 0 to 4."""
    return int(np.searchsorted(LEVELS, probability))


def unsure(row: xr.Dataset) -> bool:
    """Whether the posterior does not know the probability of a character."""
    return bool(row["upper"] - row["lower"] > UNSURE)


def sentence(scored: xr.Dataset) -> str:
    """What the characters of a text have in common."""
    total, within = (float(scored[name].mean()) for name in ("total", "mutual_information"))
    if np.isnan(scored["mcse_mean"]).all():
        return f"Entropy of the next character {total:.2f} nats on average; one set of weights."
    error = float(xr.concat([scored["total_mcse"], scored["mutual_information_mcse"]], "x").max())
    n_unsure = int((scored["upper"] - scored["lower"] > UNSURE).sum())
    return (
        f"Entropy of the next character {total:.2f} nats on average, {within:.2f} of them from not "
        f"knowing the weights (Monte Carlo errors at most {error:.2f}); probability unknown within "
        f"{UNSURE} for {n_unsure} of {scored.sizes['new_position']} characters."
    )


def texts_page(idata: az.InferenceData, titled: Mapping[str, xr.Dataset], *, seed: int) -> str:
    """Texts as a page of their own, where pointing at a character shows its numbers.

    Parameters
    ----------
    idata : InferenceData
        The fit that wrote them.
    titled : mapping of str to Dataset (new_position)
        Texts by their titles, as `gptbayes.predict.score_text` returns them.
    seed : int
        Of the texts.

    Returns
    -------
    str
        HTML.
    """
    problem = problem_of(idata)
    blocks = [
        Paragraph(f"{KINDS} {LEGEND}"),
        *(text_block(title, scored) for title, scored in titled.items()),
    ]
    return page(
        f"Text from the posterior of a small GPT: {problem.stage.title.lower()}",
        f"Stage {problem.stage.number} on {problem.source}, "
        f"{METHOD_NAMES[idata.attrs['method']]}, {idata.attrs['target']}.",
        headline(idata, quick_findings(idata)),
        [Section("texts", "What does the model write?", blocks)],
        f"Written by gptbayes {__version__} with seed {seed}.",
    )


def _of_character(row):
    """Numbers in words, shade, and whether it is marked."""
    shown = plots.visible(row["character"].item())
    p = f"{shown}: probability {float(row['mean']):.3f}"
    if np.isnan(row["mcse_mean"]):
        lines = [f"{p}, one set of weights: no interval", f"entropy {float(row['total']):.3f} nats"]
        return lines, level(row["mean"]), False
    lower, upper, mcse = (float(row[name]) for name in ("lower", "upper", "mcse_mean"))
    lines = [
        f"{p}, {percent(row.attrs['prob'])} interval {lower:.3f} to {upper:.3f}, Monte Carlo "
        f"error {mcse:.4f}",
        f"entropy of what comes here {_nats(row, 'total')} nats:",
        f"{_nats(row, 'expected')} were the weights known,",
        f"{_nats(row, 'mutual_information')} from not knowing them",
    ]
    return lines, level(row["mean"]), unsure(row)


def _nats(row, name):
    return f"{float(row[name]):.3f} ± {float(row[f'{name}_mcse']):.3f}"
