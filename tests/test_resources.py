"""What does not fit is said before anything runs, and how much does."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from problems import small_problem

from gptbayes.fit import resources


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_as_many_draws_as_it_says_have_room(tmp_path, monkeypatch, what):
    problem = small_problem("05")
    room = 30_000_000
    if what == "memory":
        monkeypatch.setattr(resources, "physical_memory", lambda: room)
    else:
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    with pytest.raises(RuntimeError, match=f"weights, 55 log densities.* of {what}") as told:
        resources.check_resources(problem, tmp_path, 100_000)
    most = int(re.search(r"at most ([\d,]+) draws", str(told.value))[1].replace(",", ""))
    assert most > 50
    resources.check_resources(problem, tmp_path, most)
    with pytest.raises(RuntimeError, match="have room"):
        resources.check_resources(problem, tmp_path, most + 1)
