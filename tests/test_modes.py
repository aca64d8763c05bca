"""Modes that were made on purpose, and those of a real fit."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax, rel_entr
from test_mixing import chains, scalars

from gptbayes import plots
from gptbayes.diagnostics.convergence import mixing_table
from gptbayes.diagnostics.modes import (
    context_log_prob,
    find_modes,
    function_space,
    weight_space,
)
from gptbayes.diagnostics.quantities import quantities
from gptbayes.groups import select
from gptbayes.inference import problem_of
from gptbayes.predict import (
    compare_held_out,
    fixed_contexts,
    held_out_log_prob,
    next_character,
    stack_chains,
)
from gptbayes.stats.summary import log_mean_exp, r_hat


@pytest.fixture
def two_modes(nuts):
    """The fit, with what chain 2 says of one character made to differ: a mode made on purpose."""
    moved = nuts.copy()
    values = moved.posterior["lm_head_offset"]
    first = xr.zeros_like(values).where(values["token"] != values["token"][0], 4.0)
    moved.posterior["lm_head_offset"] = values + first * (values["chain"] == 1)
    return moved


def predictions(rng, shift, n_draw=400):
    """Log probabilities of 3 contexts and 4 tokens; chain c is moved by ``shift[c]``."""
    logits = chains(rng, 0.5, n_chain=len(shift), n_draw=n_draw, n_scalar=12)
    logits = logits.reshape(len(shift), n_draw, 3, 4) * 0.3
    logits[..., 0] += np.asarray(shift)[:, None, None]
    dims = ("chain", "draw", "context", "token")
    return xr.DataArray(log_softmax(logits, axis=-1), dims=dims)


def jensen_shannon(p, q):
    middle = (p + q) / 2
    return (rel_entr(p, middle) + rel_entr(q, middle)).sum(-1).mean() / 2


def test_function_space_is_jensen_shannon_without_monte_carlo_error(rng):
    log_prob = predictions(rng, [0, 0, 0, 2.0], n_draw=2000)
    space = function_space(log_prob, 1)
    p = np.exp(log_prob.values).mean(axis=1)
    assert space.distance[0, 3].item() ** 2 == pytest.approx(jensen_shannon(p[0], p[3]), rel=0.02)
    same = space.distance.values[:3, :3][~np.eye(3, dtype=bool)] ** 2
    naive = [jensen_shannon(p[a], p[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert same.mean() < np.mean(naive)
    np.testing.assert_array_equal(space.distance, space.distance.T)


def test_monte_carlo_error_is_taken_off_on_average(rng):
    """Chains that are alike: what is left is as often cut off at nothing as it is above."""
    distances = np.array(
        [function_space(predictions(rng, [0, 0], 100), 1).distance[0, 1] for _ in range(40)]
    )
    assert 0.2 < np.mean(distances == 0) < 0.8


def test_modes_that_predict_differently_are_found_mapped_and_joined_last(rng):
    space = function_space(predictions(rng, [0, 0, 3, 3]))
    label = space.groups.label.values.reshape(4, -1)
    assert space.groups.n == 2
    assert len(set(label[:2].ravel())) == len(set(label[2:].ravel())) == 1
    assert space.tree[-1, 2] > 10 * space.tree[-2, 2]
    assert space.tree[-1, 2] > 5 * space.within
    assert space.explained > 0.95
    first = space.map.values[:, 0].reshape(4, -1)
    assert (np.sign(first[:2]) == -np.sign(first[2:])).all()


def test_the_map_keeps_distances_that_fit_on_a_plane(rng):
    """Three modes at the corners of a triangle whose sides are known."""
    x = chains(rng, 0.0, n_chain=3, n_scalar=8)
    x[1, :, 0] += 30
    x[2, :, 1] += 40
    space = weight_space(scalars(x), 1)
    points = space.map.values
    sides = [np.linalg.norm(points[a] - points[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    # standard deviations are those within segments, and distances root mean squares over scalars
    np.testing.assert_allclose(sides, np.array([30, 40, 50]) / np.sqrt(8), rtol=0.05)


def test_one_mode_and_no_groups(nuts, rng):
    assert function_space(predictions(rng, [0, 0, 0])).groups is None
    modes = find_modes(nuts, contexts=["the c", "mat, "], length=8)
    assert modes.table.sizes["mode"] == 1
    assert (modes.label == 0).all()
    assert not modes.differences
    assert modes.divergence.item() == 0
    cut = select(nuts, ["posterior"], draw=slice(4, None))  # two segments of 48 draws
    whole = compare_held_out({"all": cut}).table
    assert modes.table["elpd"].item() == pytest.approx(whole["elpd"].item(), rel=1e-12)


def test_context_log_prob_is_what_next_character_says(nuts):
    log_prob = context_log_prob(nuts, ["the c", "at on"])
    assert log_prob.dims == ("chain", "draw", "context", "token")
    for context in ("the c", "at on"):
        mean = np.exp(log_prob.sel(context=context)).mean(("chain", "draw"))
        np.testing.assert_allclose(mean, next_character(nuts, context)["mean"], rtol=1e-12)
    problem = problem_of(nuts)
    contexts = fixed_contexts(problem, 3)
    held_out = {tuple(row) for row in problem.held_out.x}
    assert len({tuple(row) for row in contexts}) == len(contexts) == 3
    assert {tuple(row) for row in contexts} <= held_out


def test_modes_of_a_fit_are_described(two_modes):
    modes = find_modes(two_modes, length=12)
    assert modes.table.sizes["mode"] == 2
    np.testing.assert_array_equal(modes.table["whole_chains"], [1, 1])
    assert modes.table.attrs["switches"] == 0
    assert "do not estimate the posterior mass" in modes.table.attrs["mass"]
    assert [len(text) for text in modes.table["text"].values] == [12, 12]
    first = two_modes.posterior["token"].values[0]
    assert (modes.differences["character"].values[:3] == first).all()
    assert (abs(modes.differences["difference"]) > 5 * modes.differences["mcse"])[:3].all()
    assert modes.divergence[0, 1] > 0.05
    chain = [int(modes.label["chain_index"][modes.label == k][0]) for k in (0, 1)]
    for k, c in enumerate(chain):
        row, log_prob = modes.differences.isel(row=0), context_log_prob(two_modes)
        at = {"context": row["context"].item(), "token": row["character"].item()}
        mean = np.exp(log_prob.sel(at).isel(chain=c, draw=slice(4, None))).mean()
        name = "probability" if int(row["mode"]) == k else "other_probability"
        assert row[name].item() == pytest.approx(mean.item(), rel=1e-12)
        density = held_out_log_prob(two_modes).isel(chain=[c], draw=slice(4, None)).sum("position")
        elpd = log_mean_exp(density).sum().item()
        assert modes.table["elpd"][k].item() == pytest.approx(elpd, rel=1e-12)


def test_labels_from_elsewhere_and_chains_that_cross(nuts):
    log_prob = context_log_prob(nuts)
    label = xr.zeros_like(function_space(log_prob, 4).distance[:, 0], int)
    label[:] = [0, 1, 0, 1, 1, 1, -1, 1]
    modes = find_modes(nuts, label, length=4)
    assert modes.table.attrs["switches"] == 3
    np.testing.assert_array_equal(modes.table["whole_chains"], [0, 0])
    np.testing.assert_allclose(modes.table["share_of_draws"], [2 / 7, 5 / 7])
    with pytest.raises(ValueError, match="segments of all 2 chains"):
        find_modes(nuts, label[:4])


def test_stacking_leaves_out_a_chain_that_predicts_worse(nuts, two_modes):
    worse = two_modes
    lik = worse.log_likelihood["log_lik"]
    worse.log_likelihood["log_lik"] = lik - 0.5 * (lik["chain"] == 1)
    found = stack_chains(worse)
    np.testing.assert_allclose(found.chains["weight"], [1, 0], atol=0.02)
    np.testing.assert_allclose(found.chains["uniform"], 0.5)
    density = held_out_log_prob(worse).sum("position")
    alone = log_mean_exp(density.isel(chain=[0])).sum().item()
    assert found.held_out["elpd"].sel(mixture="stacked").item() == pytest.approx(alone, abs=0.3)
    both = log_mean_exp(density).sum().item()
    assert found.held_out["elpd"].sel(mixture="uniform").item() == pytest.approx(both, rel=1e-12)
    assert found.held_out["difference"].sel(mixture="uniform").item() == 0


def test_unusable_input_is_refused_in_one_line(nuts, rng):
    dead = nuts.copy()
    dead.sample_stats["lp"] = dead.sample_stats["lp"].copy()
    dead.sample_stats["lp"][1] = -3.0
    one = select(nuts, ["posterior", "sample_stats", "log_likelihood"], chain=[0])
    holes = predictions(rng, [0, 0])
    holes[1, 300:] = np.nan
    refused = [
        (lambda: stack_chains(one), "at least two chains, got 1"),
        (lambda: stack_chains(dead), "chain 2 never does"),
        (lambda: context_log_prob(nuts, ["the", "at"]), r"equal length, got lengths \[2, 3\]"),
        (lambda: context_log_prob(nuts, []), "at least one, got none"),
        (lambda: function_space(holes), "not finite in chain 2"),
        (lambda: weight_space(scalars(np.ones((2, 3, 1)))), "at least 4 draws"),
        (lambda: weight_space(scalars(np.ones((2, 40, 3)))), "varies within segments, got none"),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_a_single_chain_and_dead_chains_have_a_space(rng):
    one = function_space(predictions(rng, [0]))
    assert one.groups is None and one.tree.shape == (4, 4)
    still = predictions(rng, [0, 1])
    still[:] = still[:, :1]
    space = function_space(still)
    assert space.within == 0
    assert (space.distance[0, 5:] > 0).all()


# Figures


def test_figures_show_every_segment_and_every_kind(rng, nuts):
    space = function_space(predictions(rng, [0, 0, 3]))
    fig, (one, other, third) = plots.figure(3)
    plots.plot_dendrogram(space, ax=one)
    names = [label.get_text() for label in one.get_yticklabels()]
    assert len(names) == 15 and "chain 3, 321–400" in names
    bars = [line.get_xdata().max() for line in one.lines if len(line.get_xdata()) == 4]
    assert max(bars) == pytest.approx(space.tree[-1, 2])
    plots.plot_mode_map(space, ax=other)
    words = [text.get_text() for text in other.get_legend().get_texts()]
    assert words == ["mode 1", "mode 2"]
    drawn = np.concatenate([line.get_xdata() for line in other.lines[3:]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(space.map.values[:, 0]))
    kinds = {"log posterior": quantities(nuts)["log posterior"]}
    r_hats = {name: r_hat(draws) for name, draws in kinds.items()}
    plots.plot_mixing(r_hats, mixing_table(kinds), limit=1.01, ax=third)
    assert any("R* " in text.get_text() and "of 4" in text.get_text() for text in third.texts)
    fig.canvas.draw()
    plt.close(fig)
