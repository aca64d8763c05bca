"""Text is shown as what it is: every character in its place, none of it markup."""

from __future__ import annotations

import io
import sys
import unicodedata

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from problems import TEXT
from rich.cells import cell_len

from gptbayes import fit, plots
from gptbayes.cli import main
from gptbayes.cli.terminal import check_targets, columns, console
from gptbayes.corpus import printable, visible
from gptbayes.findings import Finding
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.report.blocks import (
    Abstract,
    Findings,
    Link,
    Paragraph,
    Report,
    Section,
    Summary,
    Table,
    Text,
)
from gptbayes.report.markdown import markdown
from gptbayes.report.page import page

ESCAPES = "\x1b[31mred \x1b]0;t\x07"
MARKUP = ["[red]x[/red]", ":smile:", r"$\foo$", "cost $$5", "_x", "{{ 1 }}", "<b>x</b>", "%d"]
HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")


@given(st.characters())
def test_every_character_is_one_visible_cell(character):
    shown = visible(character)
    wide = unicodedata.east_asian_width(character) in "WF" or cell_len(character) == 2
    assert cell_len(shown) == 2 if wide and shown == character else cell_len(shown) == 1
    assert not any(unicodedata.category(c)[0] == "C" or c.isspace() for c in shown)
    assert visible(character, keep=character) == character


@given(st.text(st.characters()))
def test_what_is_printed_leaves_its_surroundings_alone(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(c) in HARMFUL and c not in "\n\t" for c in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown


@pytest.mark.parametrize("text", [*MARKUP, ESCAPES, "\u202eabc", "caf\udce9"])
def test_a_terminal_shows_text_literally(text):
    file = io.StringIO()
    printed = console(file=file, width=200)
    table = columns("name", text)
    table.add_row(visible(text, keep=" "), "1")
    printed.print(text, table, soft_wrap=True)
    said = file.getvalue()
    bell = visible("\a")  # rich leaves it out of what it prints
    assert said.splitlines()[0] == printable(text).replace(bell, "")
    assert visible(text, keep=" ") in said
    assert "\x1b" not in said


@pytest.mark.parametrize("text", [*MARKUP, ESCAPES, "\u202eabc", "caf\udce9"])
def test_a_page_shows_text_literally(text):
    blocks = [
        Paragraph(text),
        Table(text, [text], [[text, Link(text, "#x")]], "x"),
        Findings([Finding(False, text)]),
        Text(text, text, [], text),
    ]
    abstract = Abstract([Summary(text, text, "x")], Table(text, [text], [[text]], "y"))
    report = Report(text, text, [Section("x", text, text, blocks)], text, abstract)
    html = page(report)
    html.encode("utf-8")
    assert not any(unicodedata.category(c) in HARMFUL and c not in "\n\t" for c in html)
    assert "<b>x" not in html
    if text == "{{ 1 }}":
        assert text in html
    shown = markdown(report, "files")
    assert not any(unicodedata.category(c) in HARMFUL and c not in "\n\t" for c in shown)


@pytest.mark.parametrize("name", [*MARKUP, ESCAPES, "\u202eabc", "caf\udce9", r"\$", "$"])
def test_a_figure_shows_names_literally(name):
    table = xr.Dataset(
        {"per_character": ("fit", [-1.0, -2.0]), "per_character_se": ("fit", [0.1, 0.1])},
        {"fit": [name, "other"]},
    )
    fig, (ax,) = plots.figure()
    plots.plot_held_out(table, baselines={name: -1.5}, ax=ax)
    fig.savefig(io.BytesIO())
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    for label in (ax.get_yticklabels()[0].get_text(), *legend):
        assert not is_math_text(label)
        assert printable(label) == label
        if name in MARKUP:
            assert label.replace(r"\$", "$").lstrip("\N{THIN SPACE}") == name
    assert len(legend) == 1
    plt.close(fig)


@given(st.text(st.characters(), min_size=1, max_size=6))
def test_characters_in_figures_are_no_mathematics(text):
    label = plots.drawable(text)
    assert not is_math_text(label)
    assert not label.startswith("_")
    assert not any(unicodedata.category(c)[0] == "C" for c in label)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    text = f"{TEXT}{ESCAPES} e\u0301 \u202e$x$ _y [red] <b>"
    problem = make_problem(stage("01"), text, source="caf\udce9\x1b.txt", batch_size=5)
    return fit.prior(problem, tmp_path_factory.mktemp("runs") / "[red]x $y$", draws=8)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_terminal_that_cannot_show_a_character_loses_no_work(
    run, tmp_path, monkeypatch, encoding
):
    out, html = io.BytesIO(), tmp_path / "text.html"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    arguments = ["--length", "40", "--texts", "1", "--html", str(html)]
    assert main(["text", str(run), *arguments]) == 0
    sys.stdout.flush()
    said = out.getvalue().decode(encoding)
    assert "[31mred" in said
    assert "\x1b" not in said
    assert "\x1b" not in html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments", [["--html", "folder"], ["--out", "none/x.csv"], ["--html", "none/x.html"]]
)
def test_targets_are_tried_before_the_work(run, tmp_path, monkeypatch, capsys, arguments):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["text", str(tmp_path / "no run"), *arguments]) == 2
    assert arguments[1].split("/")[0] in capsys.readouterr().err
    assert main(["attention", str(run), "--figure", "x.foo"]) == 2
    assert "--figure must end in one of" in capsys.readouterr().err


def test_a_target_stays_as_it_is(tmp_path):
    there, not_there = tmp_path / "there", tmp_path / "not there"
    there.write_text("kept")
    check_targets(there, not_there, None)
    assert there.read_text() == "kept"
    assert not not_there.exists()


def test_no_number_is_replaced_by_a_default(tmp_path, capsys):
    for method in ("nuts", "pathfinder", "prior"):
        arguments = ["fit", "--stage", "01", "--method", method, "--draws", "0"]
        assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
        assert "must be a positive integer, got 0" in capsys.readouterr().err
    assert main(["fit", "--stage", "01", "--chains", "0", "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_a_figure_of_r_hats_that_are_all_undefined():
    fig, (ax,) = plots.figure()
    plots.plot_r_hat({"x": xr.DataArray(np.full(3, np.nan), dims="scalar")}, limit=1.01, ax=ax)
    plt.close(fig)
