"""The house: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import gptbayes

ORDER = [
    "home",
    "processes",
    "files",
    "corpus",
    "findings",
    "groups",
    "stats",
    "toolchain",
    "model",
    "fit",
    "progress",
    "inference",
    "symmetry",
    "predict",
    "attention",
    "validate",
    "diagnostics",
    "compare",
    "plots",
    "report",
    "signals",
    "cli",
]
ONLY_IMPORTERS = {
    "arviz_stats": {"groups"},
    "cmdstanpy": {"toolchain"},
    "matplotlib": {"plots"},
    "seaborn": {"plots"},
    "jinja2": {"report"},
    "argparse": {"cli"},
    "rich": {"cli", "progress"},
    "sklearn": {"diagnostics"},
}
PACKAGE = Path(gptbayes.__file__).parent


def imports():
    """Pairs of a room of the package and a module that it imports, with dots."""
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield room, node.module
            elif isinstance(node, ast.Import):
                yield from ((room, alias.name) for alias in node.names)


def test_every_module_has_its_place():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ORDER)


def test_a_module_imports_only_from_those_above_it():
    for room, module in imports():
        parts = module.split(".")
        if parts[0] == "gptbayes" and len(parts) > 1 and room not in ("__init__", "__main__"):
            assert parts[1] == room or ORDER.index(parts[1]) < ORDER.index(room), (room, module)


def test_heavy_libraries_have_one_importer():
    for room, module in imports():
        allowed = ONLY_IMPORTERS.get(module.split(".")[0])
        assert allowed is None or room in allowed, (room, module)
