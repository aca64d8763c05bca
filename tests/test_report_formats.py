"""The abstract, the methods, and the forms of a report beside HTML."""

from __future__ import annotations

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
from browser import executable
from PIL import Image
from test_cli import run as gptbayes_command

from gptbayes.findings import Finding
from gptbayes.inference import open_run
from gptbayes.report import Analysis, write_comparison, write_report
from gptbayes.report.abstract import abstract
from gptbayes.report.blocks import Bibliography, Findings, Paragraph, Report, Section, Table
from gptbayes.report.markdown import markdown
from gptbayes.report.methods import methods_section
from gptbayes.report.pdf import browser_of
from gptbayes.report.references import bibtex


@pytest.fixture(scope="module")
def analyses(runs):
    """Analyses by method; that of NUTS has the others beside it."""
    found = {name: Analysis(open_run(runs[name]), name) for name in ("pathfinder", "optimize")}
    nuts = Analysis(open_run(runs["nuts"]), "nuts", tuple(found.values()))
    return {**found, "nuts": nuts, "prior": Analysis(open_run(runs["prior"]), "prior")}


def texts(analysis):
    return {each.label: each.text for each in abstract(analysis).paragraphs}


def test_the_abstract_says_what_the_analysis_says(analyses):
    analysis = analyses["nuts"]
    found, table = texts(analysis), analysis.held_out.table
    per_character = float(table["per_character"][0])
    assert f"{per_character:.3f} ± " in found["Prediction"]
    assert f"{analysis.n_parameters:,} weights" in found["Model and data"]
    assert f"{analysis.problem.n_targets:,} next characters" in found["Model and data"]
    worst = float(analysis.convergence["r_hat_max"].sel(quantity="log probabilities"))
    assert f"at most {worst:.3f}" in found["Reliability"]
    n_pass = int((analysis.exact_marginals["p_value"].dropna("direction") >= 0).sum())
    assert f" {n_pass} tests against exact marginals" in found["Reliability"]
    loss = analysis.head_ablation.average["mean"].sel(source="posterior").max()
    assert f": {float(loss):+.3f} (" in found["Attention"]


def test_every_predictor_is_on_the_side_of_its_difference(analyses):
    """Better, worse or undecided, by two standard errors of the paired difference."""
    analysis = analyses["nuts"]
    text, table = texts(analysis)["Prediction"], analysis.held_out.table
    clear = re.search(r"paired difference, the fit is (.*?)\. ", text)
    better, _, worse = (clear[1] if clear else "").partition("worse than ")
    equal = re.search(r"The differences? from (.*?) (?:is|are) within two standard errors", text)
    sides = {"better": better, "worse": worse, "equal": equal[1] if equal else ""}
    for name in ("pathfinder", "optimize", *analysis.held_out.baselines):
        one = table.sel(fit=name)
        z = -float(one["difference"] / one["difference_se"])
        side = "better" if z > 2 else "worse" if z < -2 else "equal"
        assert name in sides[side]


@pytest.mark.parametrize("method", ["pathfinder", "optimize", "prior"])
def test_every_method_has_an_abstract(analyses, method):
    found = texts(analyses[method])
    assert "Modes" not in found
    assert all(text.endswith(".") and "nan" not in text.split() for text in found.values())


def test_methods_have_every_setting_and_cite_what_was_run(analyses):
    section = methods_section(analyses["nuts"])
    words = " ".join(each.text for each in section.blocks if isinstance(each, Paragraph))
    settings = json.loads(analyses["nuts"].idata.attrs["settings"])
    for name in ("chains", "iter_warmup", "iter_sampling", "max_treedepth", "adapt_delta"):
        assert f"{settings[name]}" in words
    (references,) = (each for each in section.blocks if isinstance(each, Bibliography))
    keys = [re.match(r"@\w+\{(\w+),", each)[1] for each in references.entries]
    assert {"hoffman2014nuts", "zhang2022pathfinder", "lakshminarayanan2017ensembles"} <= set(keys)
    assert len(keys) == len(set(keys))
    alone = methods_section(analyses["prior"]).blocks[-1].entries
    assert not any("hoffman" in each or "zhang" in each for each in alone)


def test_bibtex_is_balanced():
    (entry,) = bibtex(["vehtari2021rhat"])
    assert entry.count("{") == entry.count("}")
    assert r"B{\"u}rkner" in entry


def test_markdown_of_every_block():
    fence = "```"
    blocks = [
        Paragraph("a *star* and <b>"),
        Findings([Finding(True, "fine"), Finding(False, "bad")]),
        Table("Numbers.", ["", "x|y"], [["a", "1"]], "numbers"),
        Bibliography([f"@misc{{x, note = {{{fence}}}}}"]),
    ]
    shown = markdown(Report("T", "S", [Section("s", "One", "Why?", blocks)], "F"), "files")
    assert r"a \*star\* and \<b\>" in shown
    assert "- **OK:** Fine.\n- **Warning:** Bad." in shown
    assert "|  | x\\|y |\n| --- | ---: |\n| a | 1 |" in shown
    assert "````bibtex\n" in shown


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    run = folder / "nuts"
    shutil.copytree(runs["nuts"], run)
    path = write_report(run, formats=("md", "html"), export=folder / "export")
    return SimpleNamespace(path=path, run=run, folder=folder / "export")


def test_export_has_every_table_and_figure(exported):
    html = (exported.run / "report.html").read_text(encoding="utf-8")
    names = {path.suffix: [] for path in exported.folder.iterdir()}
    for path in exported.folder.iterdir():
        names[path.suffix].append(path.stem)
    assert sorted(names[".svg"]) == sorted(names[".png"])
    assert len(names[".svg"]) == html.count("<img ")
    assert len(names[".csv"]) == html.count("<caption>")
    assert names[".bib"] == ["references"]
    for stem in names[".svg"]:
        root = ET.parse(exported.folder / f"{stem}.svg").getroot()
        width = float(root.get("width").removesuffix("pt")) / 72
        assert width <= 7.3, stem
    with open(exported.folder / "predictions-held-out-density.csv", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    table = Analysis(open_run(exported.run)).held_out.table
    assert float(rows[0]["per character"].split()[0]) == pytest.approx(
        float(table["per_character"][0]), abs=5e-4
    )


def test_nothing_is_cut_off_from_a_figure(exported):
    """The margin is white: no label, number or legend runs over it."""
    paths = sorted(exported.folder.glob("*.png"))
    assert len(paths) > 8
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("L"))
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert min(edge.min() for edge in edges) == 255, path.stem


def test_markdown_has_its_pictures_beside_it(exported):
    assert exported.path == exported.run / "report.md"
    shown = exported.path.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", shown)
    assert len(pictures) > 8
    assert all((exported.run / each).is_file() for each in pictures)
    assert "## Abstract" in shown


def test_a_pdf_is_printed(runs, tmp_path):
    if executable() is None:
        pytest.skip("a PDF is printed by Chromium, and there is none")
    shutil.copytree(runs["optimize"], tmp_path / "run")
    done = gptbayes_command("report", tmp_path / "run", "--format", "pdf")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert not (tmp_path / "run" / "report.html").exists()


def test_without_a_browser_a_pdf_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.delenv("GPTBAYES_BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="a PDF is printed by Chromium, and there is none"):
        browser_of()
    with pytest.raises(ValueError, match="formats must be of html, md, pdf, got doc"):
        write_report(tmp_path / "none", formats=("doc",))


def test_several_runs_on_one_page(runs, tmp_path):
    folder = tmp_path / "runs"
    for name in ("nuts", "pathfinder", "optimize"):
        shutil.copytree(runs[name], folder / name)
    (folder / "nuts" / "report.html").write_text("x")
    for name in ("pathfinder", "optimize"):
        (folder / name / "report.html").unlink(missing_ok=True)
    path = write_comparison([folder / n for n in ("nuts", "pathfinder")], tmp_path / "ladder.html")
    html = path.read_text(encoding="utf-8")
    assert '<a href="runs/nuts/report.html">nuts</a>' in html
    assert "runs/pathfinder/report.html" not in html
    found = Analysis(open_run(runs["nuts"]))
    per_character = float(found.held_out.table["per_character"][0])
    assert f"{per_character:.3f} ± " in html
    assert found.verdict.name in html


def test_the_command_compares_on_a_page(runs, tmp_path):
    target = tmp_path / "page.html"
    done = gptbayes_command(
        "compare", runs["nuts"], runs["optimize"], "--refits", "none", "--html", target
    )
    assert done.returncode == 0, done.stderr
    html = target.read_text(encoding="utf-8")
    assert "Leave-one-sequence-out" in html
    assert np.all([name in html for name in ("nuts", "optimize", "Dirichlet-multinomial")])


def test_views_for_bertviz_and_circuitsvis(runs, tmp_path):
    target = tmp_path / "views.json"
    done = gptbayes_command("attention", runs["nuts"], "--no-ablation", "--views", target)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(target.read_text(encoding="utf-8"))
    n = len(one["tokens"])
    assert set(one["views"]) >= {"mean", "lower", "upper"}
    single = [name for name in one["views"] if name.startswith("chain")]
    assert len(single) == 4
    for name in ("mean", *single):
        view = np.array(one["views"][name])  # (layer, head, query position, key position)
        assert view.shape == (1, 3, n, n)
        np.testing.assert_allclose(view.sum(axis=-1), 1, atol=n * 5e-5)
        assert not np.triu(view, 1).any()
    lower, upper = (np.array(one["views"][name]) for name in ("lower", "upper"))
    assert (lower <= np.array(one["views"]["mean"]) + 1e-4).all()
    assert (np.array(one["views"]["mean"]) <= upper + 1e-4).all()
