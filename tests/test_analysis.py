"""Everything about what chains disagree on, put together, on a real fit and by the command."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from test_cli import run as gptbayes_command

from gptbayes.diagnostics.examination import load_examination
from gptbayes.diagnostics.modes import find_modes
from gptbayes.diagnostics.verdict import VERDICTS
from gptbayes.inference import open_run
from gptbayes.report import Analysis, render
from gptbayes.report.chains import mode_blocks


@pytest.fixture(scope="module")
def examined(runs):
    steps = []
    return Analysis(open_run(runs["nuts"]), on_step=steps.append), steps


def test_an_examination_of_a_real_fit(examined):
    found, steps = examined
    assert found.verdict.name in VERDICTS
    names = ["raw weights", "aligned weights", "invariants", "log probabilities", "log posterior"]
    assert list(found.quantities) == names == list(found.verdict.evidence["quantity"].values)
    assert 0 < found.n_redundant < found.n_parameters
    assert ("rotate_query_key", True, True) in found.symmetries
    assert float(found.stacking.chains["weight"].sum()) == pytest.approx(1)
    assert (found.connectivity["barrier"] >= 0).all()
    assert found.verdict is found.verdict and found.modes is found.modes
    assert len(steps) == len(set(steps))  # nothing is computed twice


def test_alignment_moves_weights_and_nothing_else_that_is_looked_at(examined):
    found, _ = examined
    raw, aligned = found.quantities["raw weights"], found.quantities["aligned weights"]
    assert np.abs(raw - aligned).max() > 0.1
    assert float((raw**2).sum()) == pytest.approx(float((aligned**2).sum()))


def test_the_command_says_it_and_writes_the_table(runs, tmp_path):
    table = tmp_path / "mixing.csv"
    done = gptbayes_command(
        "symmetry", runs["nuts"], "--no-paths", "--no-contraction", "--out", table
    )
    assert done.returncode == 0, done.stderr
    for words in ("rotate_query_key", "verdict:", "invariants", "stacking weights", "dimensions"):
        assert words in done.stdout
    with table.open() as lines:
        rows = {row["quantity"]: row for row in csv.DictReader(lines)}
    assert float(rows["log probabilities"]["r_hat_max"]) > 0.9


def test_what_is_no_nuts_fit_is_refused_in_one_line(runs):
    done = gptbayes_command("symmetry", runs["pathfinder"])
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "chains must be those of nuts, hmc or smc, got a fit by pathfinder"
    )


def test_modes_are_described_in_the_report(examined, runs):
    """Each chain taken for a mode of its own: a tree, what they predict differently, a warning."""
    found = Analysis(open_run(runs["nuts"]))
    label = examined[0].modes.label
    label = label.copy(data=label["chain_index"].values)
    found.__dict__["modes"] = find_modes(found.idata, label)
    tree, table, mass, different = mode_blocks(found)
    assert tree.source
    assert [row[:2] for row in table.rows] == [["1", "1"], ["2", "1"]]
    (mass,) = mass.items
    assert not mass.ok and "do not estimate the posterior mass" in mass.text
    assert all(row[0] == "1 and 2" for row in different.rows)


def test_what_took_minutes_is_kept_for_the_report(examined, runs, tmp_path):
    found, _ = examined
    assert load_examination(tmp_path) is None
    assert found.connectivity is not None  # computed, if no other test has asked for it
    found.save(tmp_path)
    back = load_examination(tmp_path)
    np.testing.assert_array_equal(back.connections["barrier"], found.connectivity["barrier"])
    assert back.connections.attrs["sd"] == found.connectivity.attrs["sd"]
    assert back.local is None
    (tmp_path / "symmetry.nc").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"symmetry\.nc is truncated or corrupted"):
        load_examination(tmp_path)
    page = render(replace(found, saved=back))
    assert "the log posterior along paths" in page
