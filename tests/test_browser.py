"""The pages, as a reader sees them: in a real browser without a network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from browser import opened
from scipy.special import softmax

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.corpus import printable
from gptbayes.inference import open_run, problem_of
from gptbayes.model.forward import forward
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.report import write_report

pytestmark = pytest.mark.usefixtures("programs", "browser")

NUMBERS = re.compile(r"probability (\S+), 90 % interval (\S+) to (\S+), Monte Carlo error (\S+)")
SPLIT = re.compile(
    r"entropy of this character (\S+) ± \S+ nats:\s*(\S+) ± \S+ if the weights were known,"
    r"\s*(\S+) ±"
)


@pytest.fixture(scope="module")
def texts(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "texts.html"
    command = ["text", runs["nuts"], "--prompt", "the cat sat", "--length", 30, "--texts", 2]
    done = subprocess.run(
        [sys.executable, "-m", "gptbayes", *map(str, command), "--html", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(params=["report", "texts"])
def path(request):
    return request.getfixturevalue(request.param)


def test_nothing_is_asked_of_the_network_and_nothing_complains(browser, path):
    with opened(browser, path) as (page, complaints, requests):
        page.wait_for_load_state("networkidle")
        broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
    assert not complaints
    assert requests[0] == path.resolve().as_uri()
    assert all(url.startswith("data:") for url in requests[1:])
    assert broken == 0


@pytest.mark.parametrize("width", [1600, 1280, 480])
def test_nothing_runs_off_the_page(browser, path, width):
    with opened(browser, path, viewport={"width": width, "height": 900}) as (page, *_):
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0


def test_it_prints(browser, path):
    """To PDF, with the texts and without what is for pointing at."""
    with opened(browser, path) as (page, *_):
        assert page.pdf().startswith(b"%PDF-")
        page.emulate_media(media="print")
        first = page.locator("section > .text .c").first
        first.hover()
        assert first.is_visible()
        assert not first.locator(".n").is_visible()


def test_the_abstract_is_one_screen(browser, report):
    with opened(browser, report, viewport={"width": 1280, "height": 1000}) as (page, *_):
        box = page.locator("section.abstract").bounding_box()
        assert box["y"] + box["height"] <= 1000


def test_on_paper_nothing_is_folded(browser, report):
    """Warnings and references can be read where nothing can be opened, and fold again."""
    with opened(browser, report) as (page, *_):
        folded = page.locator("details:not([open])")
        before = folded.count()
        assert before
        assert not page.locator("#warnings li").first.is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert folded.count() == 0
        assert page.locator("#warnings li").first.is_visible()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert folded.count() == before


def test_pointing_at_a_character_shows_what_the_netcdf_says(browser, path, runs):
    """Mean, interval and entropies of a character, recomputed from the draws in the file."""
    netcdf = runs["nuts"] / "posterior.nc"
    with xr.open_dataset(netcdf, engine="netcdf4") as root:
        characters = json.loads(root.attrs["characters"])
    stage = problem_of(open_run(runs["nuts"])).stage
    with opened(browser, path) as (page, *_):
        found = page.locator("section > .text")
        assert found.count() >= 2
        for i in range(found.count()):
            block = found.nth(i)
            title = block.locator("xpath=preceding-sibling::h3[1]").inner_text()
            group = "prior" if "prior" in title else "posterior"
            with xr.open_dataset(netcdf, group=group, engine="netcdf4") as draws:
                parameters = {name: values.values for name, values in draws.items()}
            written = block.locator(".c")
            text = block.locator(".prompt").inner_text()
            shown = [each.replace("↵\n", "\n") for each in written.evaluate_all(_OWN_WORDS)]
            for k in (0, 7, len(shown) - 1):
                context = [characters.index(c) for c in (text + "".join(shown[:k]))[-5:]]
                logits = forward(stage, parameters, np.array([context])).logits[..., 0, -1, :]
                p = softmax(logits, axis=-1).reshape(-1, len(characters))
                assert not written.nth(k).locator(".n").is_visible()
                written.nth(k).hover()
                tip = written.nth(k).locator(".n")
                assert tip.is_visible()
                _check(tip.inner_text(), p, characters.index(shown[k]))


def test_the_held_out_density_is_that_of_the_netcdf(browser, report, runs):
    with xr.open_dataset(
        runs["nuts"] / "posterior.nc", group="posterior", engine="netcdf4"
    ) as draws:
        parameters = {name: values.values for name, values in draws.items()}
    with xr.open_dataset(
        runs["nuts"] / "posterior.nc", group="constant_data", engine="netcdf4"
    ) as data:
        x, y = data["held_out_x"].values, data["held_out_y"].values
    stage = problem_of(open_run(runs["nuts"])).stage
    p = softmax(forward(stage, parameters, x).logits, axis=-1)
    each = np.take_along_axis(p, np.broadcast_to(y[..., None], (*p.shape[:-1], 1)), -1)[..., 0]
    elpd = np.log(each.prod(axis=-1).mean(axis=(0, 1))).sum() / y.size
    with opened(browser, report) as (page, *_):
        cell = page.locator("#predictions table th:text-is('NUTS (nuts)') + td").first.inner_text()
    assert float(cell.split()[0]) == pytest.approx(elpd, abs=5e-4)


def test_the_roles_are_those_of_the_netcdf(browser, report, runs):
    """Attention to the position itself, of the head that has most of it in each draw."""
    idata = open_run(runs["nuts"])
    stage, x = problem_of(idata).stage, problem_of(idata).held_out.x[:50]
    wanted = []
    for group in ("posterior", "prior"):
        with xr.open_dataset(runs["nuts"] / "posterior.nc", group=group, engine="netcdf4") as draws:
            parameters = {name: values.values for name, values in draws.items()}
        weights = forward(stage, parameters, x).attention  # (chain, draw, layer, head, B, T, T)
        t = np.arange(1, weights.shape[-1])
        beyond = (weights[..., t, t] - 1 / (t + 1)).mean(axis=(-1, -2)).max(axis=(-1, -2))
        wanted += [beyond.mean(), *np.quantile(beyond, [0.05, 0.95])]
    with opened(browser, report) as (page, *_):
        cells = page.locator("#attention th:text-is('current token') ~ td").all_inner_texts()
    shown = [float(each) for cell in cells[:2] for each in re.findall(r"[+-][0-9.]+", cell)]
    np.testing.assert_allclose(shown, wanted, atol=6e-3)


_OWN_WORDS = "all => all.map(c => c.firstChild.textContent)"


def _check(tip, p, token):
    """What a tip says, against draws of the probabilities (draw, token)."""
    mean = p.mean(axis=0)
    numbers = [float(each) for each in NUMBERS.search(tip).groups()]
    wanted = [mean[token], *np.quantile(p[:, token], [0.05, 0.95])]
    np.testing.assert_allclose(numbers[:3], wanted, atol=6e-4)
    total, expected, within = (float(each) for each in SPLIT.search(tip).groups())
    entropy = -(p * np.log(p)).sum(axis=1).mean()
    assert expected == pytest.approx(entropy, abs=6e-4)
    raised = total + (mean * np.log(mean)).sum()  # what was added for the finite number of draws
    assert -6e-4 <= raised < 0.1
    assert total - expected == pytest.approx(within, abs=2e-3)


HOSTILE = (
    "<script>hacked=1</script> <img src=x onerror=hacked=2> {{7*7}} {% raw %} ${7*7} </style> "
    "\x1b[31m \x1b]0;t\x07 abc\u202edef \u2066ghi\u202bjkl &lt;b&gt; \"'>x "
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report and a page of texts of a corpus that would like to be more than a text."""
    folder = tmp_path_factory.mktemp("hostile")
    source = "\u202eevil <script>hacked=3</script> {{7*7}} caf\udce9\x1b.txt"
    problem = make_problem(stage("01"), HOSTILE * 4, source=printable(source), batch_size=9)
    run = fit.nuts(problem, folder / "<b>x {{7*7}}", chains=2, iter_warmup=50, iter_sampling=50)
    texts = folder / "texts.html"
    arguments = ["--prompt", "abc\u202ed", "--length", "60", "--texts", "3", "--html", str(texts)]
    assert main(["text", str(run), *arguments]) == 0
    return {"report": write_report(run), "texts": texts}


@pytest.mark.parametrize("name", ["report", "texts"])
def test_hostile_text_is_nothing_but_text(browser, hostile, name):
    """It runs no script, breaks no policy, is no template, and each character is in its place."""
    with opened(browser, hostile[name]) as (page, complaints, requests):
        page.wait_for_load_state("networkidle")
        assert page.evaluate("typeof hacked") == "undefined"
        said = page.evaluate("document.body.innerText")
        places = page.evaluate(
            """[...document.querySelectorAll(".text")].map(text => [...text.children].map(
                each => { const box = each.getClientRects()[0]; return [box.top, box.left] }))"""
        )
    assert not complaints
    assert all(url.startswith("data:") for url in requests[1:])
    assert "{{7*7}}" in said
    assert not any(c in said for c in "\u202e\u2066\u202b\x1b\x07")
    lines = [[(top, left) for top, left in text] for text in places]
    assert any(len(text) > 50 for text in lines)
    for text in lines:  # from left to right, then the next line
        for (top, left), (below, right) in pairwise(text):
            assert right > left or below > top
