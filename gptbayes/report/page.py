"""One self-contained HTML page: no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from gptbayes.corpus import printable
from gptbayes.report.blocks import Section
from gptbayes.report.format import sentence


class Warned(NamedTuple):
    """The warnings of one section, as the headline links them.

    Attributes
    ----------
    title : str
    links : list of (str, str)
        Anchor and first clause of each warning.
    """

    title: str
    links: list[tuple[str, str]]


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Format sections as a page that begins with a list of all their warnings.

    Parameters
    ----------
    title, subtitle : str
    sections : sequence of Section
    footer : str

    Returns
    -------
    str
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gptbayes.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
    )
    environment.globals["sentence"] = sentence
    return environment.get_template("template.html").render(
        title=title,
        subtitle=subtitle,
        headline=headline(sections),
        sections=sections,
        footer=footer,
    )


def headline(sections: Sequence[Section]) -> list[Warned]:
    """Every warning of the sections, by section, with the anchor where it stands.

    Parameters
    ----------
    sections : sequence of Section

    Returns
    -------
    list of Warned
        Sections without warnings are left out.
    """
    found = []
    for section in sections:
        links = [
            (f"{section.id}-warning-{k}", _first_clause(finding.text))
            for k, finding in enumerate(section.warnings, start=1)
        ]
        if links:
            found.append(Warned(section.title, links))
    return found


def _first_clause(text):
    """The first clause of a warning, as a sentence; the rest stands where the link leads."""
    return sentence(text.split("; ")[0].split(". ")[0].removesuffix("."))
