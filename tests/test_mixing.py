"""Verdicts on posteriors that were made so that the right one is known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from gptbayes.diagnostics.convergence import convergence, mixing_table, r_star, rhat_nested
from gptbayes.diagnostics.segments import cut_segments, differences, distances, group_segments
from gptbayes.diagnostics.verdict import VERDICTS, WRONG_IF, mixing_verdict, stuck_chains

N_CHAIN, N_DRAW, N_SCALAR = 4, 1000, 7


def chains(rng, phi=0.5, n_chain=N_CHAIN, n_draw=N_DRAW, n_scalar=N_SCALAR):
    """Stationary autoregressive chains, normal with mean 0 and sd 1."""
    noise = rng.normal(size=(n_chain, n_draw, n_scalar))
    found = noise.copy()
    for t in range(1, n_draw):
        found[:, t] = phi * found[:, t - 1] + np.sqrt(1 - phi**2) * noise[:, t]
    return found


def scalars(values):
    return xr.DataArray(values, dims=("chain", "draw", "scalar"))


def posterior(rng, place, *, functions=None, raw=None):
    """Kinds of quantity: where chains are, what they predict, and weights on their orbits.

    Predictions are a function of the place alone, as they are in a model, and so are the weights
    but for a rotation that is each chain's own.
    """
    functions = place[..., :3] if functions is None else functions
    return {
        "raw weights": scalars(place if raw is None else raw),
        "aligned weights": scalars(place),
        "log probabilities": scalars(-0.3 * np.log1p(np.exp(functions))),
    }


def gauge(rng, place):
    """Every chain turned by its own rotation about its own centre, which wanders no more."""
    turn = np.linalg.qr(rng.normal(size=(len(place), N_SCALAR, N_SCALAR)))[0]
    return (place + 3) @ turn


# The verdicts


@pytest.mark.slow
def test_chains_of_one_posterior_have_mixed(rng):
    found = mixing_verdict(posterior(rng, chains(rng)))
    assert found.name == "mixed"
    assert set(found.evidence["state"].values) == {"agree"}
    assert "R* " in found.text and "ESS" in found.text
    assert found.groups is None


@pytest.mark.slow
def test_chains_on_orbits_have_mixed_up_to_symmetry(rng):
    place = chains(rng)
    found = mixing_verdict(posterior(rng, place, raw=gauge(rng, place)))
    assert found.name == "mixed up to symmetry"
    assert found.evidence["state"].sel(quantity="raw weights") != "agree"


@pytest.mark.slow
def test_without_symmetries_the_raw_weights_must_agree(rng):
    place = chains(rng)
    kinds = posterior(rng, place, raw=gauge(rng, place), functions=place)
    del kinds["aligned weights"]
    assert mixing_verdict(kinds).name == "trapped in modes with equal predictions"


@pytest.mark.slow
def test_modes_of_equal_prediction_and_different_weights(rng):
    place = chains(rng)
    predicted = place[..., :3].copy()
    place[2:, :, 3:5] += 6
    found = mixing_verdict(posterior(rng, place, functions=predicted))
    assert found.name == "trapped in modes with equal predictions"
    assert found.groups.n == 2
    assert "symmetry" not in found.text
    assert "2, 2 complete chains" in found.text


@pytest.mark.slow
def test_invariants_that_agree_make_the_alignment_suspect(rng):
    place = chains(rng)
    predicted = place[..., :3].copy()
    place[3:, :, 3:5] += 6
    kinds = posterior(rng, place, functions=predicted)
    kinds["invariants"] = kinds["log probabilities"]
    found = mixing_verdict(kinds)
    assert found.name == "trapped in modes with equal predictions"
    assert "a symmetry that the alignment missed" in found.text


@pytest.mark.slow
def test_modes_that_predict_differently(rng):
    place = chains(rng)
    place[1] += 4
    place[2, :, :2] -= 6
    found = mixing_verdict(posterior(rng, place))
    assert found.name == "trapped in modes with different predictions"
    assert found.groups.n == 3
    label = found.groups.label.values.reshape(N_CHAIN, -1)
    assert len({tuple(row) for row in label}) == 3
    assert (label[0] == label[3]).all()


@pytest.mark.slow
def test_modes_of_weights_whose_predictions_differ_a_little_are_not_alike(rng):
    place = chains(rng)
    predicted = place[..., :3].copy()
    place[2:, :, 3:5] += 6
    predicted[2:, :, 0] += 0.6  # no valley between, and yet beyond chance
    found = mixing_verdict(posterior(rng, place, functions=predicted))
    assert found.name == "trapped in modes with different predictions"


@pytest.mark.slow
def test_a_mode_that_one_chain_visits_for_its_last_fifth(rng):
    place = chains(rng)
    place[3, -N_DRAW // 5 :, :4] += 5
    found = mixing_verdict(posterior(rng, place))
    assert found.name == "trapped in modes with different predictions"
    label = found.groups.label.values.reshape(N_CHAIN, 5)
    assert (label[:3] == 0).all()
    np.testing.assert_array_equal(label[3], [0, 0, 0, 0, 1])
    assert "in more than one group: 1" in found.text


@pytest.mark.parametrize("phi", [0.99, 0.998, 0.9999])
def test_a_slow_chain_is_no_mode_however_far_it_is(rng, phi):
    """All chains are of one normal, and one of them has not yet forgotten where it started."""
    place = chains(rng)
    slow = chains(rng, phi, n_chain=1)[0]
    place[3] = slow + 6 * phi ** np.arange(N_DRAW)[:, None]
    assert mixing_verdict({"log probabilities": scalars(place)}).name == "too short to tell"


def test_slow_chains_are_no_modes(rng):
    found = mixing_verdict({"log probabilities": scalars(chains(rng, 0.995))})
    assert found.name == "too short to tell"
    assert found.evidence["r_hat_max"].max() > 1.1  # which alone would have looked like modes


@pytest.mark.slow
def test_switching_between_modes_is_slow_mixing_or_mixing(rng):
    """Two modes six sd apart, all chains cross: at first too seldom, then often enough."""
    for mean_stay, name in ((150, "too short to tell"), (2, "mixed")):
        place = chains(rng, 0.0)
        crossed = rng.random((N_CHAIN, N_DRAW)) < 1 / mean_stay
        place += 6 * (np.cumsum(crossed, axis=1) % 2)[..., None]
        assert mixing_verdict({"log probabilities": scalars(place)}).name == name


@pytest.mark.slow
def test_weights_too_slow_for_their_modes_but_predictions_mixed(rng):
    predicted = chains(rng, n_scalar=3)
    found = mixing_verdict(posterior(rng, chains(rng, 0.995), functions=predicted))
    assert found.name == "too short to tell"
    assert "Predictions agree across the chains." in found.text


def test_few_draws_and_one_chain_are_too_short(rng):
    few = {"log probabilities": scalars(chains(rng, n_draw=80))}
    found = mixing_verdict(few)
    assert found.name == "too short to tell"
    assert found.evidence["state"].item() in ("few draws", "disagree")
    found = mixing_verdict({name: draws[:1] for name, draws in few.items()})
    assert found.name == "too short to tell"
    assert "one chain" in found.text


def test_the_same_margins_and_another_dependence_are_not_mixed(rng):
    """No R-hat of any scalar can see it; the classifier does."""
    place = rng.normal(size=(N_CHAIN, N_DRAW, 2))
    sign = np.array([1, 1, -1, -1])[:, None]
    place[..., 1] = 0.95 * sign * place[..., 0] + np.sqrt(1 - 0.95**2) * place[..., 1]
    found = mixing_verdict({"log probabilities": scalars(place)})
    assert found.name == "too short to tell"
    assert found.evidence["r_hat_max"].item() < 1.01
    assert found.evidence["r_star_lower"].item() > 1


def test_a_dead_chain_is_left_out_and_named(rng):
    place = chains(rng, n_draw=600)
    place[1] = place[1, :1]
    kinds = {"log probabilities": scalars(place)}
    assert stuck_chains(kinds) == [1]
    found = mixing_verdict(kinds)
    assert found.name == "a chain is stuck"
    assert "Stuck chains (of 4): 2." in found.text and "Mixed (3 chains)" in found.text
    with pytest.raises(ValueError, match="a chain that moves, got 4 stuck chains"):
        mixing_verdict({"log probabilities": scalars(np.ones((4, 50, 2)))})


def test_every_verdict_says_what_would_have_shown_it_wrong():
    assert set(WRONG_IF) == set(VERDICTS)


@pytest.mark.slow
def test_superchains_of_short_chains(rng):
    """Long enough in sum; R-hat of chains so short would be above 1.01 by chance alone."""
    place = chains(rng, 0.3, n_chain=16, n_draw=100)
    kinds, superchains = {"log probabilities": scalars(place)}, np.repeat(range(4), 4)
    assert mixing_verdict(kinds, superchains).name == "mixed"
    place[superchains >= 3] += 4
    found = mixing_verdict({"log probabilities": scalars(place)}, superchains)
    assert found.name == "trapped in modes with different predictions"
    label = found.groups.label
    assert (label.values == (superchains >= 3)[label["chain_index"].values]).all()


# The numbers


def test_nested_r_hat_by_hand(rng):
    values = rng.normal(size=(6, 5))
    ids = np.array([0, 1, 2, 0, 1, 2])
    means = [values[ids == k].mean() for k in range(3)]
    within = [
        np.var(values[ids == k].mean(axis=1), ddof=1) + values[ids == k].var(axis=1, ddof=1).mean()
        for k in range(3)
    ]
    expected = np.sqrt(1 + np.var(means, ddof=1) / np.mean(within))
    found = rhat_nested(xr.DataArray(values, dims=("chain", "draw")), ids)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_nested_r_hat_of_chains_by_themselves_and_of_single_draws(rng):
    x = xr.DataArray(rng.normal(size=(4, 50)), dims=("chain", "draw"))
    ratio = x.mean("draw").var(ddof=1) / x.var("draw", ddof=1).mean()
    assert rhat_nested(x, range(4)).item() == pytest.approx(np.sqrt(1 + ratio.item()))
    single = xr.DataArray(rng.normal(size=(400, 1)), dims=("chain", "draw"))
    assert rhat_nested(single, np.repeat(range(4), 100)).item() < 1.03
    assert rhat_nested(single + np.repeat([0, 9], 200)[:, None], np.repeat(range(4), 100)) > 2


@pytest.mark.slow
def test_the_table_has_all_numbers_and_nested_ones_only_with_superchains(rng):
    kinds = {"log posterior": scalars(chains(rng, 0.3, n_draw=200, n_scalar=1))}
    table = mixing_table(kinds)
    assert np.isnan(table["rhat_nested_max"]).all()
    xr.testing.assert_equal(table[list(convergence(kinds))], convergence(kinds))
    nested = mixing_table(kinds, [0, 0, 1, 1])["rhat_nested_max"]
    assert nested.item() == rhat_nested(kinds["log posterior"], [0, 0, 1, 1]).item()
    xr.testing.assert_identical(mixing_table(kinds), table)  # the seed is fixed
    one = mixing_table({"x": scalars(chains(rng, n_chain=1, n_draw=100))})
    assert np.isnan(one["r_hat_max"]).all() and np.isfinite(one["ess_bulk_min"]).all()


@pytest.mark.slow
def test_r_star_is_one_by_chance_even_if_draws_are_autocorrelated(rng):
    values = [r_star(scalars(chains(rng, 0.9, n_scalar=3)), rng).value for _ in range(5)]
    assert abs(np.mean(values) - 1) < 4 * np.std(values, ddof=1) / np.sqrt(5)


def test_r_star_of_chains_that_can_be_told_apart(rng):
    x = chains(rng, n_draw=300) + 50 * np.arange(4)[:, None, None]
    found = r_star(scalars(x), rng)
    assert found.largest == 8
    assert found.lower > 2
    assert found.value == pytest.approx(4, abs=4 * found.se + 0.05)  # halves are guessed
    assert np.isnan(r_star(scalars(np.ones((2, 50, 3))), rng).value)


def test_constant_scalars_change_nothing(rng):
    place = chains(rng, n_draw=500)
    constant = np.concatenate([place, np.full((N_CHAIN, 500, 1), 2.5)], axis=-1)
    found = mixing_verdict({"log probabilities": scalars(constant)})
    assert found.name == "mixed"
    without = convergence({"x": scalars(place)})["r_hat_max"].item()
    assert found.evidence["r_hat_max"].item() == without


def test_unusable_input_is_refused_in_one_line(rng):
    x = scalars(chains(rng, n_draw=20))
    shorter = x.copy()
    shorter[2, 15:] = np.nan
    refused = [
        ({}, None, "at least one quantity"),
        ({"x": x}, None, "must have 'log probabilities' or 'functions', got x"),
        ({"log probabilities": x, "x": x[:3]}, None, r"same chains and draws, .*\(4, 20\)"),
        ({"log probabilities": shorter}, None, "got 5 nonfinite draws of .* in chain 3"),
        ({"log probabilities": x[:, :7]}, None, "at least 8 draws per chain, got 7"),
        ({"log probabilities": x}, [0, 1], "one label per chain, 4, got 2"),
        ({"log probabilities": x}, [0, 0, 0, 1], r"equal size, got sizes \[3, 1\]"),
    ]
    for kinds, superchains, words in refused:
        with pytest.raises(ValueError, match=words) as raised:
            mixing_verdict(kinds, superchains)
        assert "\n" not in str(raised.value)


# Segments


def test_segments_are_the_draws_in_order():
    x = xr.DataArray(np.arange(2 * 43).reshape(2, 43), dims=("chain", "draw"))
    pieces = cut_segments(x, 3)
    assert pieces.sizes == {"segment": 6, "draw": 12}
    for piece in pieces:
        own = slice(int(piece["start"]), int(piece["stop"]))
        np.testing.assert_array_equal(piece.values, x[int(piece["chain_index"]), own].values)
    assert pieces["stop"].max() == 43
    with pytest.raises(ValueError, match="at least 4 draws, got 43 draws for 11 segments"):
        cut_segments(x, 11)


def test_distances_are_those_of_the_means_without_monte_carlo_error(rng):
    x = chains(rng, 0.0, n_draw=400, n_scalar=50)
    x[1:, :, :] += 0.5
    squares = distances(cut_segments(scalars(x), 1)) ** 2
    assert squares[0, 1:].mean() == pytest.approx(0.25, abs=0.04)
    naive = ((x[1].mean(0) - x[2].mean(0)) ** 2).mean()
    assert naive > 0.003  # 2 / 400 is expected
    assert np.mean(squares[1:, 1:]) < 0.002


def test_no_groups_in_what_has_no_modes(rng):
    found = [
        group_segments(cut_segments(scalars(chains(rng, phi))))
        for phi in (0.0, 0.9, 0.98, 0.999) * 5
    ]
    assert found == [None] * 20


def test_groups_differ_in_what_was_moved_and_in_nothing_else(rng):
    x = chains(rng, 0.5)
    x[:2, :, 0] += 5
    groups = group_segments(cut_segments(scalars(x)))
    found = differences(cut_segments(scalars(x)), groups.label)
    assert found["p_value"][0] < 1e-10
    assert found["range"][0] == pytest.approx(5, abs=0.5)
    assert found["p_value"][1:].min() > 0.01 / N_SCALAR
