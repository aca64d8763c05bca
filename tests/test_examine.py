"""Everything about what chains disagree on, put together, on a real fit and by the command."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from test_cli import run as gptbayes_command

from gptbayes.diagnostics.examination import examine, load_examination, save_examination
from gptbayes.diagnostics.modes import find_modes
from gptbayes.diagnostics.verdict import VERDICTS
from gptbayes.inference import open_run
from gptbayes.report import render
from gptbayes.report.chains import _modes


@pytest.fixture(scope="module")
def examined(runs):
    steps = []
    found = examine(open_run(runs["nuts"]), learned=False, on_step=steps.append)
    return found, steps


def test_an_examination_of_a_real_fit(examined):
    found, steps = examined
    assert steps == ["aligning", "mixing", "modes", "paths", "dimensions"]
    assert found.verdict.name in VERDICTS
    names = ["raw weights", "aligned weights", "invariants", "log probabilities", "log posterior"]
    assert list(found.kinds) == names == list(found.verdict.evidence["quantity"].values)
    assert 0 < found.n_redundant < found.n_parameters
    assert ("rotate_query_key", True, True) in found.symmetries
    assert float(found.stack.chains["weight"].sum()) == pytest.approx(1)
    assert (found.connections["barrier"] >= 0).all()
    assert found.contraction is None


def test_alignment_moves_weights_and_nothing_else_that_is_looked_at(examined):
    found, _ = examined
    raw, aligned = found.kinds["raw weights"], found.kinds["aligned weights"]
    assert np.abs(raw - aligned).max() > 0.1
    assert float((raw**2).sum()) == pytest.approx(float((aligned**2).sum()))


def test_the_command_says_it_and_writes_the_table(runs, tmp_path):
    table = tmp_path / "mixing.csv"
    done = gptbayes_command("symmetry", runs["nuts"], "--no-paths", "--no-learned", "--out", table)
    assert done.returncode == 0, done.stderr
    for words in ("rotate_query_key", "verdict:", "invariants", "stacking weights", "dimensions"):
        assert words in done.stdout
    with table.open() as lines:
        rows = {row["quantity"]: row for row in csv.DictReader(lines)}
    assert float(rows["log probabilities"]["r_hat_max"]) > 0.9


def test_what_is_no_nuts_fit_is_refused_in_one_line(runs):
    done = gptbayes_command("symmetry", runs["pathfinder"])
    assert done.returncode == 2
    assert done.stderr.strip().endswith("chains are those of nuts, got a fit by pathfinder")


def test_modes_are_described_in_the_report(examined, runs):
    """Each chain taken for a mode of its own: a tree, what they predict differently, a warning."""
    found, _ = examined
    idata = open_run(runs["nuts"])
    label = found.modes.label.copy(data=found.modes.label["of_chain"].values)
    tree, table, mass, different = _modes(found._replace(modes=find_modes(idata, label)))
    assert tree.source
    assert [row[:2] for row in table.rows] == [["1", "1"], ["2", "1"]]
    assert "do not estimate the posterior mass" in mass.text
    assert all(row[0] == "1 and 2" for row in different.rows)


def test_what_took_minutes_is_kept_for_the_report(examined, runs, tmp_path):
    found, _ = examined
    assert load_examination(tmp_path) is None
    save_examination(found, tmp_path)
    back = load_examination(tmp_path)
    np.testing.assert_array_equal(back.connections["barrier"], found.connections["barrier"])
    assert back.connections.attrs["sd"] == found.connections.attrs["sd"]
    assert back.local is None
    (tmp_path / "symmetry.nc").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"symmetry\.nc is corrupted"):
        load_examination(tmp_path)
    page = render({"nuts": open_run(runs["nuts"])}, back)
    assert "The log posterior along paths" in page
