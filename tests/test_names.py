"""A run is called by the name of its folder, character by character, whatever the name is."""

from __future__ import annotations

import csv
import html
import io
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.cbook import is_math_text
from problems import small_problem

from gptbayes import fit, plots
from gptbayes.cli import main
from gptbayes.predict import forecast_reliability

NAMES = ["[red]x", r"$\foo$", "a&b<c>", "{{7*7}}", "cost $$5", "-x", "größe und maß", "%d {0} \\n"]


@pytest.fixture
def named(runs, tmp_path, monkeypatch):
    """A fit by NUTS in a folder of each name, in the working directory."""
    monkeypatch.chdir(tmp_path)

    def copies(names, method="nuts"):
        for name in names:
            shutil.copytree(runs[method], name)
        return [f"./{name}" for name in names]

    return copies


def test_compare_and_its_table_call_runs_by_their_names(named, capsys):
    some = NAMES[::2]
    assert main(["compare", *named(some), "--refits", "none", "--out", "table.csv"]) == 0
    shown = capsys.readouterr()
    rows = [line.split("  ")[0] for line in shown.out.splitlines()]
    for name in some:
        assert rows.count(name) == 3  # of LOO, held-out text and single characters
        assert f"warning {name}: " in shown.out
        assert f"{name}: Pareto k too large for" in shown.err
    with open("table.csv", newline="", encoding="utf-8") as file:
        assert sorted(row["fit"] for row in csv.DictReader(file)) == sorted(some)


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_one_run_call_it_by_its_name(name, named, capsys):
    (run,) = named([name])
    figure, weights, page = (f"./{name}.{ending}" for ending in ("png", "csv", "html"))
    targets = ["--figure", figure, "--out", weights]
    assert main(["attention", run, "--contexts", "2", "--no-ablation", *targets]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [name + ".png", name + ".csv"]
    assert Path(figure).read_bytes().startswith(b"\x89PNG")
    assert main(["text", run, "--length", "2", "--texts", "1", "--html", page]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == name + ".html"
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["symmetry", run, "--no-paths", "--no-contraction", "--out", weights]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == name + ".csv"
    assert main(["symmetry", f"./no {name}"]) == 2
    assert f"no {name}" in capsys.readouterr().err


def test_a_report_calls_runs_by_their_names(named, capsys):
    """It is of one and has the others beside it, in tables and in figures of their names."""
    assert main(["report", *named(NAMES[:1]), *named(NAMES[1:], "optimize")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{NAMES[0]}/report.html"
    page = Path(NAMES[0], "report.html").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"({html.escape(name)})" in page
    assert "<c>" not in page


def test_evidence_calls_runs_by_their_names(programs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = NAMES[1::2]
    fit.smc(small_problem("01"), names[0], replicates=2, chains=4, moves=4)
    for name in names[1:]:
        shutil.copytree(names[0], f"./{name}")
    assert main(["evidence", *(f"./{name}" for name in names), "--out", "table.csv"]) == 0
    shown = capsys.readouterr().out
    for name in names:
        assert sum(line.split("  ")[0] == name for line in shown.splitlines()) == 2
        assert f"log evidence of {name} to its prior scales" in shown


def test_figures_of_fits_show_their_names(rng):
    """Every figure with a line for each fit: no name is mathematics, and all are in the legend."""
    p = rng.dirichlet(np.ones(3), size=(20, 4))
    tokens = (p.cumsum(axis=-1) < rng.random((20, 4, 1))).sum(axis=-1)
    forecast = xr.DataArray(p, dims=("held_out_sequence", "position", "token"))
    found = forecast_reliability(dict.fromkeys(NAMES, forecast), tokens, rng)
    evidence = xr.Dataset(
        {
            name: ("fit", np.linspace(1, 5, len(NAMES)))
            for name in ("log_evidence", "se", "thermodynamic", "thermodynamic_se")
        },
        {"fit": NAMES},
    )
    drawn = {
        "pit": lambda ax: plots.plot_pit(found.pit, ax=ax),
        "by position": lambda ax: plots.plot_by_position(found.by_position, ax=ax),
        "evidence": lambda ax: plots.plot_evidence(evidence, ax=ax),
    }
    for draw in drawn.values():
        fig, (ax,) = plots.figure()
        draw(ax)
        fig.savefig(io.BytesIO())
        legend = ax.get_legend()
        texts = [text.get_text() for text in (legend.get_texts() if legend else [])]
        texts += [label.get_text() for label in ax.get_yticklabels()]
        assert not any(is_math_text(text) for text in texts)
        assert set(NAMES) <= {text.replace(r"\$", "$") for text in texts}
        plt.close(fig)
