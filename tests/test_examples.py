"""The examples in docstrings run and print what they show. They are quick, and only that of
`gptbayes.fit.smc.sequential_monte_carlo` needs Stan."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import gptbayes

PACKAGE = Path(gptbayes.__file__).parent
SMC = "gptbayes.fit.smc"


def has_examples(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return any(">>> " in line and "+SKIP" not in line for line in lines)


def modules_with_examples():
    paths = [path for path in PACKAGE.rglob("*.py") if has_examples(path)]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    names = sorted(name.removesuffix(".__init__") for name in names)
    return [pytest.param(name, marks=pytest.mark.stan) if name == SMC else name for name in names]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0
