"""Would one take the held-out text for something that the model wrote?"""

from __future__ import annotations

import arviz as az
import numpy as np

from gptbayes import plots
from gptbayes.findings import Finding
from gptbayes.predict import TextChecks, check_text
from gptbayes.report.blocks import Findings, Heading, Paragraph, picture
from gptbayes.report.format import percent


def check_blocks(idata: az.InferenceData, rng: np.random.Generator) -> list:
    """Posterior predictive checks that a reader of text would make."""
    found = check_text(idata, rng)
    fig, (ax,) = plots.figure(width=9, height=0.42 * found.checks.sizes["check"] + 1.2)
    plots.plot_text_checks(found.checks, ax=ax)
    fig2, axes = plots.figure(2, width=9.4, height=3.0)
    plots.plot_frequencies(found.frequencies["characters"], ax=axes[0])
    plots.plot_frequencies(found.frequencies["word lengths"], ax=axes[1])
    n = len(found.written.texts)
    return [
        Heading("Would one take the held-out text for something that it wrote?"),
        Paragraph(
            f"{n} coherent texts go on from the beginning of the held-out text, each as long as "
            f"what follows there, {len(found.observed)} characters. If the model were right, that "
            "would be one more of them: p is the share of texts that are as extreme."
        ),
        picture(
            fig,
            alt="checks of text: the held-out text among the model's",
            caption="Each row has a scale of its own.",
        ),
        Findings(check_findings(found)),
        picture(
            fig2,
            alt="frequencies of characters and of word lengths",
            caption="Shares of characters and of word lengths: the held-out text, and mean and "
            f"{percent(found.checks.attrs['prob'])} interval of the model's texts.",
        ),
    ]


def check_findings(found: TextChecks) -> list[Finding]:
    """A sentence for each check, the failures as warnings, and what makes them weak."""
    checks = found.checks
    said = [
        Finding(bool(checks["ok"].sel(check=name)), str(checks["sentence"].sel(check=name).values))
        for name in checks["check"].values
    ]
    return [*said, *(Finding(False, note) for note in checks.attrs["notes"])]
