"""Small real problems, with sizes that are all different so that a transposed axis fails."""

from __future__ import annotations

import numpy as np
import pytest

from gptbayes.corpus import Vocabulary, split
from gptbayes.stages import STAGES
from gptbayes.standata import Design, Priors, Problem

TEXT = "the cat sat on the mat, that cat. " * 4


def make_problem(number: str, text: str = TEXT, batch_size: int = 11, **changes) -> Problem:
    """Stage ``number`` on a small text: T=5, B=11, C=6 as 3 heads of 2."""
    vocabulary = Vocabulary.of(text)
    windows = split(vocabulary.encode(text), 5, batch_size=batch_size)
    design = Design(len(vocabulary), 5, batch_size, n_embed=6, n_head=3)
    settings = {"prompt": vocabulary.encode("the"), "n_new_tokens": 4, **changes}
    stage = STAGES[number]
    priors = settings.pop("priors", Priors.default(stage, design))
    return Problem(stage, design, priors, vocabulary, *windows, **settings)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture(params=["01", "02", "03", "04", "05"])
def problem(request) -> Problem:
    return make_problem(request.param)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Short real fits of stage 05, shared by all tests that only read them."""
    from gptbayes import fit

    folder = tmp_path_factory.mktemp("runs")
    posed = make_problem("05")
    return {
        "nuts": fit.nuts(
            posed, folder / "nuts", chains=2, iter_warmup=150, iter_sampling=100, seed=3
        ),
        "pathfinder": fit.pathfinder(posed, folder / "pathfinder", paths=3, draws=40, seed=3),
        "optimize": fit.optimize(posed, folder / "optimize", starts=2, seed=3),
    }
