"""Command lines that nobody would type: each ends in one line, before memory or hours are spent."""

from __future__ import annotations

import argparse
import importlib
import time

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from problems import TEXT

from gptbayes.cli import COMMANDS, main
from gptbayes.cli.fit import OPTIONS

from .amount import SEED, examples

INTEGERS = [-(2**31), -1, 0, 1, 2, 3, 5, 8, 1000, 2**31 - 1, 2**31, 2**63, 10**30]
REALS = ["-1", "0", "0.5", "1", "2", "1e308", "1e999", "nan", "-inf", "1e-320"]
WORDS = ["", "x", "=", "attention=1", "attention=nan", "../..", "\x1b[31m", "\u202e", "é", "0x10"]

some = examples(40)

pytestmark = pytest.mark.slow


def options_of(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"gptbayes.cli.{command}").add_arguments(parser)
    return [action for action in parser._actions if action.dest not in ("help", "out")]


def values_of(action):
    if action.choices:
        return st.sampled_from([*map(str, action.choices), "none of them"])
    if action.type is int:
        return st.sampled_from([*map(str, INTEGERS), "1.5", "two"])
    if action.type is float:
        return st.sampled_from(REALS)
    return st.sampled_from(WORDS)


@st.composite
def command_lines(draw, command):
    words = []
    for action in draw(st.lists(st.sampled_from(options_of(command)), max_size=4)):
        if not action.option_strings:
            words.append(draw(values_of(action)))
        elif action.nargs == 0:
            words.append(action.option_strings[0])
        else:
            words.append(f"{action.option_strings[0]}={draw(values_of(action))}")
    return words


def ended(argv, capsys):
    """Status and error output of a command, which must have been quick."""
    begun = time.monotonic()
    try:
        status = main(argv)
    except SystemExit as error:
        status = error.code
    assert time.monotonic() - begun < 60, argv
    told = capsys.readouterr().err
    assert "Traceback" not in told, argv
    return status, told


def one_line(told):
    lines = told.strip().splitlines()
    return len([line for line in lines if not line.startswith((" ", "usage:"))]) == 1


@pytest.mark.parametrize("command", ["fit", "text", "attention", "symmetry", "compare", "evidence"])
def test_any_command_line_ends_in_one_line(tmp_path_factory, capsys, survived, command):
    """Nothing is fitted, for the run directory is a file; nor read, for there is none."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "text.txt").write_text(TEXT)
    (folder / "file").write_text("no folder")
    first = {"fit": ["--stage", "05", f"--text={folder / 'text.txt'}", f"--out={folder / 'file'}"]}

    @seed(SEED)
    @some
    @given(words=command_lines(command))
    def refused(words):
        begin = first.get(command, [str(folder / "nowhere")])
        if command == "fit":
            words = [word for word in words if not word.startswith(("--text", "--stage"))]
        status, told = ended([command, *begin, *words], capsys)
        assert status in (1, 2), words
        assert one_line(told), (words, told)
        survived(f"command lines of {command}")

    refused()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", 2**63], "stride must be at most 2,147,483,647, got about 10^18"),
        (["--chains", 2**31], "chains must be at most 100,000, got 2,147,483,648"),
        (["--warmup", 2**31], "iter_warmup must be at most 1,000,000, got 2,147,483,648"),
        (["--draws", 2**31], "iter_sampling must be at most 100,000,000, got 2,147,483,648"),
        (["--max-treedepth", 31], "max_treedepth must be at most 30, got 31"),
        (["--n-embed", 10**30], "n_embed must be at most 65,536, got about 10^30"),
        (["--new-tokens", 10**9], "n_new_tokens must be at most 1,048,576"),
        (["--method", "smc", "--moves", 10**9], "moves must be at most 1,000,000"),
        (["--method", "pathfinder", "--paths", 10**9], "paths must be at most 100,000"),
    ],
)
def test_absurd_sizes_are_told_what_is_possible(tmp_path, capsys, options, message):
    out = tmp_path / "run"
    argv = ["fit", "--stage", "05", "--out", str(out), *map(str, options)]
    status, told = ended(argv, capsys)
    assert status == 2
    assert message in told
    assert one_line(told)
    assert not out.exists()


ABSURD = [2**31, 2**63, 10**30]


def integers_of(command):
    return [action for action in options_of(command) if action.type is int]


@pytest.mark.parametrize("action", integers_of("fit"), ids=lambda action: action.dest)
def test_every_integer_option_of_fit_has_its_bound(tmp_path, capsys, survived, action):
    """With the method that has it, of the stage that has all sizes."""
    method = next((m for m, names in OPTIONS.items() if action.dest in names), "nuts")
    out = tmp_path / "run"
    for absurd in ABSURD[action.dest == "seed" :]:
        argv = ["fit", "--stage", "12", "--method", method, "--out", str(out)]
        status, told = ended([*argv, f"{action.option_strings[0]}={absurd}"], capsys)
        assert (status, one_line(told)) == (2, True), told
        assert not out.exists()
        survived("absurd integers of fit")


@pytest.mark.parametrize("command", ["text", "attention", "compare"])
def test_every_integer_option_of_a_finished_run_has_its_bound(runs, capsys, survived, command):
    """Others than those of `fit` are asked of a run that is there."""
    for action in integers_of(command):
        for absurd in ABSURD[action.dest == "seed" :]:
            more = ["--wbic", "--refits", "none"] if command == "compare" else []
            argv = [command, str(runs["nuts"]), *more, f"{action.option_strings[0]}={absurd}"]
            status, told = ended(argv, capsys)
            assert status == 2, told
            assert one_line(told), told
            survived(f"absurd integers of {command}")


def test_integers_of_other_commands():
    """There are none."""
    others = set(COMMANDS) - {"fit", "text", "attention", "compare"}
    assert not any(integers_of(command) for command in others)


def test_masks_of_many_layers_are_refused(tmp_path, capsys):
    """A thousand layers of long contexts: gigabytes, which would be written as text."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 30)
    sizes = ["--n-layer", "1000", "--block-size", "500", "--text", str(path)]
    status, told = ended(["fit", "--stage", "12", *sizes, "--out", str(tmp_path / "run")], capsys)
    assert status == 2
    assert "dropout masks must have at most 100,000,000 entries" in told


def test_every_command_is_tried():
    assert {"fit", "text", "attention", "symmetry", "compare", "evidence"} < set(COMMANDS)


def test_a_scheduler_has_work_or_is_refused(tmp_path, capsys):
    argv = ["fit", "--stage", "05", "--method", "prior", "--scheduler", "tcp://127.0.0.1:9"]
    status, told = ended([*argv, "--out", str(tmp_path / "run")], capsys)
    assert status == 2
    assert "--scheduler has no effect with method prior" in told
