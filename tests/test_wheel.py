"""The built wheel, away from the checkout, where site-packages cannot be written to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("programs")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content in a read-only folder, as a user without rights finds it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site-packages"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    for path in [*site.rglob("*"), site]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield site
    for path in [site, *site.rglob("*")]:
        path.chmod(0o755)


def run(installed, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def cited_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    return re.search(r"^version: (\S+)$", citation, re.MULTILINE).group(1)


def test_it_brings_programs_engine_and_template(installed):
    names = {str(path.relative_to(installed)) for path in installed.rglob("*")}
    for wanted in (
        "gptbayes/stan/05-multi-headed-self-attention.stan",
        "gptbayes/stan/functions/attention.stanfunctions",
        "gptbayes/stan/loops/attention.stanfunctions",
        "gptbayes/stan/kernels/gpt.cpp",
        "gptbayes/report/template.html",
        "gptbayes/toolchain/engine/makefile",
        "gptbayes/toolchain/engine/main.cpp",
        "gptbayes/py.typed",
        f"gptbayes-{cited_version()}.dist-info/licenses/LICENSE",
    ):
        assert wanted in names
    assert not [name for name in names if name.startswith(("tests", "analyses"))]


def test_it_fits_and_reports_from_anywhere(installed, tmp_path):
    where = run(
        installed, tmp_path, "-c", "import gptbayes.model.stages as s; print(s.stan_folder())"
    )
    assert where.stdout.strip() == str(installed / "gptbayes" / "stan")
    options = ["--stage", "05", "--lower", "--batch-size", 8, "--method", "pathfinder"]
    sizes = ["--paths", 1, "--draws", 20, "--n-embed", 4, "--out", "run"]
    done = run(installed, tmp_path, "-m", "gptbayes", "fit", *options, *sizes)
    assert done.returncode == 0, done.stderr
    done = run(installed, tmp_path, "-m", "gptbayes", "report", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
