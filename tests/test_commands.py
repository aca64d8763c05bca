"""gptbayes text and gptbayes attention: what they print, what they refuse, what they write."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from test_cli import run

from gptbayes.attention import attention_draws, head_order, matched
from gptbayes.inference import open_run, problem_of

pytestmark = pytest.mark.usefixtures("programs")


def test_texts_are_written_twice_the_same(runs):
    command = ["text", runs["nuts"], "--prompt", "the", "--length", 25, "--texts", 2]
    first, again = run(*command), run(*command)
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    assert run(*command, "--seed", 2).stdout != first.stdout
    assert first.stdout.count("coherent text") == 2
    assert re.search(r"by draw \d+ of chain [12] of the posterior", first.stdout)
    assert "Entropy of the next character" in first.stdout
    assert "ESS below 400" in first.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "marginal"], "marginal text 1, each character from the mean of the posterior"),
        (["--prior"], "of chain 1 of the prior"),
    ],
)
def test_who_wrote_is_said(runs, options, words):
    done = run("text", runs["nuts"], "--length", 5, "--texts", 1, *options)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("method", ["pathfinder", "optimize", "prior"])
def test_every_method_writes_and_has_its_doubts_said(runs, method):
    done = run("text", runs[method], "--length", 5, "--texts", 2)
    assert done.returncode == 0, done.stderr
    doubt = {"pathfinder": "Pareto k", "optimize": "a single point", "prior": "not the posterior"}
    assert doubt[method] in done.stdout
    assert "nan" not in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "Übung"], "'b' 'g' 'u' 'Ü' not in the vocabulary, which has:"),
        (["--prompt", ""], "prompt must have at least one character, got an empty one"),
        (["--length", "0"], "length must be a positive integer, got 0"),
        (["--texts", "0"], "n_texts must be a positive integer, got 0"),
        (["--prob", "1.5"], "prob must be between 0 and 1, got 1.5"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(runs, options, message):
    done = run("text", runs["nuts"], *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_only_the_end_of_a_long_prompt_is_read(runs):
    """Five characters are: what comes after them is the same, and it is said."""
    short = run("text", runs["nuts"], "--prompt", "e mat", "--length", 20, "--texts", 1)
    long = run("text", runs["nuts"], "--prompt", "on the mat", "--length", 20, "--texts", 1)
    assert "reads only its last 5 characters: e␣mat" in long.stdout
    assert "reads only" not in short.stdout
    assert long.stdout.split("coherent")[1] == short.stdout.split("coherent")[1]


def test_marks_stand_under_their_characters_where_there_is_no_colour(runs):
    """Each line has a line of marks below it, none of them beyond its end; with colour none."""
    command = ["text", runs["nuts"], "--prompt", "the", "--length", 60, "--texts", 1]
    plain = run(*command).stdout.splitlines()
    at = next(i for i, line in enumerate(plain) if line.startswith("coherent text"))
    line, marks = plain[at + 1], plain[at + 2]
    assert 0 < len(marks) <= len(line) == 60
    assert set(marks) <= set(".? ")
    assert ". probability below 0.05, ? interval wider than 0.4" in "\n".join(plain)
    done = subprocess.run(
        [sys.executable, "-m", "gptbayes", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"},
    )
    assert "\x1b[" in done.stdout
    coloured = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
    assert line in coloured
    assert marks not in coloured


def test_the_numbers_are_written_as_a_table(runs, tmp_path):
    path = tmp_path / "numbers.csv"
    done = run("text", runs["nuts"], "--length", 7, "--texts", 2, "--out", path)
    assert done.returncode == 0, done.stderr
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 14
    for row in rows:
        assert float(row["lower"]) <= float(row["mean"]) <= float(row["upper"])
        split = float(row["expected"]) + float(row["mutual_information"])
        assert float(row["total"]) == pytest.approx(split)


# Attention


@pytest.fixture(scope="module")
def looked(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    files = ["--figure", folder / "map.png", "--out", folder / "weights.csv"]
    done = run("attention", runs["nuts"], "--context", "on the mat", *files)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_attention_is_said_with_roles_and_their_control(looked):
    text, folder = looked
    assert "Attention of the last position of “e␣mat”" in text
    for words in ("effective number of positions", "previous token", "P(posterior > prior)"):
        assert words in text
    for words in ("nats per character", "1 before the last", "rank correlation", "ambiguous"):
        assert words in text
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "nan" not in re.findall(r"\w+", text)


def test_the_weights_written_are_those_of_the_draws(looked, runs):
    idata = open_run(runs["nuts"])
    context = problem_of(idata).vocabulary.encode("e mat")[None]
    draws = matched(attention_draws(idata, context), head_order(idata))
    wanted = draws.mean(("chain", "draw")).isel(sequence=0)
    with (looked[1] / "weights.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            at = {dim: int(row[dim]) for dim in wanted.dims}
            assert float(row["mean"]) == pytest.approx(float(wanted.isel(at)), abs=1e-6)
    np.testing.assert_allclose(wanted.sum("key_position"), 1)


@pytest.mark.parametrize("method", ["pathfinder", "optimize", "prior"])
def test_every_method_has_attention(runs, method):
    done = run("attention", runs[method], "--contexts", 3)
    assert done.returncode == 0, done.stderr
    assert "nan" not in re.findall(r"\w+", done.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--context", "zzz"], "'z' not in the vocabulary"),
        (["--context", ""], "at least one character"),
        (["--contexts", "0"], "--contexts must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_line(runs, options, message):
    done = run("attention", runs["nuts"], *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
