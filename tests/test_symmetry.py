"""Every symmetry of every stage, and what alignment, gauge and invariants do with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import small_problem
from test_dimension import TABLE, posed

from gptbayes.model.design import Design
from gptbayes.model.forward import forward
from gptbayes.model.priors import Priors
from gptbayes.model.simulate import log_prior, prior_draws
from gptbayes.model.stages import STAGES, Masks
from gptbayes.symmetry import (
    align,
    canonical_form,
    generators,
    generic_null_dimension,
    invariant_scalars,
    symmetries,
    symmetry_dimension,
    transform_stage,
)
from gptbayes.symmetry.group.hidden_units import scale_hidden
from gptbayes.symmetry.group.stream import transform_stream

N = 17
ATTENDING = [number for number in STAGES if number >= "04"]
FREE_BASIS = ("transform_stream", "rotate_stream", "rotate_centred_stream")


def centred_logits(problem, draws):
    logits = forward(problem.stage, draws, problem.training.x).logits
    return logits - logits.mean(axis=-1, keepdims=True)


def moved_by(generator, problem, draws, rng, n=N):
    element = generator.random(problem.stage, problem.design, (n,), rng)
    return generator.act(problem.stage, draws, element)


def scrambled(problem, draws, seed):
    """Every draw at a random place of its orbit under all that keeps the posterior."""
    rng = np.random.default_rng(seed)
    for generator in generators(problem.stage):
        if generator.keeps_prior:
            draws = moved_by(generator, problem, draws, rng, len(draws["token_embedding"]))
    return draws


def near(draws, rng, spread=0.05):
    return {name: v[:1] + spread * rng.normal(size=v.shape) for name, v in draws.items()}


def distances(draws):
    """Between all pairs of draws: what a common group element leaves alone."""
    flat = np.concatenate([v.reshape(len(v), -1) for v in draws.values()], axis=1)
    return np.linalg.norm(flat[:, None] - flat, axis=-1)


def with_alike_masks(problem):
    """Masks that drop much and yet leave the first two heads, and coordinates, alike."""
    rng = np.random.default_rng(2)
    masks = [np.array(mask) for mask in problem.stage.masks]
    masks[0] = np.where(rng.random(masks[0].shape) < 0.3, 0, 1 / 0.7)
    masks[0][:, 1] = masks[0][:, 0]
    for mask in masks[1:]:
        mask[:] = np.tile([0, 1 / 0.7, 0, 1 / 0.7, 1 / 0.7, 1 / 0.7], (len(mask), 1))
    return replace(problem, stage=replace(problem.stage, masks=Masks(*masks)))


@pytest.fixture
def draws(problem, rng):
    return prior_draws(problem, N, rng)


def assert_symmetric(problem, draws, rng):
    before, density = centred_logits(problem, draws), log_prior(problem, draws)
    for generator in generators(problem.stage):
        moved = moved_by(generator, problem, draws, rng)
        assert {n: v.shape for n, v in moved.items()} == {n: v.shape for n, v in draws.items()}
        after = centred_logits(problem, moved)
        np.testing.assert_allclose(after, before, atol=1e-9, rtol=0, err_msg=generator.name)
        change = np.abs(log_prior(problem, moved) - density).max()
        assert (change < 1e-10 * np.abs(density).max()) == generator.keeps_prior, generator.name
        assert generator.keeps_prior or change > 1e-2, generator.name
        assert any(np.abs(moved[p] - draws[p]).max() > 0.1 for p in draws), generator.name


def test_every_symmetry_keeps_the_logits_and_says_whether_it_keeps_the_prior(problem, draws, rng):
    assert_symmetric(problem, draws, rng)
    kept = {g.name for g in generators(problem.stage) if g.keeps_prior}
    assert kept == set(symmetries(problem.stage))


@pytest.mark.parametrize("number", ["11", "12"])
@pytest.mark.parametrize("dropout", ["none", "alike"])
def test_symmetries_respect_what_masks_tell_apart(number, dropout, rng):
    problem = small_problem(number)
    if dropout == "alike":
        problem = with_alike_masks(problem)
    else:
        masks = Masks(*(np.ones_like(mask) for mask in problem.stage.masks))
        problem = replace(problem, stage=replace(problem.stage, masks=masks))
    assert_symmetric(problem, prior_draws(problem, N, rng), rng)
    names = [g.name for g in generators(problem.stage)]
    assert "permute_stream" in names
    assert ("permute_heads" in names) == (number == "12")
    assert ("shift_value" in names) == (dropout == "none")


def test_masks_that_tell_all_apart_leave_no_permutation():
    problem = small_problem("12")
    masks = [np.array(mask) for mask in problem.stage.masks]
    masks[0][:] = 1 + np.arange(3)[:, None, None]
    masks[1][:] = 1 + np.arange(6)
    stage = replace(problem.stage, masks=Masks(*masks))
    assert not {"permute_heads", "permute_stream"} & set(symmetries(stage))
    assert "permute_hidden" in symmetries(stage)


def test_unequal_prior_scales_keep_what_stays_within_a_family(rng):
    scales = Priors(**{name: 0.3 + 0.1 * i for i, name in enumerate(Priors.__annotations__)})
    for number in ("06", "08", "12"):
        problem = small_problem(number, priors=scales)
        assert_symmetric(problem, prior_draws(problem, N, rng), rng)


def near_misses(number, problem, draws, rng):
    """What only looks like a symmetry must be told from one."""
    stage, n_embed = problem.stage, 6
    whole = np.linalg.qr(rng.normal(size=(N, n_embed, n_embed)))[0]
    diagonal = np.exp(rng.normal(size=(N, n_embed)))[..., None] * np.eye(n_embed)
    unmasked = replace(stage, masks=None)
    cycle = np.roll(np.arange(n_embed), 1)
    orders = np.tile([2, 0, 1], (N, 1)), np.tile([1, 0], (N, 3, 1))
    blocks = (
        transform_stage(stage, "permute_stream", draws, *orders) if "07" <= number < "11" else {}
    )
    if number == "02":
        shifted = {**draws, "token_embedding": draws["token_embedding"] + 0.3}
        return {"a translation of embeddings without the offset": shifted}
    if number == "05":
        heads = transform_stage(stage, "permute_heads", draws, np.tile([1, 2, 0], (N, 1, 1)))
        stretch = np.broadcast_to(np.diag([2.0, 0.5]), (N, 1, 3, 2, 2))
        return {
            "heads without what reads them": {
                **heads,
                "lm_head_multiplier": draws["lm_head_multiplier"],
            },
            "heads without their values": {**heads, "value": draws["value"]},
            "queries without keys": {**draws, "query": -draws["query"]},
            "a stretch for a rotation": transform_stage(stage, "rotate_query_key", draws, stretch),
            "values without what reads them": {**draws, "value": -draws["value"]},
        }
    if number == "06":
        sign = np.where(np.arange(n_embed) == 2, -1.0, 1.0) * np.ones((N, 1, 1))
        return {"the sign of a ReLU unit": scale_hidden(stage, draws, sign)}
    if number == "07":
        return {
            "a rotation of a stream with a ReLU in it": transform_stream(stage, draws, whole),
            "the sign of the stream": transform_stream(
                stage, draws, np.tile(-np.eye(6), (N, 1, 1))
            ),
            "coordinates without their heads": {**blocks, "value": draws["value"]},
        }
    if number == "08":
        order = np.tile(np.roll(np.arange(24), 1), (N, 1, 1))
        units = transform_stage(stage, "permute_hidden", draws, order)
        return {
            "a rotation of the whole stream": transform_stream(stage, draws, whole),
            "GL of the whole stream": transform_stream(stage, draws, diagonal @ whole),
            "hidden units without their offsets": {
                **units,
                "feed_forward_offset": draws["feed_forward_offset"],
            },
        }
    if number == "10":
        flipped = transform_stage(stage, "flip_stream", draws, np.full(N, -1.0))
        return {
            "a scale of each coordinate": transform_stream(stage, draws, diagonal),
            "the sign of the stream without a bias": {**flipped, "ln1_bias": draws["ln1_bias"]},
            "coordinates without their heads": {**blocks, "value": draws["value"]},
        }
    swap = np.tile([1, 0, 2], (N, 2, 1))  # the masks of stage 12 tell heads and coordinates apart
    return {
        "a rotation that moves the vector of ones": transform_stream(stage, draws, whole),
        "heads under their own masks": transform_stage(unmasked, "permute_heads", draws, swap),
        "coordinates under their own masks": transform_stage(
            unmasked, "permute_stream", draws, np.tile(cycle, (N, 1))
        ),
    }


@pytest.mark.parametrize("number", ["02", "05", "06", "07", "08", "10", "12"])
def test_near_misses_change_the_logits(number, rng):
    problem = small_problem(number)
    draws = prior_draws(problem, N, rng)
    before = centred_logits(problem, draws)
    for name, missed in near_misses(number, problem, draws, rng).items():
        assert np.abs(centred_logits(problem, missed) - before).max() > 1e-2, name


# The Lie algebra.


def test_tangents_are_directions_in_which_no_logit_moves(problem, draws):
    """By a complex step along each; and batch dims go through."""
    two = {name: value[:2] for name, value in draws.items()}
    for generator in generators(problem.stage):
        tangents = generator.tangents(problem.stage, two)
        assert bool(tangents) == generator.continuous
        if not tangents or not tangents["token_embedding"].shape[1]:
            continue
        for i in (0, -1):
            stepped = {n: v + 1e-30j * tangents[n][:, i] for n, v in two.items()}
            size = sum(np.abs(t[:, i]).max() for t in tangents.values())
            assert size > 1e-3, generator.name
            slope = centred_logits(problem, stepped).imag / 1e-30
            assert np.abs(slope).max() < 1e-9 * size, generator.name


@pytest.mark.parametrize("number", TABLE)
def test_the_tangents_span_the_null_space_of_the_logits(number, rng):
    """`test_dimension` has the numerical null space, by the same table, for every stage."""
    problem = posed(number)
    point = {name: value[0] for name, value in prior_draws(problem, 1, rng).items()}
    assert symmetry_dimension(problem.stage, point) == sum(TABLE[number])


@pytest.mark.slow
@pytest.mark.parametrize("number, n_head, n_layer", [("12", 2, 2), ("11", 2, 1), ("05", 1, 1)])
def test_the_dimension_is_that_of_the_null_space_at_other_sizes(number, n_head, n_layer, rng):
    """Two layers; what masks drop and allow; one head."""
    problem = posed(number)
    design = Design(7, 5, 1, n_embed=4, n_head=n_head, n_layer=n_layer)
    stage = problem.stage
    if number == "11":
        masks = [np.ones((1, 2, 5, 5)), np.array([[1, 1, 0, 1.0]]), np.array([[0, 0, 1, 1.0]])]
        masks[0][0, 0, 3, 1] = 0
        stage = replace(stage, masks=Masks(*masks))
    elif number == "12":
        ones = [(n_layer, n_head, 5, 5), (n_layer, 4), (n_layer, 4)]
        stage = replace(stage, masks=Masks(*(np.ones(shape) for shape in ones)))
    problem = replace(problem, stage=stage, design=design, priors=Priors.default(stage, design))
    point = {name: value[0] for name, value in prior_draws(problem, 1, rng).items()}
    found = generic_null_dimension(problem, rng, n_points=n_layer)
    assert found.clear
    assert symmetry_dimension(stage, point) == found.null


# Alignment.


def test_aligned_draws_predict_as_before_and_the_objective_falls(problem, draws):
    aligned = align(problem.stage, draws)
    for function, exact in ((centred_logits, 1e-9), (log_prior, 1e-9)):
        after, before = function(problem, aligned.parameters), function(problem, draws)
        np.testing.assert_allclose(after, before, atol=exact)
    assert (np.diff(aligned.objective) <= 0).all()


@pytest.mark.parametrize("kind", ["scattered", "clustered"])
def test_where_a_draw_starts_on_its_orbit_does_not_matter(problem, draws, rng, kind):
    """The same draws up to one common group element, and the same objective."""
    given = near(draws, rng) if kind == "clustered" else draws
    found = [align(problem.stage, scrambled(problem, given, seed)) for seed in (1, 2)]
    np.testing.assert_allclose(found[0].objective, found[1].objective, rtol=1e-9)
    pairs = [distances(each.parameters) for each in found]
    np.testing.assert_allclose(*pairs, atol=1e-6)
    if kind == "clustered":
        flat = distances(given)[0, 1:].mean()
        assert pairs[0][0, 1:].mean() < 1.001 * flat


def test_scrambled_copies_of_one_draw_align_to_one_point(problem, draws):
    copies = {name: np.repeat(value[:1], N, axis=0) for name, value in draws.items()}
    aligned = align(problem.stage, scrambled(problem, copies, seed=5))
    for name, value in aligned.parameters.items():
        assert np.ptp(value, axis=0).max() < 1e-9, name


def test_alignment_respects_masks(rng):
    for number in ("11", "12"):
        problem = with_alike_masks(small_problem(number))
        given = near(prior_draws(problem, N, rng), rng)
        moved = scrambled(problem, given, seed=3)
        aligned = align(problem.stage, moved)
        after, before = (centred_logits(problem, d) for d in (aligned.parameters, moved))
        np.testing.assert_allclose(after, before, atol=1e-9)
        assert distances(moved)[0, 1:].mean() > 2 * distances(given)[0, 1:].mean()
        assert distances(aligned.parameters)[0, 1:].mean() < 1.001 * distances(given)[0, 1:].mean()


def test_the_reference_is_where_most_draws_are(rng):
    """A chain in a mode of its own does not pull it away, whatever its number."""
    problem = small_problem("12")
    points = prior_draws(problem, 2, rng)
    given = {n: 0.02 * rng.normal(size=(40, *v.shape[1:])) for n, v in points.items()}
    for name, value in points.items():
        given[name][:12] += 5 * value[0]
        given[name][12:] += value[1]
    aligned = align(problem.stage, scrambled(problem, given, seed=1))
    home = [
        np.sqrt(
            sum(((v[i] - aligned.reference[n]) ** 2).sum() for n, v in aligned.parameters.items())
        )
        for i in (0, -1)
    ]
    assert home[1] < 0.05 * home[0]


def test_ties_are_broken_and_always_alike(problem, draws):
    """Parts that are equal, or nothing, have no best place: any will do, and nothing fails."""
    tied = {name: value.copy() for name, value in draws.items()}
    for name in ("key", "feed_forward_multiplier", "feed_forward_offset"):
        if name in tied:
            tied[name][:] = 0
    for name in ("query", "value"):
        if name in tied:
            tied[name][:] = tied[name][:, :, :1]
    first, second = (align(problem.stage, tied) for _ in range(2))
    for name, value in first.parameters.items():
        np.testing.assert_array_equal(value, second.parameters[name])
    after, before = (centred_logits(problem, d) for d in (first.parameters, tied))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert (np.diff(first.objective) <= 0).all()


def test_chunks_and_batch_dims_do_not_show(problem, draws):
    flat = {name: value[:16] for name, value in draws.items()}
    split = {name: value.reshape(2, 8, *value.shape[1:]) for name, value in flat.items()}
    small = align(problem.stage, flat, max_bytes=1, max_iterations=3).parameters
    found = align(problem.stage, split, max_iterations=3).parameters
    for name, value in found.items():
        assert value.shape == split[name].shape
        # Batched products round differently, and iterated rotations amplify that.
        np.testing.assert_allclose(value.reshape(flat[name].shape), small[name], atol=1e-7)


def test_one_draw_is_its_own_reference_and_bad_draws_are_refused(rng):
    problem = small_problem("12")
    one = prior_draws(problem, 1, rng)
    assert align(problem.stage, one).objective[-1] < 1e-12
    with pytest.raises(ValueError, match="at least one draw, got none"):
        align(problem.stage, {name: value[:0] for name, value in one.items()})
    one["query"][0, 0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite, got query with nan or infinity"):
        align(problem.stage, one)


# The fuller gauge, and what needs none.


def test_the_canonical_gauge_predicts_alike_and_forgets_where_a_draw_was(problem, draws, rng):
    fixed = canonical_form(problem.stage, draws)
    np.testing.assert_allclose(
        centred_logits(problem, fixed), centred_logits(problem, draws), atol=1e-9
    )
    assert np.abs(log_prior(problem, fixed) - log_prior(problem, draws)).max() > 1
    for generator in generators(problem.stage):
        if generator.name in FREE_BASIS:
            continue
        again = canonical_form(problem.stage, moved_by(generator, problem, draws, rng))
        for name, value in fixed.items():
            np.testing.assert_allclose(again[name], value, atol=1e-7, err_msg=generator.name)


def test_the_canonical_gauge_is_what_it_says(rng):
    problem = small_problem("12", priors=Priors(layer_norm=0.2))
    masks = Masks(*(np.ones_like(mask) for mask in problem.stage.masks))
    stage = replace(problem.stage, masks=masks)
    p = canonical_form(stage, prior_draws(problem, N, rng))
    for norm in ("ln1", "ln2", "ln_f"):
        np.testing.assert_allclose(p[f"{norm}_weight"], 1)
    np.testing.assert_allclose(p["lm_head_multiplier"].sum(axis=-2), 0, atol=1e-12)
    np.testing.assert_allclose(p["token_embedding"].sum(axis=-1), 0, atol=1e-12)
    received = np.square(p["feed_forward_multiplier"]).sum(axis=-1) + p["feed_forward_offset"] ** 2
    sent = np.square(p["feed_forward_proj_multiplier"]).sum(axis=-2)
    np.testing.assert_allclose(received, sent)
    assert (np.diff(received, axis=-1) <= 0).all()
    gram = [np.swapaxes(p[n], -1, -2) @ p[n] for n in ("query", "key")]
    np.testing.assert_allclose(*gram, atol=1e-10)


def two_chains(draws):
    return {name: value[:16].reshape(2, 8, *value.shape[1:]) for name, value in draws.items()}


def test_no_symmetry_moves_an_invariant(problem, draws, rng):
    some = {name: value[:4] for name, value in draws.items()}
    as_chains = {name: value.reshape(2, 2, *value.shape[1:]) for name, value in some.items()}
    before = invariant_scalars(problem, as_chains)
    for generator in generators(problem.stage):
        moved = moved_by(generator, problem, some, rng, 4)
        moved = {name: value.reshape(2, 2, *value.shape[1:]) for name, value in moved.items()}
        for name, found in invariant_scalars(problem, moved).items():
            np.testing.assert_allclose(
                found, before[name], atol=1e-8, err_msg=f"{generator.name}: {name}"
            )
    for name, found in before.items():
        assert found.dims == ("chain", "draw", "scalar")
        assert np.ptp(found.values, axis=(0, 1)).max() > 1e-3, name  # draws differ


def test_invariants_are_singular_values_and_divergences_as_defined(rng):
    """Against the plain definitions: all scores, all logits."""
    problem = small_problem("05")
    draws = two_chains(prior_draws(problem, N, rng))
    found = invariant_scalars(problem, draws)
    p = {name: value[1, 3] for name, value in draws.items()}
    inputs = (p["token_embedding"][:, None] + p["position_embedding"]).reshape(-1, 6)
    scores = inputs @ p["query"][0] @ np.swapaxes(inputs @ p["key"][0], -1, -2) / np.sqrt(2)
    scores -= scores.mean(axis=-1, keepdims=True)
    values = np.linalg.svd(scores, compute_uv=False)[:, :2] / len(inputs)
    wanted = -np.sort(-values, axis=0)
    ours = found["singular values of scores"].values[1, 3]
    np.testing.assert_allclose(ours, wanted.ravel())
    assert found["singular values of scores"]["scalar"][1] == "layer 1, largest 1, rank 2"
    dead = {**draws, "query": np.zeros_like(draws["query"])}
    assert np.abs(invariant_scalars(problem, dead)["effect of attention weights"]).max() < 1e-12
    assert found["effect of attention weights"].min() > 0


def test_invariants_need_chains():
    problem = small_problem("04")
    draws = prior_draws(problem, 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="chain and draw in front"):
        invariant_scalars(problem, draws)
