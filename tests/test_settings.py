"""Numbers that a user sets: used as given, whatever their type, or refused."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import TEXT, small_problem

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.cli.fit import METHODS
from gptbayes.corpus import keep_frequent, real_number, split, whole_number
from gptbayes.model.priors import Priors
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES, VARIANTS
from gptbayes.model.stan_data import stan_data

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
        "replicates": lambda: fit.smc(problem, out, replicates=value),
        "chains of smc": lambda: fit.smc(problem, out, chains=value),
        "moves": lambda: fit.smc(problem, out, moves=value),
        "n_embed": lambda: make_problem(STAGES["05"], TEXT, n_embed=value),
        "n_head": lambda: make_problem(STAGES["05"], TEXT, n_head=value),
        "n_layer": lambda: make_problem(STAGES["10"], TEXT, n_layer=value),
        "held_out_size": lambda: split(np.arange(50), 5, held_out_size=value),
        "characters": lambda: keep_frequent(TEXT, value),
    }
    optional = {
        "iter_warmup",
        "max_treedepth",
        "superchains",
        "batch_size",
        "stride",
        "n_embed",
        "n_head",
        "n_layer",
    }
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


SIZES = {"n_embed": 6, "n_head": 3, "n_layer": 2, "dropout": 0.3, "mask_seed": 4}
FIRST = {"n_embed": "02", "n_head": "05", "n_layer": "10", "dropout": "11", "mask_seed": "11"}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("number", STAGES)
def test_a_size_is_used_or_refused_by_name(number, name):
    """What a stage has changes its data; what it does not have is refused, with those that do."""
    stage, value = STAGES[number], SIZES[name]
    if number < FIRST[name]:
        assert stage.applicable(**{name: value}) == {}
        with pytest.raises(ValueError, match=f"^{name} has no effect at stage {number}; stages "):
            make_problem(stage, TEXT, **{name: value})
        return
    wide = {} if name == "n_embed" or not stage.has("n_embed") else {"n_embed": 6}
    changed = {**wide, name: 1 if name == "n_layer" else value}
    ours = stan_data(make_problem(stage, TEXT, **wide))
    assert stan_data(make_problem(stage, TEXT, **changed)) != ours


@pytest.mark.parametrize("number", [*STAGES, "01-log-gamma"])
def test_a_prior_scale_is_used_or_refused_by_name(number):
    stage = {**STAGES, **VARIANTS}[number]
    own = {parameter.family for parameter in stage.parameters}
    for each in fields(Priors):
        scales = {each.name: 1.7}
        if each.name in own:
            assert getattr(make_problem(stage, TEXT, scales=scales).priors, each.name) == 1.7
        else:
            with pytest.raises(ValueError, match=f"scale {each.name} has no effect at stage"):
                make_problem(stage, TEXT, scales=scales)


@pytest.mark.parametrize("n_embed", [1, 5])
@pytest.mark.parametrize("number", ["02", "04"])
def test_a_stage_without_heads_may_have_any_width(number, n_embed):
    assert make_problem(STAGES[number], TEXT, n_embed=n_embed).design.n_embed == n_embed


GIVEN = {
    "chains": 3,
    "superchains": 1,
    "warmup": 20,
    "draws": 5,
    "init": "optimize",
    "metric": "unit_e",
    "adapt-delta": 0.7,
    "max-treedepth": 4,
    "kernels": "stan",
    "replicates": 2,
    "moves": 3,
    "paths": 2,
    "starts": 2,
    "likelihood-weight": 0.5,
}


@pytest.mark.parametrize("option", GIVEN)
@pytest.mark.parametrize("method", METHODS)
def test_an_option_reaches_its_method_or_is_refused(method, option, monkeypatch, tmp_path, capsys):
    """Each is an argument of the function of that method, or the command says whose it is."""
    asked = {}

    def take(problem, out, **options):
        asked.update(options, likelihood_weight=problem.likelihood_weight)
        raise RuntimeError("asked")

    signature = inspect.signature(getattr(fit, method)).parameters
    monkeypatch.setattr(fit, method, take)
    value = GIVEN[option]
    wanted = ["--stage", "05", "--method", method, "--out", str(tmp_path / "run")]
    status = main(["fit", *wanted, f"--{option}", str(value)])
    said = capsys.readouterr().err
    if status == 1:
        assert said.strip() == "gptbayes: asked"
        assert value in asked.values()
        assert set(asked) - {"likelihood_weight"} <= set(signature)
    else:
        assert status == 2
        assert f"--{option} has no effect with method {method}" in said
        name = {"warmup": "iter_warmup", "likelihood-weight": "likelihood_weight"}
        assert name.get(option, option.replace("-", "_")) not in signature


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": ()}, "weights must rise"),
        ({"weights": (0.5, 0.2, 1.0)}, "weights must rise"),
        ({"weights": (0.5, float("nan"))}, "weights must be rising, got nan"),
        ({"weights": (0.2, 0.5)}, "the last of weights must be the problem's likelihood_weight"),
        ({"ess": "0.5"}, "ess must be between 0 and 1, got '0.5'"),
        ({"ess": 1.0}, "ess must be between 0 and 1"),
        ({"step_size": 0}, "step_size must be positive"),
        ({"step_size": float("inf")}, "step_size must be positive, got inf"),
        ({"chains": 3, "moves": 1}, "at least 4 particles, got 3 chains of 1"),
    ],
)
def test_settings_of_smc_are_refused_before_anything_runs(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit.smc(small_problem("01"), tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["0.2", None, float("nan"), 0, 1])
def test_a_held_out_share_is_refused(value):
    with pytest.raises(ValueError, match="held_out_fraction must be between 0 and 1"):
        split(np.arange(50), 5, held_out_fraction=value)
