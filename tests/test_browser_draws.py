"""Leafing through the posterior: what the page shows of a draw is what the netCDF says of it."""

from __future__ import annotations

import json
import re
from itertools import permutations

import axe
import numpy as np
import pytest
import xarray as xr
from browser import opened
from scipy.special import softmax

from gptbayes.inference import open_run, problem_of
from gptbayes.model.forward import forward

pytestmark = pytest.mark.usefixtures("programs", "browser")

LABEL = re.compile(r"draw (\d+) of (\d+): chain (\d+), draw (\d+)")
SHOWN = 6e-4
"""Half of the last digit, and a little."""


@pytest.fixture
def page(browser, report):
    with opened(browser, report) as (page, complaints, _):
        yield page
        assert not complaints


@pytest.fixture(scope="module")
def netcdf(runs):
    """Parameters and characters, straight from the file."""
    path = runs["nuts"] / "posterior.nc"
    with xr.open_dataset(path, engine="netcdf4") as root:
        characters = json.loads(root.attrs["characters"])
    with xr.open_dataset(path, group="posterior", engine="netcdf4") as draws:
        parameters = {name: values.values for name, values in draws.items()}
    problem = problem_of(open_run(runs["nuts"]))
    return parameters, characters, problem


def view(page, name):
    return page.locator(f".draws[data-view={name}]")


def leaf(block, k):
    """Move the slider to frame k as a mouse does; the chain and draw of the frame, 0-based."""
    block.locator("input[type=range]").evaluate(
        "(slider, k) => { slider.value = k; slider.dispatchEvent(new Event('input')); }", k
    )
    frame, _, chain, draw = map(int, LABEL.search(block.locator(".which").inner_text()).groups())
    assert frame == k
    return chain - 1, draw - 1


def one_draw(parameters, chain, draw):
    return {name: values[chain, draw] for name, values in parameters.items()}


@pytest.mark.parametrize("k", [1, 23, 60])
def test_attention_of_a_draw(page, netcdf, k):
    parameters, _, problem = netcdf
    block = view(page, "attention")
    chain, draw = leaf(block, k)
    maps = block.locator("table.of-posterior")
    shown = np.array(
        [
            maps.nth(h)
            .locator("[role=gridcell]")
            .evaluate_all("all => all.map(cell => cell.dataset.value / 1000)")
            for h in range(maps.count())
        ],
        dtype=float,
    )
    context = problem.held_out.x[:1]
    weights = forward(problem.stage, one_draw(parameters, chain, draw), context).attention
    past = np.tril_indices(context.shape[1])
    exact = weights[0, :, 0][:, past[0], past[1]]  # (head, cell), in the order of this draw
    errors = [np.abs(exact[list(order)] - shown).max() for order in permutations(range(3))]
    assert min(errors) < SHOWN  # heads are matched, so their order is another
    assert sorted(errors)[1] > 10 * SHOWN


@pytest.mark.parametrize("k", [2, 59])
def test_next_characters_of_a_draw(page, netcdf, k):
    parameters, characters, problem = netcdf
    block = view(page, "next")
    chain, draw = leaf(block, k)
    x = problem.held_out.x[:1]
    p = softmax(forward(problem.stage, one_draw(parameters, chain, draw), x).logits[0, -1])
    table = block.locator("table.of-posterior").first
    tokens = [t.replace("␣", " ") for t in table.locator("th").all_inner_texts()]
    shown = table.locator("[role=gridcell]").evaluate_all(
        "all => all.map(cell => cell.dataset.value / 1000)"
    )
    np.testing.assert_allclose(shown, [p[characters.index(t)] for t in tokens], atol=SHOWN)


def test_the_text_of_a_draw_has_the_probabilities_of_that_draw(page, netcdf):
    parameters, characters, problem = netcdf
    block = view(page, "text")
    chain, draw = leaf(block, 7)
    prompt = list(problem.held_out.x[0])
    written = block.locator(".c").all_inner_texts()
    tokens = [characters.index(c if c == " " else c.replace("␣", " ")) for c in written]
    for t in (0, 11, len(tokens) - 1):
        context = np.array([(prompt + tokens[:t])[-problem.design.block_size :]])
        logits = forward(problem.stage, one_draw(parameters, chain, draw), context).logits[0, -1]
        block.locator(".c").nth(t).hover()
        words = block.locator(".detail").inner_text()
        shown = float(re.search(r"probability ([0-9.]+) in this draw", words)[1])
        assert shown == pytest.approx(softmax(logits)[tokens[t]], abs=SHOWN)


def test_it_plays_and_pauses(page):
    block = view(page, "attention")
    button, slider = block.locator("button"), block.locator("input[type=range]")
    button.click()
    page.wait_for_function("s => s.value > 2", arg=slider.element_handle())
    assert button.inner_text() == "Pause"
    button.click()
    before = slider.input_value()
    page.wait_for_timeout(900)
    assert slider.input_value() == before
    assert button.inner_text() == "Play"


def test_it_plays_slowly_for_those_who_want_less_motion(browser, report):
    with opened(browser, report, reduced_motion="reduce") as (page, *_):
        block = view(page, "attention")
        slider = block.locator("input[type=range]")
        block.locator("button").click()
        page.wait_for_timeout(1200)
        assert slider.input_value() == "1"
        page.wait_for_function("s => s.value > 1", arg=slider.element_handle())


def test_the_keyboard_is_enough(page, netcdf):
    """Slider and grid by keys alone; the grid is one stop, and a cell says its numbers."""
    parameters, _, problem = netcdf
    block = view(page, "attention")
    block.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert block.locator("input[type=range]").input_value() == "2"
    assert "draw 2 of 60" in block.locator("input[type=range]").get_attribute("aria-valuetext")
    grid = block.locator("table.of-posterior").first
    assert grid.locator("[tabindex='0']").count() == 1
    grid.locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    words = block.locator(".detail").inner_text()
    assert "position 2" in words
    assert "attends to position 2" in words
    mean, lower, upper = map(
        float, re.search(r"mean (\S+), 90 % interval (\S+) to (\S+?)[,.] ", f"{words} ").groups()
    )
    weights = forward(problem.stage, parameters, problem.held_out.x[:1]).attention
    cell = weights[..., 0, 1, 1]  # (chain, draw, layer, head)
    averages = cell.mean(axis=(0, 1, 2))
    assert lower <= mean <= upper
    assert averages.min() - 0.2 < mean < averages.max() + 0.2
    assert re.search(r"R-hat 1\.\d{3}|R-hat 0\.99\d", words)


def test_means_over_heads_are_those_of_the_netcdf(page, netcdf):
    """Matching permutes the heads of a draw, so the mean over heads does not depend on it."""
    parameters, _, problem = netcdf
    grids = view(page, "attention").locator("table.of-posterior")
    means = []
    for h in range(grids.count()):
        grids.nth(h).locator("[role=gridcell]").nth(2).hover()
        words = view(page, "attention").locator(".detail").inner_text()
        means.append(float(re.search(r"mean ([0-9.]+)", words)[1]))
    weights = forward(problem.stage, parameters, problem.held_out.x[:1]).attention
    assert np.mean(means) == pytest.approx(weights[..., 0, 1, 1].mean(), abs=SHOWN)


def test_heads_contexts_and_prior_are_chosen(page):
    block = view(page, "attention")
    assert block.locator("table.map").count() == 6  # three heads, posterior and prior
    block.get_by_role("combobox", name="Head").select_option(label="head 2")
    assert block.locator("table.map").count() == 2
    block.get_by_role("combobox", name="Show").select_option(label="prior")
    assert block.locator("table.map").count() == 1
    before = block.locator("table.map thead").inner_text()
    block.get_by_role("combobox", name="Context").select_option(index=1)
    assert block.locator("table.map thead").inner_text() != before


def test_on_paper_there_are_means_and_intervals(page):
    for name in ("attention", "next"):
        block = view(page, name)
        assert block.locator(".view").is_visible()
        assert not block.locator("figure").is_visible()
    page.emulate_media(media="print")
    for name in ("attention", "next"):
        block = view(page, name)
        assert not block.locator(".view").is_visible()
        assert block.locator("figure img").is_visible()
    assert not page.locator("nav").is_visible()


def test_without_scripts_there_are_pictures(browser, report):
    with opened(browser, report, java_script_enabled=False) as (page, complaints, _):
        assert view(page, "attention").locator("figure img").is_visible()
        assert not view(page, "attention").locator(".view").is_visible()
    assert not complaints


def test_no_other_script_runs(browser, report):
    """The policy names the page's own script by its digest; another one is refused."""
    with opened(browser, report) as (page, complaints, _):
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.x = 1';"
            " document.body.append(s); }"
        )
        assert page.evaluate("window.x") is None
    assert "Content Security Policy" in complaints[0]


def test_the_navigation_stays_and_headings_are_links(page):
    page.set_viewport_size({"width": 1600, "height": 900})
    page.locator("#sensitivity").scroll_into_view_if_needed()
    assert page.locator("nav").bounding_box()["y"] == pytest.approx(0, abs=1)
    targets = page.locator("h2 a, h3 a").evaluate_all("all => all.map(a => a.hash.slice(1))")
    assert len(targets) > 10
    assert page.evaluate("ids => ids.every(id => document.getElementById(id))", targets)


def test_captions_are_as_narrow_as_the_page(browser, report):
    """A caption of a table that scrolls would otherwise be as wide as the table."""
    with opened(browser, report, viewport={"width": 480, "height": 900}) as (page, *_):
        right = page.locator("caption").evaluate_all(
            "all => all.map(caption => caption.getBoundingClientRect().right)"
        )
    assert len(right) > 5
    assert max(right) <= 480


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [480, 1600])
def test_axe_finds_nothing(browser, report, scheme, width):
    if axe.source() is None:
        pytest.skip(axe.HOW_TO_GET)
    size = {"width": width, "height": 900}
    with opened(browser, report, viewport=size, color_scheme=scheme) as (page, *_):
        assert axe.violations(page) == []
