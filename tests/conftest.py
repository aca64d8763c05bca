"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import axe
import browser as chromium
import numpy as np
import pytest
from filelock import FileLock
from problems import small_problem
from threadpoolctl import threadpool_limits

import gptbayes as gb
from gptbayes import fit, plots
from gptbayes.inference import open_run
from gptbayes.model.problem import Problem
from gptbayes.model.stages import STAGES, VARIANTS
from gptbayes.toolchain import ensure_cmdstan


def pytest_configure():
    """Tests send signals to programs, also where a shell or nohup started them in the background.

    These make their children ignore interrupts or hangups, and theirs; a signal that has a handler
    here is not ignored there. Linear algebra has one thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    # If two processes of tests have more threads for linear algebra than there are cores, threads
    # that wait take the time of the others. NumPy has its threads already; what is loaded later
    # and what tests start reads the environment.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    threadpool_limits(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture(params=list(STAGES))
def problem(request) -> Problem:
    return small_problem(request.param)


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory):
    """A folder that all processes of this run of the tests share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def engine():
    """CmdStan, for tests that compile programs of their own."""
    return ensure_cmdstan()


@pytest.fixture(scope="session")
def programs(common_folder):
    """All Stan programs compiled with either body of the likelihood, two at a time."""
    compiled = common_folder / "programs-are-compiled"
    with FileLock(common_folder / "programs.lock"):
        if compiled.exists():
            return
        ensure_cmdstan()
        with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
            list(pool.map(_compiled, product([*STAGES, *VARIANTS], ("c++", "stan"))))
        compiled.touch()


@pytest.fixture(scope="session")
def runs(tmp_path_factory, common_folder, programs):
    """Short real fits of stage 05, shared by all tests that only read them.

    Each process of the tests has a copy, because reports and conversions are saved in the run.
    """
    original = common_folder / "runs"
    with FileLock(common_folder / "runs.lock"):
        if not original.exists():
            partial = common_folder / "partial-runs"
            _short_fits(partial)
            partial.rename(original)
    folder = tmp_path_factory.mktemp("runs") / "stage-05"
    shutil.copytree(original, folder)
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def nuts(runs):
    return open_run(runs["nuts"])


@pytest.fixture(scope="module")
def pathfinder(runs):
    return open_run(runs["pathfinder"])


@pytest.fixture(scope="module")
def mode(runs):
    return open_run(runs["optimize"])


@pytest.fixture
def ax():
    fig, (ax,) = plots.figure()
    yield ax
    fig.canvas.draw()  # a glyph that is missing warns here, and warnings are errors
    plots.close(fig)


def _short_fits(folder):
    posed = small_problem("05")
    return {
        "nuts": fit.nuts(
            posed, folder / "nuts", chains=2, iter_warmup=150, iter_sampling=100, seed=3
        ),
        "pathfinder": fit.pathfinder(posed, folder / "pathfinder", paths=3, draws=40, seed=3),
        "optimize": fit.optimize(posed, folder / "optimize", starts=2, seed=3),
        "prior": fit.prior(posed, folder / "prior", draws=60, seed=3),
    }


@pytest.fixture(scope="session")
def report(common_folder, runs):
    """The report of the short fits, written once for all tests that only read it."""
    path = common_folder / "report.html"
    with FileLock(common_folder / "report.lock"):
        if not path.exists():
            written = gb.write_report(runs["nuts"], [runs["pathfinder"], runs["optimize"]])
            shutil.copy(written, path.with_suffix(".partial")).rename(path)
    gb.open_run(runs["nuts"])  # tests compare with the netCDF, which each copy of the runs makes
    return path


def pytest_collection_modifyitems(items):
    """Tests are marked by the fixtures they ask for, so that `make check` can leave them out."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        if asked & {"programs", "engine"}:
            item.add_marker(pytest.mark.stan)
        if "browser" in asked:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; without one the tests that ask for it are skipped, and it is said."""
    if chromium.executable() is None:
        pytest.skip(chromium.HOW_TO_GET)
    with chromium.launched() as found:
        yield found


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    for name, how in (("no browser", chromium.HOW_TO_GET), ("no axe", axe.HOW_TO_GET)):
        if any(how in str(report.longrepr) for report in skipped):
            terminalreporter.section(name)
            terminalreporter.line(how)


def _compiled(number_and_kernels):
    number, kernels = number_and_kernels
    return fit.executable_of({**STAGES, **VARIANTS}[number], kernels).path
