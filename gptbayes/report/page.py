"""One self-contained HTML page: no script, no network."""

from __future__ import annotations

import jinja2

from gptbayes.findings import Finding
from gptbayes.report.blocks import Section


def page(
    title: str, subtitle: str, headline: list[Finding], sections: list[Section], footer: str
) -> str:
    """Sections as a page, what is to be said first at its top."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gptbayes.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=title, subtitle=subtitle, headline=headline, sections=sections, footer=footer
    )
