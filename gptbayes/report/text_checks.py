"""Subsection "Posterior predictive checks" of the section on posterior predictive text."""

from __future__ import annotations

from gptbayes import plots
from gptbayes.predict import TextChecks
from gptbayes.report.blocks import Findings, Heading, Paragraph, picture
from gptbayes.report.format import percent


def text_check_blocks(found: TextChecks) -> list:
    """Held-out text among texts simulated from the model."""
    fig, (ax,) = plots.figure(height=0.42 * found.checks.sizes["statistic"] + 1.2)
    plots.plot_text_checks(found.checks, ax=ax)
    fig2, axes = plots.figure(2, height=2.8)
    plots.plot_frequencies(found.frequencies["characters"], ax=axes[0])
    plots.plot_frequencies(found.frequencies["word lengths"], ax=axes[1])
    plots.share_legend(fig2)
    n = len(found.generated.texts)
    return [
        Heading("Does held-out text look like text simulated from the model?"),
        Paragraph(
            f"{n} coherent texts continue the first held-out context, each as long as the "
            f"{len(found.observed)} characters of held-out text that follow it. If the model were "
            "right, the held-out text would be exchangeable with them; p is the share of texts "
            "that are at least as extreme."
        ),
        picture(
            fig,
            name="text-statistics",
            alt="text statistics of the held-out text among those of simulated texts",
            caption="Statistics of the held-out text among those of simulated texts. Each row has "
            "a scale of its own.",
        ),
        Findings(found.findings),
        picture(
            fig2,
            name="frequencies",
            alt="frequencies of characters and of word lengths",
            caption="Relative frequencies of characters and of word lengths: held-out text, and "
            f"mean and {percent(found.checks.attrs['prob'])} interval of simulated texts.",
        ),
    ]
