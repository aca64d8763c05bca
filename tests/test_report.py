from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import pytest
from problems import small_problem

from gptbayes import fit
from gptbayes.findings import Finding
from gptbayes.inference import open_run
from gptbayes.report import Analysis, render, write_report
from gptbayes.report.blocks import Findings, Report, Section
from gptbayes.report.model import starting_points
from gptbayes.report.page import page as page_of

pytestmark = pytest.mark.usefixtures("programs")


class Page(HTMLParser):
    """Tags and their attributes, and the words between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.code = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        kind = dict(self.tags[-1][1]).get("type") if self.tags else None
        if self.tags and self.tags[-1][0] == "script" and kind is None:
            self.code += data
        elif not (self.tags and self.tags[-1][0] in ("script", "style")):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text(encoding="utf-8"))


def test_sections(page):
    assert [a["id"] for tag, a in page.tags if tag == "section"] == [
        "abstract",
        "model",
        "diagnostics",
        "predictions",
        "attention",
        "chains",
        "sensitivity",
        "methods",
    ]


def test_one_file_and_no_network(page):
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object")]
    assert not [a for tag, a in page.tags if tag == "script" and "src" in a]
    assert not [a for _, a in page.tags if "style" in a or any(n.startswith("on") for n in a)]
    sources = [a["src"] for tag, a in page.tags if tag == "img"]
    assert len(sources) >= 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert all(link.startswith("#") for link in links)


def test_pictures_have_words_for_those_who_do_not_see_them(page):
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")


def test_numbers_agree_with_the_draws(page, runs):
    words = " ".join(page.words)
    idata = open_run(runs["nuts"])
    assert f"{int(idata.sample_stats['diverging'].sum())} divergent transitions" in words
    assert "ESS below 400" in words
    assert "nan" not in re.findall(r"[a-z]+", words)


def test_all_fits_are_named(page):
    words = " ".join(page.words)
    for name in ("NUTS (nuts)", "Pathfinder (pathfinder)", "posterior mode (optimize)"):
        assert name in words


def test_the_same_twice(runs, report):
    path = write_report(runs["nuts"], [runs["pathfinder"], runs["optimize"]])
    assert path == runs["nuts"] / "report.html"
    assert path.read_text(encoding="utf-8") == report.read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["pathfinder", "optimize", "prior"])
def test_every_method_has_a_report(runs, method):
    words = " ".join(Page(render(Analysis(open_run(runs[method]), method))).words)
    assert "Chains and modes" in words


def test_the_text_is_escaped(tmp_path):
    text = "<script>alert('&amp;')</script>" * 6
    problem = small_problem("01", text=text, source="<b>bold</b>")
    folder = fit.nuts(problem, tmp_path / "run", chains=2, iter_warmup=50, iter_sampling=50)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    scripts = [a for tag, a in page.tags if tag == "script"]
    assert [a.get("type") for a in scripts] == [*["application/json"] * (len(scripts) - 1), None]
    assert "alert(" not in page.code
    assert "<b>bold</b>" in " ".join(page.words)
    assert "Stage 01 has no attention" in " ".join(page.words)


def test_a_power_posterior_is_named(tmp_path):
    problem = small_problem("02", likelihood_weight=0.25)
    folder = fit.pathfinder(problem, tmp_path / "run", paths=1, draws=30)
    words = " ".join(Page(write_report(folder).read_text(encoding="utf-8")).words)
    assert "The target is not the posterior: power posterior, weight 0.25" in words


def test_a_run_is_given_once(runs, tmp_path):
    shutil.copytree(runs["optimize"], tmp_path / "optimize")
    with pytest.raises(ValueError, match="each run can be given once"):
        write_report(runs["optimize"], [runs["optimize"]])


def test_the_headline_links_every_warning(page):
    """As many links as warnings, in their order, and each leads to a warning of the same words."""
    warnings = [a["id"] for tag, a in page.tags if tag == "li" and a.get("class") == "warning"]
    links = [a["href"].removeprefix("#") for tag, a in page.tags if tag == "a"]
    assert len(warnings) > 5
    assert [link for link in links if "-warning-" in link] == warnings
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert anchors.issuperset(links)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(anchors)
    assert f"{len(warnings)} warnings in this report" in page.words


def test_the_headline_names_what_each_warning_is_about(report):
    html = report.read_text(encoding="utf-8")
    words = re.findall(r'<a href="#[a-z-]+-warning-[0-9]+">(.*?)</a>', html)
    assert len(words) > 5
    assert len(set(words)) == len(words)


def test_the_page_is_small(report):
    assert report.stat().st_size < 3_000_000


def test_a_report_without_warnings_says_so():
    sections = [Section("one", "One", "?", [Findings([Finding(True, "fine")])])]
    assert "No warnings" in page_of(Report("", "", sections, ""))
    sections.append(Section("two", "Two", "?", [Findings([Finding(False, "bad")])]))
    html = page_of(Report("", "", sections, ""))
    assert 'href="#two-warning-1">Bad.' in html
    assert 'id="two-warning-1"' in html


@pytest.mark.parametrize(
    ("init", "superchains", "words"),
    [
        ("random", None, "random points with twice the standard deviation of the prior"),
        ("pathfinder", None, "one draw from each of 8 Pathfinder paths"),
        ("optimize", None, "8 posterior modes found from random points"),
        ("optimize", 2, "4 chains share each of 2 starting points"),
        ("pathfinder", 4, "one draw from each of 4 Pathfinder paths"),
    ],
)
def test_starting_points_are_those_of_the_fit(init, superchains, words):
    settings = {"chains": 8, "superchains": superchains, "init": init}
    assert words in starting_points("nuts", settings)
    assert ("not over-dispersed" in starting_points("nuts", settings)) == (init != "random")
