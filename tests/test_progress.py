"""Progress of many units: what it costs, and one bar for what does not fit on a screen."""

from __future__ import annotations

from pathlib import Path

from gptbayes.files import work_folder
from gptbayes.fit.units import Progress, Unit, progress_of
from gptbayes.progress import MOST_BARS, progress_bars


def units_in(folder, n):
    paths = [folder / f"chain-{k}.csv" for k in range(1, n + 1)]
    return [
        Unit(f"chain {k}", "sample", "", "", str(path), {}, 800, 500)
        for k, path in enumerate(paths, 1)
    ]


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    """Finished, running here, running elsewhere and waiting; whatever their number."""
    units, listed, listing = units_in(tmp_path, 60), [], Path.iterdir
    (tmp_path / "chain-1.csv").touch()
    work = work_folder(tmp_path / "chain-2.csv")
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or listing(path))
    found = progress_of(units, {"chain 3": 7})
    assert listed == [tmp_path]
    assert [(each.done, each.begun) for each in found[:4]] == [
        (800, True),
        (0, True),
        (7, True),
        (0, False),
    ]
    work.rmdir()
    assert not progress_of(units, {})[1].begun


def test_no_folder_yet(tmp_path):
    assert not any(each.begun for each in progress_of(units_in(tmp_path / "csv", 2), {}))


def test_many_units_have_one_bar(capsys):
    few = [Progress(f"chain {k}", 10, 10, True) for k in range(1, MOST_BARS + 1)]
    with progress_bars() as on_progress:
        on_progress(few)
    assert len(capsys.readouterr().err.strip().splitlines()) == MOST_BARS
    with progress_bars() as on_progress:
        on_progress([*few, Progress("chain 33", 0, 10, False)])
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert "33 chains" in told
    assert "320/330" in told
