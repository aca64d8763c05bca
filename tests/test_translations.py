"""Exact marginals along translations of any model, given or found."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from problems import small_problem

from gptbayes.model.forward import forward
from gptbayes.model.simulate import prior_draws
from gptbayes.validate.exact_marginals import family_wise_p
from gptbayes.validate.translations import check_translations, find_translations

DIMS = ("chain", "draw")
PRIOR = {"a": (1.0, 2.0), "b": (0.0, [0.5, 1.0, 1.5]), "c": (-1.0, 0.7)}
DIRECTION = {"the level": {"a": 1.0, "b": -1.0}}


def predict(p):
    """An intercept and group effects: the level of the effects is not identified; c is."""
    return np.concatenate([p["a"] + p["b"], np.atleast_1d(np.exp(p["c"]))])


def posterior_draws(rng, wrong=1.0, draws=500):
    """The exact posterior of one observation, 3 ± 0.3, of each a + b_k; c keeps its prior."""
    mean, sd = np.array([1.0, 0, 0, 0]), np.array([2.0, 0.5, 1.0, 1.5])
    design = np.column_stack([np.ones(3), np.eye(3)])
    precision = np.diag(sd**-2) + design.T @ design / 0.3**2
    covariance = np.linalg.inv(precision)
    centre = covariance @ (mean / sd**2 + design.T @ np.full(3, 3.0) / 0.3**2)
    theta = rng.multivariate_normal(centre, covariance, size=(4, draws))
    theta = centre + wrong * (theta - centre)
    c = rng.normal(-1.0, 0.7, size=(4, draws))
    values = {"a": (DIMS, theta[..., 0]), "b": ((*DIMS, "group"), theta[..., 1:]), "c": (DIMS, c)}
    return xr.Dataset(values)


@pytest.mark.parametrize("directions", [None, DIRECTION])
def test_exact_draws_pass_and_draws_of_half_the_spread_do_not(rng, directions):
    checked = check_translations(posterior_draws(rng), predict, PRIOR, directions)
    assert checked.sizes["direction"] == 1 and int(checked["n_tested"].sum()) == 1
    assert family_wise_p(checked) > 1e-3
    assert float(checked["sd"][0]) == pytest.approx(1, abs=0.1)
    wrong = check_translations(posterior_draws(rng, wrong=0.5), predict, PRIOR, directions)
    assert family_wise_p(wrong) < 1e-6


def test_the_translation_is_found_by_complex_steps_and_by_differences(rng):
    points = [{"a": rng.normal(), "b": rng.normal(size=3), "c": rng.normal()} for _ in range(4)]
    points = [{n: np.asarray(v) for n, v in each.items()} for each in points]
    shapes = {name: value.shape for name, value in points[0].items()}
    sds = {n: np.broadcast_to(np.asarray(s, float), shapes[n]) for n, (_, s) in PRIOR.items()}

    def rough(p):
        return np.abs(predict({n: np.real(v) for n, v in p.items()}))

    for function in (predict, rough):
        (found,) = find_translations(function, points, sds)
        np.testing.assert_allclose(found["b"] / found["a"], -1, rtol=1e-5)
        assert abs(found["c"] / found["a"]) < 1e-5


def test_a_curved_null_space_is_no_translation(rng):
    """A product has a null direction at every point, but not one direction."""
    values = {name: (DIMS, rng.normal(size=(4, 100))) for name in "xy"}
    prior = {name: (0.0, 1.0) for name in "xy"}
    with pytest.raises(ValueError, match="there is no translation"):
        check_translations(xr.Dataset(values), lambda p: p["x"] * p["y"], prior)


def test_those_of_a_stage_are_found(rng):
    """Stage 03: softmax shifts (C + 1), embeddings against positions (C): thirteen for C = 6."""
    problem = small_problem("03")
    draws = prior_draws(problem, 4, rng)
    names = list(draws)
    x = problem.training.x

    def logits(p):
        found = forward(problem.stage, {n: p[n][None] for n in names}, x).logits[0]
        return found - found.mean(axis=-1, keepdims=True)

    points = [{n: v[i] for n, v in draws.items()} for i in range(4)]
    scales = {n: np.ones(v.shape[1:]) for n, v in draws.items()}
    assert len(find_translations(logits, points, scales)) == 13


def test_bad_input_is_named(rng):
    posterior = posterior_draws(rng, draws=20)
    with pytest.raises(
        ValueError, match=r"up is not a symmetry: a shift of -2 prior .* from .* to"
    ):
        check_translations(posterior, predict, PRIOR, {"up": {"a": 1.0}})
    with pytest.raises(ValueError, match="prior names z, the variables are a, b, c"):
        check_translations(posterior, predict, {"z": (0, 1)})
    with pytest.raises(ValueError, match=r"prior of b must have shape \(3,\), got \(\) and \(2,\)"):
        check_translations(posterior, predict, {"b": (0, [1, 2])})
    with pytest.raises(ValueError, match="deviations of a must be positive, got -1"):
        check_translations(posterior, predict, {**PRIOR, "a": (0, -1)})
    with pytest.raises(ValueError, match="up changes z, the prior names a, b, c"):
        check_translations(posterior, predict, PRIOR, {"up": {"z": 1}})
    with pytest.raises(ValueError, match="up must not be zero"):
        check_translations(posterior, predict, PRIOR, {"up": {"a": 0}})
    with pytest.raises(ValueError, match=r"up of b must have shape \(3,\), got \(2,\)"):
        check_translations(posterior, predict, PRIOR, {"up": {"b": [1, 1]}})
    with pytest.raises(ValueError, match="at least one variable, got none"):
        check_translations(posterior, predict, {})
    many = xr.Dataset({"a": ((*DIMS, "k"), np.zeros((1, 4, 3001)))})
    with pytest.raises(ValueError, match="at most 3000 parameters, got 3001"):
        check_translations(many, lambda p: p["a"], {"a": (0, 1)})
