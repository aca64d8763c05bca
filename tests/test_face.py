"""What `import gptbayes` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gptbayes as gb


def test_every_public_name_can_be_had():
    for name in gb.__all__:
        assert getattr(gb, name) is not None
        assert name in dir(gb)
    with pytest.raises(AttributeError, match="no attribute 'pose'"):
        gb.pose  # noqa: B018


@pytest.mark.parametrize("code", ["import gptbayes", "import gptbayes.cli"])
def test_heavy_libraries_are_imported_when_they_are_used(code):
    heavy = ("arviz", "matplotlib", "scipy", "xarray", "cmdstanpy", "pandas")
    code = f"import sys; {code}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom gptbayes.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('arviz', 'xarray', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "report" in done.stdout
