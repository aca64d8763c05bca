"""Damaged and foreign run directories: named in one line, or read as they were; nothing else."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from problems import small_problem

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.fit import manifest, schema
from gptbayes.fit.levels import keep_prior, load_levels
from gptbayes.fit.units import make_unit, run_units
from gptbayes.groups import group, group_names
from gptbayes.inference import open_run

from .amount import MANY, SEED, examples

some = examples(25)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all files that can be had without a compiler."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit.prior(small_problem("03"), folder, draws=20)
    open_run(folder)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def same(ours, theirs):
    for name in group_names(theirs):
        one, other = group(ours, name), group(theirs, name)
        assert set(one.variables) == set(other.variables)
        for key in other.variables:
            np.testing.assert_array_equal(one[key].values, other[key].values)
    for name, value in theirs.attrs.items():
        assert ours.attrs[name] == value


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["config.json", "data.json", "manifest.json", "csv/prior-1.csv", "posterior.nc"]
)
def test_a_flipped_bit_is_found_or_changes_nothing(whole, run, survived, name):
    """Whichever bit of whichever file: the message names the file."""
    original, damaged = open_run(whole), run / name
    content, chosen, found = damaged.read_bytes(), random.Random(f"{SEED} {name}"), 0
    for _ in range(6 * MANY):
        at, bit = chosen.randrange(len(content)), chosen.randrange(8)
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        damaged.write_bytes(changed)
        if name != "posterior.nc":
            (run / "posterior.nc").unlink(missing_ok=True)
        try:
            opened = open_run(run)
        except (ValueError, OSError) as error:
            assert damaged.name in str(error), (SEED, at, bit)
            found += 1
        else:
            same(opened, original)
        survived(f"flipped bits of {name}")
    if name.endswith((".json", ".csv")):
        assert found == 6 * MANY
    damaged.write_bytes(content)
    same(open_run(run), original)


def test_a_flipped_digit_of_a_draw_is_told_of_with_what_to_do(run, capsys):
    (run / "posterior.nc").unlink()
    path = run / "csv" / "prior-1.csv"
    head, _, rows = path.read_text().partition("\n")
    path.write_text(head + "\n" + rows.replace("1", "2", 1))
    assert main(["text", str(run), "--length", "3"]) == 2
    told = capsys.readouterr().err
    assert "prior-1.csv is damaged or was changed" in told
    assert "delete it and run the same fit again" in told
    path.unlink()
    fit.prior(small_problem("03"), run, draws=20)
    open_run(run)


def test_a_finished_file_that_is_damaged_is_not_built_upon(run):
    path = run / "csv" / "prior-1.csv"
    opened = fit.directory.Run(run, None, 1)
    unit = make_unit(opened, "prior 1", "sample", {}, n_draws=20)
    run_units(opened, [unit])
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(ValueError, match=r"prior-1\.csv is damaged"):
        run_units(opened, [unit])


def test_a_file_of_a_killed_process_is_recorded_by_the_next(run):
    """Killed after the file was in place and before it was in the manifest."""
    path = run / "csv" / "prior-1.csv"
    (run / manifest.FILE).unlink()
    opened = fit.directory.Run(run, None, 1)
    run_units(opened, [make_unit(opened, "prior 1", "sample", {}, n_draws=20)])
    assert set(manifest.read_manifest(run)) == {"csv/prior-1.csv"}
    manifest.record(run, [run / "data.json"])
    assert set(manifest.read_manifest(run)) == {"csv/prior-1.csv", "data.json"}
    path.unlink()
    manifest.record(run, [run / "data.json"])
    assert set(manifest.read_manifest(run)) == {"data.json"}


def test_levels_carry_their_own_checksums(tmp_path):
    keep_prior(tmp_path, {"mu": np.zeros(4)}, np.zeros((2, 2)), 1.0)
    path = tmp_path / "level-0.npz"
    content = path.read_bytes()
    (level,) = load_levels(tmp_path)
    assert level.likelihood_weight == 0
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("log_lik.npy").header_offset + 200
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=r"level-0\.npz is truncated or corrupted"):
        load_levels(tmp_path)


# Foreign files

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["../../etc/passwd", "/tmp/x", "__import__", "nuts", "12", "{{7*7}}"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def changes(draw, paths):
    """Where a value is replaced, or removed, and what stands there then."""
    return draw(st.sampled_from(paths)), draw(st.booleans()), draw(anything)


def places(value, above=()):
    yield above
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value[:2])
    for key, inner in items:
        yield from places(inner, (*above, key))


def changed(value, place, remove, new):
    if not place:
        return new
    value = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1 and remove:
        del value[place[0]]
    else:
        value[place[0]] = changed(value[place[0]], place[1:], remove, new)
    return value


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "data.json", "manifest.json"])
def test_malformed_json_is_refused_in_one_line(whole, tmp_path_factory, survived, name):
    """Any value of it replaced by any other, or gone: a ValueError, or a run as good as any."""
    original = json.loads((whole / name).read_text())
    run = tmp_path_factory.mktemp("foreign") / "run"
    shutil.copytree(whole, run)
    (run / "posterior.nc").unlink()
    if name != "manifest.json":
        (run / "manifest.json").unlink()  # a stranger can make one that fits
    outside = set(run.parent.iterdir())

    @seed(SEED)
    @some
    @given(change=changes(list(places(original))))
    def refused_or_read(change):
        (run / name).write_text(json.dumps(changed(original, *change)))
        try:
            fit.read_problem(run)
            open_run(run)
        except (ValueError, OSError) as error:
            assert "\n" not in str(error).strip()
        (run / "posterior.nc").unlink(missing_ok=True)
        assert set(run.parent.iterdir()) == outside
        survived(f"malformed values of {name}")

    refused_or_read()


@given(content=st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
@seed(SEED)
@some
def test_bytes_that_are_no_json_are_refused(whole, content):
    path = whole.parent / "any.json"
    path.write_bytes(content)
    for kind in (schema.Config, schema.Data, schema.Manifest):
        with pytest.raises(ValueError, match=r"any\.json is malformed"):
            schema.read(path, kind)


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_bytes(b'{"x":' * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json is malformed"):
        schema.read(path, schema.Config)


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_newer_version_is_refused_by_name(run, name):
    """Also if nothing else in it is as it is here."""
    (run / "posterior.nc").unlink()
    for content in ({"schema": 2}, {**json.loads((run / name).read_text()), "schema": 2}):
        (run / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"{name} is of schema 2, written by a newer"):
            open_run(run)


def test_numbers_of_a_stranger_take_no_memory(run, capsys):
    """A run of a billion draws, whose file is small."""
    (run / "posterior.nc").unlink()
    (run / "manifest.json").unlink()
    config = json.loads((run / "config.json").read_text())
    config["settings"]["draws"] = schema.MOST_DRAWS
    (run / "config.json").write_text(json.dumps(config))
    assert main(["text", str(run), "--length", "3"]) == 2
    assert "do not fit in its" in capsys.readouterr().err
