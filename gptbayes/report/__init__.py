"""The report: one `Analysis` of a fit, formatted as one HTML page.

`analysis` computes, each of the section modules formats what it computed, `page` puts the sections
together. Imports everything that computes or draws; only `page` imports jinja2.
"""

from gptbayes.report.analysis import Analysis
from gptbayes.report.generated_text import texts_page
from gptbayes.report.write import render, write_report

__all__ = ["Analysis", "render", "texts_page", "write_report"]
