"""The accessibility checker axe, as npm installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from playwright.sync_api import Page

HOW_TO_GET = (
    "the accessibility checker axe was skipped: npm install axe-core in the project's folder, or "
    "set GPTBAYES_AXE=/path/to/axe.min.js"
)
PLACE = Path("axe-core") / "axe.min.js"


@cache
def source() -> str | None:
    """The checker's script, or None."""
    named = os.environ.get("GPTBAYES_AXE")
    folders = [Path(__file__).parents[1] / "node_modules", *_global_folders()]
    for path in [Path(named)] if named else [folder / PLACE for folder in folders]:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page: the rule, and the first element that breaks it."""
    page.evaluate(source())  # by the debugger's protocol, which no policy of the page forbids
    found = page.evaluate("axe.run(document).then(found => found.violations)")
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html']}" for each in found]


def _global_folders():
    npm = shutil.which("npm")
    if npm is None:
        return []
    done = subprocess.run([npm, "root", "--global"], capture_output=True, text=True)
    return [Path(done.stdout.strip())] if done.returncode == 0 else []
