"""Fixtures that every test may use."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import browser as chromium
import numpy as np
import pytest
from problems import small_problem

from gptbayes import fit
from gptbayes.model.problem import Problem
from gptbayes.model.stages import STAGES, VARIANTS
from gptbayes.toolchain import ensure_cmdstan


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture(params=list(STAGES))
def problem(request) -> Problem:
    return small_problem(request.param)


@pytest.fixture(scope="session")
def programs():
    """All Stan programs compiled with either body of the likelihood, two at a time."""
    ensure_cmdstan()
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_compiled, product([*STAGES, *VARIANTS], ("c++", "stan"))))


@pytest.fixture(scope="session")
def runs(tmp_path_factory, programs):
    """Short real fits of stage 05, shared by all tests that only read them."""
    folder = tmp_path_factory.mktemp("runs")
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
def browser():
    """A headless Chromium; without one the tests that ask for it are skipped, and it is said."""
    if chromium.executable() is None:
        pytest.skip(chromium.HOW_TO_GET)
    with chromium.launched() as found:
        yield found


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if any(chromium.HOW_TO_GET in str(report.longrepr) for report in skipped):
        terminalreporter.section("no browser")
        terminalreporter.line(chromium.HOW_TO_GET)


def _compiled(number_and_kernels):
    number, kernels = number_and_kernels
    return fit.executable_of({**STAGES, **VARIANTS}[number], kernels).path
