"""What does not fit is said before anything runs, and how much does."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from problems import TEXT, small_problem

from gptbayes.cli import main
from gptbayes.fit import resources
from gptbayes.inference import open_run


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_as_many_draws_as_it_says_have_room(tmp_path, monkeypatch, what):
    problem = small_problem("05")
    room = 30_000_000
    if what == "memory":
        monkeypatch.setattr(resources, "usable_memory", lambda: room)
    else:
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    with pytest.raises(RuntimeError, match=f"weights, 55 log densities.* of {what}") as told:
        resources.check_resources(problem, tmp_path, 100_000, {})
    most = int(re.search(r"at most ([\d,]+) draws", str(told.value))[1].replace(",", ""))
    assert most > 50
    resources.check_resources(problem, tmp_path, most, {})
    with pytest.raises(RuntimeError, match="have room"):
        resources.check_resources(problem, tmp_path, most + 1, {})


@pytest.mark.usefixtures("programs")
def test_the_command_says_how_to_thin_and_then_runs(tmp_path, monkeypatch, capsys):
    """Before it samples; the smallest divisor of the draws that has room, and no smaller one."""
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.setattr(resources, "usable_memory", lambda: 20_000_000)
    sizes = ["--block-size", "5", "--batch-size", "11", "--n-embed", "6"]
    fit = ["fit", "--stage", "02", "--text", str(tmp_path / "text.txt"), *sizes]
    fit += ["--chains", "2", "--warmup", "60", "--draws", "4000", "--out", str(tmp_path / "run")]
    assert main(fit) == 1
    told = capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.csv"))
    thin, kept = re.search(r"\(--thin (\d+): ([\d,]+) draws\)", told).groups()
    most = int(re.search(r"at most ([\d,]+) draws", told)[1].replace(",", ""))
    kept = int(kept.replace(",", ""))
    divisors = [k for k in range(1, 4001) if 4000 % k == 0]
    assert int(thin) == next(k for k in divisors if 8000 // k <= most)
    assert main([*fit, "--thin", str(divisors[divisors.index(int(thin)) - 1])]) == 1
    assert main([*fit, "--thin", thin]) == 0
    assert open_run(tmp_path / "run").posterior["lm_head_offset"].shape[:2] == (2, kept // 2)
    longer = [*fit, "--draws", "8000"]  # the last of two options counts
    capsys.readouterr()
    assert main([*longer, "--thin", thin]) == 1
    assert "--thin" not in capsys.readouterr().err  # which would be another configuration
