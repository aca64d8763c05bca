"""The examples in docstrings run and print what they show. They are quick and need no Stan."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import gptbayes

PACKAGE = Path(gptbayes.__file__).parent


def modules_with_examples():
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join(["gptbayes", *path.relative_to(PACKAGE).with_suffix("").parts])


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert result.failed == 0
    assert result.attempted > 0
