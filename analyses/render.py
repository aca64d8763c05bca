"""Execute the essays of this folder and render them to HTML pages with an index.

    python analyses/render.py FOLDER [ESSAY ...] [--unexecuted ESSAY ...] [--reference]

The index is `README.md` beside this file. Fits that are already in ``runs/`` are reused. With
``--reference``, the reference of the Python interface is written beside the essays.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import sys
import time
import warnings
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ROOMS = ("corpus", "findings", "inference", "model", "progress", "report", "stats", "toolchain")
"""What the reference holds beside what `gptbayes` names itself."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto;
  padding: 0 1rem; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; vertical-align: top; }}
pre, code {{ font-size: 0.9em; background: #f4f4f4; }}
pre {{ padding: 0.75rem; overflow-x: auto; }}
</style>
{body}
</html>
"""


def essays() -> list[Path]:
    """Return all essays, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def notebook_of(essay: Path, **settings) -> nbformat.NotebookNode:
    """Read an essay as a notebook.

    Parameters
    ----------
    essay : path
        A script with percent cells.
    **settings
        Values for its settings, in a cell of their own after that of the defaults.

    Returns
    -------
    nbformat.NotebookNode
    """
    notebook = jupytext.read(essay)
    if settings:
        source = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        (position,) = (
            k
            for k, cell in enumerate(notebook.cells)
            if "parameters" in cell.metadata.get("tags", [])
        )
        notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(source))
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: str | Path = ROOT) -> None:
    """Run all cells of a notebook in place, with ``folder`` as the working directory."""
    resources = {"metadata": {"path": str(folder)}}
    # Between processes of this machine, not over its network.
    local = Config({"KernelManager": {"transport": "ipc"}})
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources=resources, config=local
    )
    # ArviZ 0.2x announces its 1.0 once a day.
    client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore::FutureWarning:arviz"})


def page_of(notebook: nbformat.NotebookNode, title: str) -> str:
    """Return a notebook as one HTML page that needs no other files."""
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return page


def markdown_page(source: Path, links: dict[str, str]) -> str:
    """Return a Markdown file as an HTML page; ``links`` are patterns and what replaces them."""
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in links.items():
        text = re.sub(pattern, replacement, text)
    title = re.search(r"^# (.*)$", text, re.MULTILINE)[1]
    return PAGE.format(title=html.escape(title), body=markdown2html_mistune(text))


def write_index(folder: Path) -> None:
    """Write the index of a folder of essays, and the front page above it."""
    shutil.copytree(HERE / "figures", folder / "figures", dirs_exist_ok=True)
    links = {
        r"\]\((\d\d_\w+)\.py\)": r"](\1.html)",
        r"\(\.\./README\.md\)": "(../index.html)",
        r"\(README\.md": "(index.html",
        r"\((\w+)\.md": r"(\1.html",
    }
    for source in HERE.glob("*.md"):
        page = "index.html" if source.name == "README.md" else f"{source.stem}.html"
        (folder / page).write_text(markdown_page(source, links), encoding="utf-8")
    links = {
        r"\(analyses/README\.md": f"({folder.name}/index.html",
        r"\(analyses/(\d\d_\w+)\.py\)": rf"({folder.name}/\1.html)",
        r"\(analyses/(\w+)\.md": rf"({folder.name}/\1.html",
        r"\(analyses/figures/": f"({folder.name}/figures/",
    }
    front = markdown_page(ROOT / "README.md", links)
    menu = {"Analyses": f"{folder.name}/index.html", "Python reference": "api/index.html"}
    shown = [
        f'<a href="{page}">{name}</a>'
        for name, page in menu.items()
        if (folder.parent / page).exists()
    ]
    front = front.replace("<h1>", f"<p>{' · '.join(shown)}</p>\n<h1>", 1)
    (folder.parent / "index.html").write_text(front, encoding="utf-8")


def write_reference(folder: Path) -> None:
    """Write the reference of the package's public names and of its rooms."""
    import pdoc

    import gptbayes

    for name in gptbayes.__all__:  # pdoc does not see what is imported when it is first used
        setattr(gptbayes, name, getattr(gptbayes, name))
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    pdoc.render.configure(docformat="numpy", math=True)
    pdoc.pdoc("gptbayes", *(f"gptbayes.{name}" for name in ROOMS), output_directory=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pages go; the front page goes above")
    parser.add_argument("essays", nargs="*", help="such as 01 or 05_twelve_stages (all)")
    parser.add_argument("--unexecuted", nargs="*", default=[], help="render these as they are")
    parser.add_argument("--reference", action="store_true", help="write the reference as well")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.reference:
        write_reference(asked.folder.parent / "api")
    for essay in essays():
        if asked.essays and not essay.name.startswith(tuple(asked.essays)):
            continue
        notebook, begun = notebook_of(essay), time.monotonic()
        if not essay.name.startswith(tuple(asked.unexecuted)):
            print(f"{essay.stem} ...", end=" ", flush=True, file=sys.stderr)
            execute(notebook)
            print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
        page = page_of(notebook, essay.stem)
        (asked.folder / f"{essay.stem}.html").write_text(page, encoding="utf-8")
    write_index(asked.folder)
    print(asked.folder / "index.html")


if __name__ == "__main__":
    main()
