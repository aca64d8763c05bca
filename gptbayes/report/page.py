"""One self-contained HTML page: no network, and no script but the page's own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from gptbayes.corpus import printable
from gptbayes.report.blocks import Report, Section
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


def page(report: Report) -> str:
    """Format a report as a page with a list of all its warnings.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
        HTML. Its Content-Security-Policy allows the style and the script of the page, by their
        digests, inlined pictures, and nothing else.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gptbayes.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
    )
    environment.globals.update(sentence=sentence, slug=_slug, json=_json)
    style, script = (_part(name) for name in ("page.css", "draws.js"))
    return environment.get_template("template.html").render(
        **report._asdict(),
        headline=headline(report.sections),
        style=Markup(style),
        script=Markup(script),
        policy=Markup(
            f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
            f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
        ),
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


def _part(name):
    return resources.files("gptbayes.report").joinpath(name).read_text(encoding="utf-8").strip()


def _digest(content):
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _slug(text):
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _json(data: Mapping[str, Any]) -> Markup:
    """Data for a script element, which no text in it can end."""
    shown = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(shown.replace("<", "\\u003c"))
