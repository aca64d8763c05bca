"""Numbers that a user sets: used as given, whatever their type, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import TEXT, small_problem

from gptbayes import fit
from gptbayes.corpus import keep_frequent, real_number, split, whole_number
from gptbayes.model.problem import Priors, make_problem, stan_data
from gptbayes.model.stages import STAGES

INTEGER_TYPES = (int, np.int8, np.int64, np.uint8, np.uint64)
REAL_TYPES = (float, np.float32, np.float64)


@given(st.integers(0, 127), st.sampled_from(INTEGER_TYPES), st.integers(0, 3))
def test_a_whole_number_is_used_as_given_or_refused(value, kind, least):
    given_as = kind(value)
    if value < least:
        with pytest.raises(ValueError, match=r"^n must be .*, got "):
            whole_number("n", given_as, least=least)
        return
    found = whole_number("n", given_as, least=least)
    assert type(found) is int
    assert found == value


@pytest.mark.parametrize("value", [-3, 0, 2.0, 2.5, True, np.True_, "5", None, float("nan"), [1]])
def test_what_is_no_count_is_refused_everywhere(value, tmp_path):
    """Everything that counts: none takes 2.0 for 2, or 0 for its default."""
    problem = small_problem("01")
    out = tmp_path / "run"
    takers = {
        "chains": lambda: fit.nuts(problem, out, chains=value),
        "superchains": lambda: fit.nuts(problem, out, superchains=value),
        "iter_warmup": lambda: fit.nuts(problem, out, iter_warmup=value),
        "iter_sampling": lambda: fit.nuts(problem, out, iter_sampling=value),
        "max_treedepth": lambda: fit.nuts(problem, out, max_treedepth=value),
        "paths": lambda: fit.pathfinder(problem, out, paths=value),
        "draws": lambda: fit.pathfinder(problem, out, draws=value),
        "max_lbfgs_iters": lambda: fit.pathfinder(problem, out, max_lbfgs_iters=value),
        "starts": lambda: fit.optimize(problem, out, starts=value),
        "max_iterations": lambda: fit.optimize(problem, out, max_iterations=value),
        "draws of the prior": lambda: fit.prior(problem, out, draws=value),
        "block_size": lambda: make_problem(STAGES["05"], TEXT, block_size=value),
        "batch_size": lambda: make_problem(STAGES["05"], TEXT, batch_size=value),
        "stride": lambda: make_problem(STAGES["05"], TEXT, stride=value),
        "n_embed": lambda: make_problem(STAGES["05"], TEXT, n_embed=value),
        "n_head": lambda: make_problem(STAGES["05"], TEXT, n_head=value),
        "n_layer": lambda: make_problem(STAGES["10"], TEXT, n_layer=value),
        "held_out_size": lambda: split(np.arange(50), 5, held_out_size=value),
        "characters": lambda: keep_frequent(TEXT, value),
    }
    optional = {"superchains", "batch_size", "stride"}
    for name, take in takers.items():
        if value is None and name in optional:
            continue
        with pytest.raises(ValueError, match=r"must be a positive integer, got "):
            take()
    if value is not None and value != 0:
        with pytest.raises(ValueError, match=r"n_new_tokens must be 0 or a positive integer"):
            make_problem(STAGES["05"], TEXT, n_new_tokens=value)
        with pytest.raises(ValueError, match="seed must be an integer between 0 and"):
            fit.prior(problem, out, seed=value)
    assert not out.exists()


@given(st.floats(0.0078125, 100, width=32), st.sampled_from(REAL_TYPES))
def test_a_real_number_is_used_as_given(value, kind):
    found = Priors(attention=kind(value)).attention
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize("value", ["0.5", None, float("nan"), float("inf"), 1j, [1.0]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="x must be a finite number, got"):
        real_number("x", value)


@pytest.mark.parametrize("integer", INTEGER_TYPES)
@pytest.mark.parametrize("real", REAL_TYPES)
def test_numpy_scalars_make_the_same_run(tmp_path, integer, real):
    """The same data, the same configuration, and the same folder goes on."""

    def made(i, f, folder):
        problem = make_problem(
            STAGES["11"],
            TEXT,
            block_size=i(5),
            batch_size=i(3),
            n_embed=i(6),
            n_head=i(3),
            n_layer=i(1),
            n_new_tokens=i(2),
            likelihood_weight=f(0.5),
            dropout=f(0.25),
            mask_seed=i(7),
            scales={"attention": f(0.25)},
        )
        fit.prior(problem, folder, draws=i(4), seed=i(5))
        return problem

    ours, theirs = (made(*types, tmp_path / "run") for types in ((int, float), (integer, real)))
    assert json.dumps(stan_data(ours)) == json.dumps(stan_data(theirs))
