"""Figures of attention draw what they are given, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from gptbayes import plots


def attention(n, text, **dims):
    """Uniform attention, with intervals where it is not certain."""
    mean = np.tri(n) / np.arange(1, n + 1)[:, None]
    mean = np.broadcast_to(mean, (*dims.values(), n, n))
    wide = (mean > 0) & (mean < 1)
    names = (*dims, "query_position", "key_position")
    values = {"mean": mean, "lower": mean - 0.05 * wide, "upper": mean + 0.1 * wide}
    coords = {"text": text, "query_position": range(n), "key_position": range(n)}
    return xr.Dataset({name: (names, each) for name, each in values.items()}, coords)


def areas(ax):
    """Sizes of the squares of each layer: upper end, mean, lower end."""
    return [
        np.array([np.ptp(path.vertices[:, 0]) ** 2 for path in layer.get_paths()])
        for layer in ax.collections
    ]


def test_areas_of_squares_are_mean_and_interval(ax):
    summary = attention(3, "道 b")
    assert plots.plot_attention(summary, ax=ax) is ax
    upper, mean, lower = areas(ax)
    past = summary["mean"].values > 0
    for found, name in ((upper, "upper"), (mean, "mean"), (lower, "lower")):
        np.testing.assert_allclose(found, 0.94**2 * summary[name].values[past])
    words = [text.get_text() for text in ax.texts]
    assert words == ["45–60"] * 2 + ["28–43"] * 3  # the first position is certain
    assert [label.get_text() for label in ax.get_xticklabels()] == [plots.drawable("道"), "␣", "b"]


def test_a_long_context_has_marks_and_no_numbers(ax):
    plots.plot_attention(attention(32, "to be, or not to be that is the "), ax=ax)
    assert not ax.texts
    assert len(areas(ax)[1]) == 32 * 33 // 2
    assert len(ax.get_xticks()) == 32


def test_a_mode_has_means_only(ax):
    summary = attention(3, "abc")
    summary["lower"][:] = summary["upper"][:] = np.nan
    plots.plot_attention(summary, ax=ax)
    assert [len(each) for each in areas(ax)] == [0, 6, 0]
    assert not ax.texts


def test_contexts_side_by_side():
    summary = attention(3, ("sequence", ["abc", "bca"]), sequence=2)
    fig, axes = plots.figure(2)
    plots.plot_attention_contexts(summary, axes=axes)
    assert [ax.get_xticklabels()[0].get_text() for ax in axes] == ["a", "b"]
    assert axes[0].get_legend() is not None
    plots.close(fig)


def test_weights_of_a_row_end_with_its_position(ax):
    row = attention(4, "ab\nd").isel(query_position=2)
    plots.plot_weights(row, prior=row, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "↵"]
    assert ax.lines[-1].get_xdata()[0] == pytest.approx(1 / 3)


def beside(**dims):
    shape = (2, *dims.values())
    mean = xr.DataArray(
        np.linspace(-0.2, 0.4, int(np.prod(shape))).reshape(shape), dims=["source", *dims]
    )
    ours = mean.isel(source=0, drop=True)
    table = xr.Dataset({"mean": mean, "lower": mean - 0.1, "upper": mean + 0.1})
    table = table.assign(exceeds_prior=xr.full_like(ours, 0.5), probability=abs(mean))
    return table.assign(probability_mcse=abs(mean) / 10).assign_coords(
        source=["posterior", "prior"]
    )


def test_role_probabilities_are_lengths(ax):
    heads = beside(role=2, layer=1, head=3).assign_coords(role=["current token", "vowels"])
    plots.plot_roles(heads, ax=ax)
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(2, 3, 2)
    expected = heads["probability"].isel(layer=0).transpose("role", "head", "source")
    np.testing.assert_allclose(widths, expected / 2)
    assert ax.texts[0].get_text() == "0.20 ± 0.02"
    (top,) = ax.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["head 1", "head 2", "head 3"]
    assert [label.get_text() for label in ax.get_xticklabels()] == [*"000111"]
    np.testing.assert_allclose(ax.get_xticks()[3:] - ax.get_xticks()[:3], 0.5)


def test_what_is_like_the_prior_is_an_open_circle(ax):
    table = beside(role=3).assign_coords(role=["current token", "vowels", "punctuation"])
    table["exceeds_prior"][1] = 0.99
    plots.plot_role_excess(table, ax=ax)
    (open_circles,) = (
        line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    )
    ours = table["mean"].sel(source="posterior").values
    np.testing.assert_allclose(open_circles.get_xdata(), ours[[0, 2]])


def test_removal_of_heads_and_of_positions():
    fig, axes = plots.figure(3)
    plots.plot_ablation(beside(layer=2, head=2), ax=axes[0])
    assert axes[0].get_yticklabels()[3].get_text() == "layer 2, head 2"
    positions = beside(position=2).assign_coords(distance=("position", [2, 1]))
    plots.plot_ablation(positions, ax=axes[1])
    assert [label.get_text() for label in axes[1].get_yticklabels()] == [
        "2 before the last",
        "1 before the last",
    ]
    agreement = beside(fit=2, measure=2).assign_coords(
        fit=["05", "12"], measure=["mean", "rollout"]
    )
    agreement["mean"][:, 0, 1] = np.nan  # with one layer there is no rollout
    plots.plot_agreement(agreement, ax=axes[2])
    assert len(axes[2].get_yticks()) == 3
    plots.close(fig)
