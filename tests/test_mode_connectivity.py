"""Paths between draws: barriers that are known, and curves that are never worse."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import scipy.optimize
import xarray as xr
from problems import TEXT
from scipy.special import log_softmax
from scipy.stats import ortho_group

from gptbayes.diagnostics.mode_connectivity import (
    arc_path,
    barrier,
    bezier_path,
    connect_chains,
    connection_sentences,
    optimise_curve,
    straight_path,
)
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model import kernel_sources
from gptbayes.model.log_density import log_posterior, log_posterior_gradient, ravel, unravel
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES, stan_folder
from gptbayes.symmetry import transform_stage

T = np.linspace(0, 1, 41)


@pytest.fixture(scope="module")
def mode(runs):
    """The best mode of stage 05, and three copies of it under random symmetries."""
    idata = open_run(runs["optimize"])
    problem = problem_of(idata)
    copies = {n: np.repeat(v[0], 4, axis=0) for n, v in parameters_of(idata).items()}
    pair, stream = (
        ortho_group.rvs(2, size=24, random_state=1),
        ortho_group.rvs(6, 4, random_state=1),
    )
    pair = pair.reshape(2, 4, 1, 3, 2, 2)
    orders = np.array([[[0, 1, 2]], [[1, 2, 0]], [[2, 1, 0]], [[0, 2, 1]]])
    names = "rotate_query_key", "rotate_value", "permute_heads", "rotate_stream"
    for name, element in zip(names, (*pair, orders, stream), strict=True):
        copies = transform_stage(problem.stage, name, copies, element)
    return problem, {name: value[:, None] for name, value in copies.items()}


def test_copies_of_a_mode_have_no_barrier_once_they_are_aligned(mode, rng):
    problem, copies = mode
    found = connect_chains(problem, copies, rng=rng, n_pairs=3, max_iterations=40)
    raw, aligned = (found["barrier"].sel(alignment=a) for a in ("as drawn", "aligned"))
    assert raw.sel(path="straight").min() > 10
    assert aligned.max() < 1e-6
    assert (found["barrier"].sel(path="curve") <= found["barrier"].sel(path="straight")).all()
    assert raw.sel(path="curve").max() < 0.7 * raw.sel(path="straight").min()
    assert not found["same_chain"].any()  # chains of one draw have no two
    assert "a median over 3 pairs of chains is imprecise" in " ".join(connection_sentences(found))


def test_a_change_of_sign_has_a_barrier_that_is_known(rng):
    """Stage 02, a stream of one number: on the path products shrink by s², s from -1 to 1."""
    problem = make_problem(STAGES["02"], TEXT, block_size=5, n_embed=1)
    stage, evaluate = problem.stage, log_posterior_gradient(problem)

    def loss(point):
        values, gradients = evaluate(point[None])
        return -values[0], -gradients[0]

    start = ravel(stage, prior_draws(problem, 1, rng))[0]
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B")
    draw = unravel(stage, problem.design, found.x)
    e, a, b = (draw[p.name] for p in stage.parameters)
    s = 1 - 2 * T[:, None, None]
    logits = s**2 * (e @ a.T) + b  # (point, token, next token)
    x, y = problem.training
    priors = problem.priors
    squares = (e**2).sum() / priors.token_embedding**2 + (a**2).sum() / priors.lm_head**2
    expected = log_softmax(logits, axis=-1)[:, x, y].sum(axis=(-2, -1))
    expected -= 0.5 * (s[:, 0, 0] ** 2 * squares + (b**2).sum() / priors.offset**2)
    two = {
        "token_embedding": np.stack([e, -e])[:, None],
        "lm_head_multiplier": np.stack([a, -a])[:, None],
        "lm_head_offset": np.stack([b, b])[:, None],
    }
    paths = connect_chains(problem, two, rng=rng, n_pairs=1, curves=False)
    line = paths["log_posterior"].sel(path="straight", alignment="as drawn").values[0]
    np.testing.assert_allclose(line, expected, atol=1e-9)
    height = paths["barrier"].sel(path="straight", alignment="as drawn").item()
    assert height == pytest.approx(expected[0] - expected.min(), abs=1e-9)
    assert height > 5
    assert paths["barrier"].sel(alignment="aligned").max() < 1e-9


def test_two_wells_in_many_dimensions(rng):
    """Straight paths between draws hide the barrier in their climb of P / 4; arcs show it."""
    height, n_dims, n = 20.0, 400, 2000
    start, end = rng.normal(size=(2, n, 1 + n_dims))
    start[:, 0], end[:, 0] = -1, 1
    centre = np.zeros((2, 1 + n_dims))
    centre[:, 0] = -1, 1

    def density(points):
        return -height * (points[..., 0] ** 2 - 1) ** 2 - 0.5 * (points[..., 1:] ** 2).sum(-1)

    middle = np.array([0, 0.5, 1])
    for path, climb in (
        (straight_path(start, end, middle), n_dims / 4),
        (arc_path(start, end, middle, *np.repeat(centre[:, None], n, axis=1)), 0),
    ):
        values = density(path)
        rise = values[:, 1] - 0.5 * (values[:, 0] + values[:, 2])
        se = rise.std() / np.sqrt(n)
        assert abs(rise.mean() - (climb - height)) < 4 * se
    assert barrier(density(straight_path(start[:200], end[:200], T))).max() < height / 2
    np.testing.assert_allclose(
        arc_path(start, end, middle, *centre)[:, [0, 2]], np.stack([start, end], 1), atol=1e-12
    )


def test_a_curve_follows_a_bent_ridge(rng):
    """A quarter of a ring: the straight barrier in closed form, the best curve's by search."""
    radius, stiffness = 3.0, 10.0
    start, end = np.array([radius, 0.0, 0.0]), np.array([0.0, radius, 0.0])

    def ring(points):
        r = np.hypot(points[..., 0], points[..., 1])
        values = -stiffness * (r - radius) ** 2 - 0.5 * points[..., 2] ** 2
        pull = -2 * stiffness * (r - radius)[..., None] * points / r[..., None]
        pull[..., 2] = -points[..., 2]
        return values, pull

    line = ring(straight_path(start, end, T))[0]
    expected = stiffness * (radius * (1 - np.sqrt(0.5))) ** 2
    assert barrier(line) == pytest.approx(expected, rel=1e-12)
    assert barrier(ring(bezier_path(start, (start + end) / 2, end, T))[0]) == pytest.approx(
        expected
    )
    fine = np.linspace(0, 1, 21)
    controls = np.linspace(1.5, 4, 2501)[:, None] * np.array([1.0, 1.0, 0.0])
    best = min(barrier(ring(bezier_path(start, control, end, fine))[0]) for control in controls)
    found = optimise_curve(ring, start, end, rng)
    assert best < 0.02 * expected
    assert found.barrier < best + 0.01 * expected
    assert found.barrier == pytest.approx(
        barrier(ring(bezier_path(start, found.control, end, fine))[0]), abs=1e-12
    )


def test_a_path_that_needs_no_bending_is_left_straight(rng):
    start, end = rng.normal(size=(2, 5))
    found = optimise_curve(lambda at: (-0.5 * (at**2).sum(-1), -at), start, 1.01 * start, rng)
    np.testing.assert_array_equal(found.control, (start + 1.01 * start) / 2)
    far = optimise_curve(lambda at: (-0.5 * (at**2).sum(-1), -at), start, end, rng)
    assert far.barrier == 0


def test_chains_of_a_real_fit(runs, rng):
    idata = open_run(runs["nuts"])
    problem, parameters = problem_of(idata), parameters_of(idata)
    found = connect_chains(problem, parameters, rng=rng, n_pairs=6, max_draws=40)
    assert found["log_posterior"].dims == ("alignment", "path", "pair", "point")
    assert found["same_chain"].values.tolist() == [False] * 6 + [True] * 6
    assert (found["barrier"].sel(path="curve") <= found["barrier"].sel(path="straight")).all()
    # The ends are draws of the run, and alignment leaves their density alone.
    for side, point in ((0, 0), (1, -1)):
        chain, draw = (found[name].isel(end=side).values for name in ("chain", "draw"))
        lp = log_posterior(problem, {n: v[chain, draw] for n, v in parameters.items()})
        ends = found["log_posterior"].isel(point=point).values
        np.testing.assert_allclose(ends, np.broadcast_to(lp, ends.shape), atol=1e-9)
    np.testing.assert_allclose(found.attrs["level"], idata.sample_stats["lp"].mean(), atol=8)
    text = " ".join(connection_sentences(found))
    assert "arcs between draws of different chains have a median barrier of" in text
    means = connect_chains(problem, parameters, rng=rng, ends="means", max_draws=40)
    assert means["path"].values.tolist() == ["straight", "curve"]
    ends = means["log_posterior"].sel(alignment="aligned").isel(point=0)
    assert (ends > found.attrs["level"] + 3 * found.attrs["sd"]).all()  # no draw is like that


def test_without_kernels_paths_are_straight_and_it_is_said(mode, rng, tmp_path, monkeypatch):
    broken = tmp_path / "stan"
    shutil.copytree(stan_folder(), broken)
    (broken / "kernels" / "gpt.cpp").write_text("this is no C++")
    monkeypatch.setattr(kernel_sources, "stan_folder", lambda: broken)
    problem, copies = mode
    found = connect_chains(problem, copies, rng=rng, n_pairs=2)
    assert found["path"].values.tolist() == ["straight", "arc"]
    assert (
        "there are no curves, because their gradient needs the C++ kernels"
        in connection_sentences(found)[-1]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ends": "modes"}, "ends must be draws or means, got 'modes'"),
        ({"n_points": 4}, "n_points must be odd and at least 3, got 4"),
        ({"n_pairs": 0}, "n_pairs must be a positive integer, got 0"),
    ],
)
def test_unusable_settings(mode, rng, settings, message):
    with pytest.raises(ValueError, match=message):
        connect_chains(*mode, rng=rng, **settings)


def test_one_point_is_joined_to_nothing(mode, rng):
    problem, copies = mode
    alone = {name: value[:1] for name, value in copies.items()}
    with pytest.raises(ValueError, match=r"two chains or two draws of one, got \(1, 1\)"):
        connect_chains(problem, alone, rng=rng)


@pytest.mark.parametrize(
    ("shift", "ess", "words"),
    [
        (0.0, 50.0, "no higher between"),
        (15.0, 50.0, "within chance"),
        (300.0, 50.0, "in different modes"),
        (300.0, 5.0, "too few effective draws to tell"),
        (300.0, np.nan, "too few effective draws to tell"),
    ],
)
def test_arcs_are_judged_against_chance(shift, ess, words, rng):
    """Ten pairs of each kind, with the spread that barriers have."""
    within = rng.gamma(4, 20, size=10)
    barrier = np.concatenate([within + shift, within])
    dims = ("alignment", "path", "pair")
    found = xr.Dataset(
        {
            "barrier": (dims, np.stack([[barrier, barrier]] * 2)),
            "log_posterior": ((*dims, "point"), np.zeros((2, 2, 20, 3))),
        },
        {
            "alignment": ["as drawn", "aligned"],
            "path": ["straight", "arc"],
            "same_chain": ("pair", np.repeat([False, True], 10)),
        },
        {"sd": 20.0, "ess": ess, "note": "", "ends": "draws"},
    )
    (sentence,) = (
        each for each in connection_sentences(found) if each.startswith("after alignment")
    )
    assert words in sentence
