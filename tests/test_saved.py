"""What a run writes can be read again, and what cannot be read is told for what it is."""

from __future__ import annotations

import errno
import os
import shutil
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from problems import TEXT, small_problem

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.corpus import Vocabulary, source_name
from gptbayes.diagnostics.sampler import log_lik_finding
from gptbayes.fit.directory import check_writable, run_directory
from gptbayes.fit.units import Unit, run_unit
from gptbayes.groups import save_groups
from gptbayes.inference import netcdf_error, open_run, problem_of
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES
from gptbayes.predict import compare_loo, loo, loo_finding, n_bad_pareto_k
from gptbayes.report import Analysis

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@pytest.mark.slow
@example(text="\x1b[31m\x07\u202e\u0301\ufffe\U0010ffff", source="caf\udce9\0.txt")
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=st.text(CHARACTERS, min_size=5, max_size=12),
    source=st.text(st.characters(), min_size=1, max_size=20),
)
def test_every_text_and_name_comes_back(text, source, tmp_path_factory):
    """Control characters, private ones, halves of pairs in the name: saved, opened, the same."""
    folder = tmp_path_factory.mktemp("run")
    problem = make_problem(STAGES["01"], text * 3, source=source, block_size=2)
    made = open_run(fit.prior(problem, folder / "run", draws=4))
    read = open_run(folder / "run")
    assert read.posterior.equals(made.posterior)
    assert tuple(read.posterior["token"].values) == problem.vocabulary.characters
    back = problem_of(read)
    assert back.vocabulary == problem.vocabulary
    assert back.source == problem.source
    assert "\0" not in back.source
    back.source.encode("utf-8")


@given(
    st.binary(min_size=1, max_size=30).filter(lambda name: b"/" not in name and b"\0" not in name)
)
def test_every_file_name_can_be_written(name):
    written = source_name(os.fsdecode(b"/tmp/" + name))
    written.encode("utf-8")
    if name.decode("utf-8", "ignore").encode() == name and name not in (b".", b".."):
        assert written == name.decode()


def test_a_name_that_is_not_utf8_is_still_told():
    assert source_name(os.fsdecode(b"caf\xe9.txt")) == r"caf\xe9.txt"


@pytest.mark.parametrize("characters", [("a", "\ud800"), ("a", "\0"), ("a", "a"), ("ab",), ()])
def test_a_vocabulary_that_cannot_be_saved_is_refused(characters):
    with pytest.raises(ValueError, match="a vocabulary needs"):
        Vocabulary(characters)


@pytest.mark.parametrize("value", ["\udce9", "a\0b", float("nan"), float("inf"), {1, 2}])
def test_what_cannot_be_written_is_refused_before_anything_runs(value, tmp_path):
    with pytest.raises(ValueError, match="cannot be saved"):
        check_writable("the configuration", {"settings": [value]})
    out = tmp_path / "run"
    with (
        pytest.raises(ValueError, match="the configuration of this run cannot be saved"),
        run_directory(small_problem("01"), out, "prior", {"x": value}, 1, 4, stan=False),
    ):
        pass
    assert not out.exists()


@pytest.fixture
def saved(tmp_path):
    folder = fit.prior(make_problem(STAGES["01"], TEXT), tmp_path / "run", draws=4)
    open_run(folder)
    return folder / "posterior.nc"


def test_only_a_damaged_file_is_to_be_deleted(saved):
    content = saved.read_bytes()
    for damaged in (b"", b"not netCDF", content[:40], content[: len(content) // 2], content[:-1]):
        saved.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"posterior\.nc is truncated or corrupted .*delete"):
            open_run(saved.parent)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (OSError(errno.EAGAIN, "unable to lock file, errno = 11"), "cannot be locked"),
        (OSError(errno.ENOLCK, "unable to lock file, errno = 37"), "HDF5_USE_FILE_LOCKING"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("no engine netcdf4"), "no engine netcdf4"),
    ],
)
def test_a_whole_file_is_never_called_damaged(saved, reason, said):
    found = netcdf_error(saved, reason, "delete it")
    assert isinstance(found, OSError)
    assert said in str(found)
    assert "delete" not in str(found)


def test_a_file_that_is_locked_by_another_is_not_damaged(saved):
    fcntl = pytest.importorskip("fcntl")
    with open(saved, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"posterior\.nc cannot be locked") as told:
            open_run(saved.parent)
    assert "delete" not in str(told.value)
    open_run(saved.parent)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission_is_not_damaged(saved):
    saved.chmod(0)
    with pytest.raises(OSError, match="Permission denied") as told:
        open_run(saved.parent)
    assert "delete" not in str(told.value)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("#!/bin/sh\necho cannot find libtbb >&2\nexit 127\n", "cannot find libtbb"),
        ("#!/bin/sh\nexit 3\n", "ended with status 3 and no message"),
        ("#!/bin/sh\nkill -SEGV $$\n", "ended by signal SIGSEGV"),
        ("#!/bin/sh\nkill -KILL $$\n", "memory runs out"),
        ("#!/nonexistent/interpreter\n", "cannot be started"),
        ("\x7fELF of another machine", "cannot be started"),
        ("#!/bin/sh\nprintf 'caf\\\\351 is full\\n'\nexit 1\n", "is full"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_program_that_fails_says_why(program, said, tmp_path):
    executable = tmp_path / "program"
    executable.write_text(program)
    executable.chmod(0o755)
    (tmp_path / "data.json").write_text("{}")
    arguments = {"chains": 1, "seed": 1, "show_progress": False}
    files = [str(tmp_path / name) for name in ("program", "data.json", "chain-1.csv")]
    with pytest.raises(RuntimeError, match="chain 1 failed: ") as told:
        run_unit(Unit("chain 1", "sample", *files, arguments, 1, 1))
    assert said in str(told.value)
    assert "RunSet" not in str(told.value)


def test_a_run_that_may_only_be_read_is_read(saved, monkeypatch, caplog):
    """Draws are not lost because what is made of them cannot be kept."""
    saved.unlink()

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(saved))

    monkeypatch.setattr("gptbayes.inference.run.save", refuse)
    assert open_run(saved.parent).posterior.sizes["draw"] == 4
    assert "cannot be saved" in caplog.text


@pytest.mark.slow
def test_draws_without_a_finite_log_likelihood_are_told_of(saved):
    idata = open_run(saved.parent)
    n = idata.log_likelihood.sizes["sequence"]
    assert log_lik_finding(idata) is None
    for value in (np.nan, -np.inf):
        log_lik = idata.log_likelihood["log_lik"].copy()
        log_lik[0, 2, 0, 0] = value
        idata.log_likelihood["log_lik"] = log_lik
        finding = log_lik_finding(idata)
        assert not finding.ok
        assert finding.text.startswith("log_lik is nan or infinite in 1 of 4 draws")
        result = loo(idata)
        assert result["loo_i"].isnull().values.tolist() == [True] + [False] * (n - 1)
        assert np.isnan(result["elpd_loo"])
        assert n_bad_pareto_k(result) == n  # of four draws none is reliable
        assert f"undefined for 1 of {n} sequences" in loo_finding(result).text
        both = compare_loo({"it": result, "other": loo(open_run(saved.parent))})
        assert both["fit"].values.tolist() == ["other", "it"]
        assert np.isnan(both["weight"]).all()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("method", ["nuts", "pathfinder", "prior"])
def test_commands_tell_of_log_lik_that_is_not_finite(runs, method, value, tmp_path, capsys):
    """What reads log_lik says so, or refuses it in one line; nothing passes it over."""
    idata = open_run(runs[method])
    log_lik = idata.log_likelihood["log_lik"].copy()
    log_lik[0, 3, 2, 1] = value
    idata.log_likelihood["log_lik"] = log_lik
    bad = tmp_path / "bad"
    shutil.copytree(runs[method], bad)
    (bad / "posterior.nc").unlink(missing_ok=True)
    save_groups(idata, bad / "posterior.nc")
    said = "log_lik is nan or infinite in 1 of"
    few = ["--length", "2", "--texts", "1"]
    for command in (["text", *few], ["attention", "--contexts", "1", "--no-ablation"]):
        assert main([command[0], str(bad), *command[1:]]) == 0
        assert said in capsys.readouterr().out
    assert main(["compare", str(bad), str(runs["nuts"]), "--refits", "none"]) == 0
    assert f"warning bad: {said}" in capsys.readouterr().out
    assert any(said in each.text for each in Analysis.of_run(bad).findings)
    if method == "nuts":
        assert main(["symmetry", str(bad)]) == 2
        assert "got 1 nonfinite draws of 'log probabilities'" in capsys.readouterr().err
