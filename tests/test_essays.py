"""Every essay runs, at tiny sizes; as a script, and as a notebook."""

from __future__ import annotations

import ast
import importlib.util
import logging
import re
import runpy
import sys
import time
from pathlib import Path

import jupytext
import pytest
from jupyter_client.manager import start_new_kernel

from gptbayes.cli.settings import output_folder, settings_from

ANALYSES = Path(__file__).parents[1] / "analyses"
ESSAYS = sorted(ANALYSES.glob("[0-9][0-9]_*.py"))
SHORT = "--chains 2 --iter-warmup 40 --iter-sampling 30"
TINY = {
    "01_first_fit": f"--batch-size 8 {SHORT}",
    "02_next_character": "--prompts better zz --n-characters 10",
    "03_attention_weights": "--n-contexts 3",
    "04_chain_agreement": "",
    "05_twelve_stages": "--stages 01 05 --batch-size 6 --iter-warmup 40 --iter-sampling 30",
    "06_conjugate_bigram": "--n-kept 4 --batch-size 8 --iter-sampling 60 --n-path-draws 30",
    "07_gradient_cost": "--stages 05 --n-turns 1 --seconds 0.02",
    "08_simulation_based_calibration": "--stages 01 05 --n-replicates 2 --n-replicates-wrong 0",
    "09_symmetry_and_modes": f"--stages 05 --batch-size 6 {SHORT} --no-from-modes",
    "10_predictive_accuracy": f"--sizes 4 8 --characters 400 --n-kept 6 {SHORT}",
    "11_attention_roles": f"--stages 05 --batch-size 6 --n-contexts 3 {SHORT}",
    "13_mixture_labels": f"--n-observations 30 {SHORT}",
    "14_factor_rotations": f"--n-variables 4 --n-observations 30 {SHORT}",
    "15_hidden_units": f"--n-observations 15 {SHORT}",
    "12_evidence": "--stages 01 05 --sizes 16 32 --n-embed 2 --replicates 2 --chains 6 --moves 4",
}
FIGURES = {essay.stem: re.findall(r'save=folder / "(.*?)"', essay.read_text()) for essay in ESSAYS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all essays write, so that one finds the fits of another."""
    return tmp_path_factory.mktemp("essays")


@pytest.mark.usefixtures("programs")
@pytest.mark.filterwarnings("default")  # such short chains are warned of
@pytest.mark.parametrize("essay", ESSAYS, ids=lambda essay: essay.stem)
def test_every_essay_runs_as_a_script(essay, folder, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger("cmdstanpy"), "disabled", False)
    if essay.stem > "05":  # 02 to 04 read the fits of 01
        folder = folder / essay.stem
    arguments = [*TINY[essay.stem].split(), "--runs", str(folder)]
    monkeypatch.setattr(sys, "argv", [str(essay), *arguments])
    runpy.run_path(str(essay), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 4
    assert FIGURES[essay.stem]
    for figure in FIGURES[essay.stem]:
        assert (folder / figure).stat().st_size > 5000, figure


@pytest.mark.usefixtures("programs")
def test_an_essay_is_executed_as_a_notebook_and_rendered(tmp_path):
    """Its figures are shown, and neither warnings nor progress bars are left."""
    render = rendering()
    settings = {"batch_size": 8, "chains": 2, "iter_warmup": 40, "iter_sampling": 30}
    notebook = render.notebook_of(ESSAYS[0], runs=str(tmp_path), **settings)
    render.execute(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert "Held-out log density" in printed
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    page = render.page_of(notebook, ESSAYS[0].stem)
    assert "data:image/png;base64," in page
    assert "━" not in page


def test_the_index_leads_to_every_essay_and_figure(tmp_path):
    folder = tmp_path / "essays"
    folder.mkdir()
    rendering().write_index(folder)
    index = (folder / "index.html").read_text()
    for essay in ESSAYS:
        assert f'href="{essay.stem}.html"' in index
    for page in (*folder.glob("*.html"), tmp_path / "index.html"):
        text = page.read_text()
        if page.name == "index.html":
            assert "<img src=" in text
        named = {*re.findall(r'<img src="(.*?)"', text), *re.findall(r'<a href="([^"#:]+)', text)}
        essays = {f"{essay.stem}.html" for essay in ESSAYS}  # which are not rendered here
        there = [name for name in named if Path(name).name not in essays]
        assert [name for name in there if not (page.parent / name).exists()] == []


def test_files_that_the_pages_name_exist():
    root = ANALYSES.parent
    for page in (root / "README.md", *ANALYSES.glob("*.md")):
        text = page.read_text()
        named = re.findall(r"(?:tests|analyses|stan)/[\w./*-]*[\w*]", text)
        assert named or page.parent != root
        assert [name for name in named if not list(root.glob(name))] == []
        linked = re.findall(r"\]\(([\w./-]+)\)", text)
        assert [name for name in linked if not (page.parent / name).exists()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("programs")
def test_an_interrupted_cell_resumes(tmp_path):
    cell = f"""
from gptbayes import fit
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES
from gptbayes.progress import progress_bars
from concurrent.futures import ThreadPoolExecutor
problem = make_problem(STAGES["05"], "the cat sat on the mat. " * 9, batch_size=8, n_embed=4)
with progress_bars() as on_progress, ThreadPoolExecutor(1) as one_at_a_time:
    fit.nuts(problem, {str(tmp_path / "run")!r}, iter_warmup=150, iter_sampling=1000,
             executor=one_at_a_time, on_progress=on_progress)
"""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        asked = client.execute(cell)
        deadline = time.monotonic() + 120
        while not (finished := sorted(tmp_path.glob("run/csv/*.csv"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        manager.interrupt_kernel()
        reply = reply_to(client, asked)
        assert reply["content"]["status"] == "error", reply["content"]
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert not (tmp_path / "run" / "posterior.nc").exists()
        assert len(list(tmp_path.glob("run/csv/*.csv"))) < 4
        written = finished[0].stat().st_mtime_ns
        reply = reply_to(client, client.execute(cell))
        while reply["content"]["status"] == "aborted":  # the kernel was still clearing its queue
            reply = reply_to(client, client.execute(cell))
        assert reply["content"]["status"] == "ok", reply["content"]
        assert len(list(tmp_path.glob("run/csv/*.csv"))) == 4
        assert finished[0].stat().st_mtime_ns == written
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# The form of an essay


def test_every_essay_has_tiny_settings():
    assert set(TINY) == {essay.stem for essay in ESSAYS}


@pytest.mark.parametrize("essay", ESSAYS, ids=lambda essay: essay.stem)
def test_an_essay_asks_sets_and_answers(essay):
    """Title, question, plain settings; no result of a run stands in the answer as a number."""
    cells = jupytext.read(essay).cells
    assert re.match(r"# .*\n\n\*.*\?\*\n", cells[0].source)
    assert cells[1].metadata["tags"] == ["parameters"]
    for statement in ast.parse(cells[1].source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    assert cells[-1].source.startswith("## The answer\n")
    assert not re.findall(r"\d+\.\d+|\d+ ?%", cells[-1].source)
    assert all(cell.source for cell in cells)


# Settings


def test_settings_are_plain_variables_and_keep_their_types():
    namespace = {"chains": 4, "text": None, "sizes": [8, 16], "rate": 0.5, "deep": True}
    others = {"LIMIT": 1.01, "_hidden": 3, "module": ast, "folder": Path("x"), "nothing": []}
    given = "--chains 2 --text a.txt --sizes 3 5 7 --rate 2 --no-deep".split()
    assert settings_from(namespace | others, given) == {
        "chains": 2,
        "text": "a.txt",
        "sizes": [3, 5, 7],
        "rate": 2.0,
        "deep": False,
    }
    assert settings_from(namespace | others, []) == namespace


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--chains", "two"], "--chains: invalid int value: 'two'"),
        (["--draws", "9"], "unrecognized arguments: --draws 9"),
    ],
)
def test_unusable_settings_are_named(given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        settings_from({"chains": 4}, given)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_arguments_of_another_program_are_not_read(monkeypatch):
    """A kernel is started with -f connection.json, and an essay in it is no script."""
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    assert settings_from({"chains": 4}) == {"chains": 4}
    assert settings_from({"chains": 4, "__file__": str(ESSAYS[0])}) == {"chains": 4}


def test_comments_are_the_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(ESSAYS[0]), "--help"])
    with pytest.raises(SystemExit):
        settings_from({"__file__": str(ESSAYS[0]), "runs": "runs/demo"})
    assert "folder of the fits (default runs/demo)" in capsys.readouterr().out


def test_notebooks_and_scripts_write_to_one_folder(tmp_path, monkeypatch):
    (tmp_path / "analyses").mkdir()
    monkeypatch.chdir(tmp_path)
    from_script = output_folder("runs/a").resolve()
    monkeypatch.chdir(tmp_path / "analyses")
    assert output_folder("runs/a").resolve() == from_script
    assert from_script == tmp_path / "runs" / "a"


def reply_to(client, message):
    """A kernel's reply to a message, and not to those before it."""
    while True:
        reply = client.get_shell_msg(timeout=300)
        if reply["parent_header"]["msg_id"] == message:
            return reply


def rendering():
    """The module analyses/render.py."""
    spec = importlib.util.spec_from_file_location("render", ANALYSES / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
