from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from gptbayes import plots
from gptbayes.predict import check_statistics, relative_frequencies


def interval(**dims):
    shape = tuple(dims.values())
    mean = xr.DataArray(np.linspace(0.2, 0.6, int(np.prod(shape))).reshape(shape), dims=list(dims))
    return xr.Dataset({"mean": mean, "lower": mean - 0.1, "upper": mean + 0.1})


def test_white_space_is_visible_and_any_script_can_be_drawn():
    assert plots.drawable("a b\n") == "a␣b↵"
    assert plots.drawable("ψ") == "ψ"
    assert plots.drawable("\U000e0041") == "U+E0041"  # a tag character: no font has a glyph


def test_next_character(ax):
    summary = interval(token=4).assign_coords(token=[" ", "\n", "道", "a"])
    assert plots.plot_next_character(summary, prior=summary, n_characters=3, ax=ax) is ax
    assert len(ax.get_yticklabels()) == 3
    assert ax.get_yticklabels()[0].get_text() == "a"  # the most probable comes first


def test_attention_shows_intervals_of_the_past_only(ax):
    summary = interval(query_position=3, key_position=3)
    assert isinstance(plots.plot_attention(summary, text="道 b", ax=ax), Axes)
    assert len(ax.texts) == 2 + 3  # rows two and three; the first is certain


def test_pareto_k_shows_every_unit_and_the_limit(ax):
    k = xr.DataArray([0.3, 0.1, 0.6], dims="unit")
    summary = xr.Dataset({"exact": k, "estimated": k + 0.05, "se": 0.1 * (1 + k)})
    assert plots.plot_pareto_k(summary, limit=0.7, ax=ax) is ax
    points = ax.lines[1]
    np.testing.assert_allclose(points.get_xdata(), [0.1, 0.3, 0.6])
    np.testing.assert_allclose(points.get_ydata(), [0.15, 0.35, 0.65])
    assert ax.lines[2].get_ydata()[0] == 0.7


def test_r_hats_and_traces_and_densities(ax):
    values = xr.DataArray([1.0, 1.02, np.nan], dims="scalar")
    plots.plot_r_hat({"weights": values, "log posterior": values[:1]}, limit=1.01, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "weights\n(3)",
        "log posterior\n(1)",
    ]
    fig, (other, third) = plots.figure(2)
    plots.plot_trace(xr.DataArray(np.zeros((2, 5)), dims=("chain", "draw")), label="x", ax=other)
    assert len(other.lines) == 2
    table = xr.Dataset(
        {"per_character": ("fit", [-2.0, -3.0]), "per_character_se": ("fit", [0.1, 0.2])},
        {"fit": ["a", "b"]},
    )
    plots.plot_held_out(table, baselines={"uniform": -3.5}, ax=third)
    assert [label.get_text() for label in third.get_yticklabels()] == ["a", "b"]
    plots.close(fig)


def test_a_ladder_has_a_line_for_each_method(ax):
    dims = ("fit", "stage")
    means = np.array([[-3.0, -1.0, -2.0], [-2.5, -2.4, -2.3]])
    values = xr.Dataset(
        {"mean": (dims, means), "se": (dims, np.full((2, 3), 0.1))},
        {"fit": ["mode", "nuts"], "stage": ["01", "02", "03"]},
    )
    plots.plot_ladder(values, baselines={"uniform": -3.5}, ax=ax)
    drawn = [container.lines[0].get_ydata() for container in ax.containers]
    np.testing.assert_array_equal(drawn, means)
    assert ax.get_xticklabels()[2].get_text() == "03"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert set(words) == {"mode", "nuts", "uniform"}


def test_paths_have_medians_over_chains_and_the_band_of_draws(ax):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 2, 4, 5))
    found = xr.Dataset(
        {"log_posterior": (("alignment", "path", "pair", "point"), values)},
        {
            "alignment": ["as drawn", "aligned"],
            "path": ["straight", "arc"],
            "t": ("point", np.linspace(0, 1, 5)),
            "same_chain": ("pair", [False, False, False, True]),
        },
        {"ends": "draws", "level": -3.0, "sd": 2.0},
    )
    assert plots.plot_path(found, ax=ax) is ax
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(drawn["arc"], np.median(values[1, 1, :3], axis=0))
    np.testing.assert_array_equal(drawn["arc between draws of one chain"], values[1, 1, 3])
    assert "optimised curve" not in drawn
    assert (ax.patches[0].get_y(), ax.patches[0].get_height()) == (-7.0, 8.0)


def test_contraction_shares_out_all_weights(ax):
    local = xr.Dataset(
        {
            "n": ("block", [10, 4]),
            "learned": ("block", [2.0, 3.0]),
            "gauge": ("block", [5.0, 0.0]),
        },
        {"block": ["key, layer 1", "lm_head_offset"]},
    )
    plots.plot_contraction(local, ax=ax)
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(3, 2)
    np.testing.assert_allclose(widths, [[0.2, 0.75], [0.3, 0.25], [0.5, 0.0]])
    assert ax.get_yticklabels()[0].get_text() == "key, layer 1 (10)"


def test_what_cannot_be_told_from_the_prior_is_an_open_circle(ax):
    table = interval(layer=2, rank=3)
    table = table.assign({f"prior_{name}": table[name] + 0.05 for name in table})
    told = np.array([[True, False, True], [True, True, False]])
    plots.plot_posterior_and_prior(
        table.assign(differs=(("layer", "rank"), told)), label="x", ax=ax
    )
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), table["mean"].values[~told])
    assert ax.lines[-1].get_markerfacecolor() == "white"


def checks_of_text():
    rng = np.random.default_rng(1)
    model = ["".join(rng.choice(list("ab "), 60, p=[0.4, 0.4, 0.2])) for _ in range(400)]
    return "a " * 30, model


def test_text_checks_show_every_text_on_a_scale_of_its_own(ax):
    observed, model = checks_of_text()
    found = check_statistics(observed, model, "ab ba")
    assert plots.plot_text_checks(found, ax=ax) is ax
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == found["statistic"].values.tolist()
    rows = [line for line in ax.lines if line.get_label() == "simulated texts"]
    for line, name in zip(rows, names, strict=True):
        values = found["replicated"].sel(statistic=name).values
        drawn = line.get_xdata()
        assert (np.diff(drawn[np.argsort(values)]) >= 0).all()
        assert drawn.min() >= 0
        assert drawn.max() <= 1
    failing = [line for line in ax.lines if "fails" in str(line.get_label())]
    assert [line.get_marker() for line in failing] == ["D"] * int((~found["ok"]).sum())
    assert failing
    assert "1.0; simulated" in ax.texts[3].get_text()  # every word is one letter long
    assert ax.texts[3].get_text().endswith("p = 0.005")


def test_texts_without_words_can_be_drawn(ax):
    found = check_statistics(30 * "!", 4 * [30 * "."], "ab")
    plots.plot_text_checks(found, ax=ax)
    assert ax.texts[4].get_text() == "no words; simulated no words; p = -"


def test_frequencies_are_in_order_and_beside_the_observed(ax):
    observed, model = checks_of_text()
    pairs = relative_frequencies(observed, model, "bigrams")
    plots.plot_frequencies(pairs, n_items=4, ax=ax)
    mean, seen = (ax.lines[k].get_ydata() for k in (0, 1))
    assert (np.diff(mean) <= 0).all()
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert len(labels) == 4
    assert seen[labels.index("a␣")] == pytest.approx(100 * 30 / 59)
    fig, (other,) = plots.figure()
    plots.plot_frequencies(relative_frequencies(observed, model, "word lengths"), ax=other)
    lengths = [int(label.get_text()) for label in other.get_xticklabels()]
    assert lengths == sorted(lengths)
    assert other.get_xlabel() == "word length (letters)"
    plots.close(fig)
