"""The report: one `Analysis` of a fit, formatted as one HTML page, as Markdown or as PDF.

`analysis` computes, each of the section modules formats what it computed, `write` puts the sections
together, and `page`, `markdown` and `pdf` give them a form. Imports everything that computes or
draws; only `page` imports jinja2.
"""

from gptbayes.report.analysis import Analysis
from gptbayes.report.comparison import write_comparison
from gptbayes.report.generated_text import texts_page
from gptbayes.report.write import FORMATS, render, write_report

__all__ = ["FORMATS", "Analysis", "render", "texts_page", "write_comparison", "write_report"]
