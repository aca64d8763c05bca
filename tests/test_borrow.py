"""The page "Borrow this": its code runs, in order, on a mixture and on two intercepts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from test_diagnose_mixing import CENTRES, as_idata, chains_at, relabelled

from gptbayes.symmetry.posterior import posterior_of

PAGE = Path(__file__).parents[1] / "analyses" / "borrow.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
Y = np.linspace(-5, 5, 6)  # the observations of `as_idata`


def code_of(section):
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


def log_density(posterior):
    """Of the draws up to a constant, with a flat prior: what the page's reader has."""
    mu, sigma, theta = (posterior[n].values[..., None, :] for n in CENTRES)
    return np.log((theta * norm.pdf(Y[:, None], mu, sigma)).sum(axis=-1)).sum(axis=-1)


def density_at_zero(posterior):
    each = posterior["theta"] * norm.pdf(0, posterior["mu"], posterior["sigma"])
    return each.sum("component")


@pytest.fixture(scope="module")
def namespace():
    rng = np.random.default_rng(5)
    idata = as_idata(relabelled(chains_at(rng, 4 * [CENTRES]), rng, False))
    a, b = rng.normal(size=(2, 4, 500))
    total = 1 + 0.3 * rng.normal(size=(4, 500))  # the data see the sum only
    dims = ("chain", "draw")
    intercepts = {"a": (dims, (total + a - b) / 2), "b": (dims, (total - a + b) / 2)}
    return {
        "idata": idata,
        "posterior": posterior_of(idata),
        "intercepts": xr.Dataset(intercepts),
        "log_density": log_density,
        "density_at_zero": density_at_zero,
    }


def test_the_page_says_what_each_technique_assumes():
    assert len(SECTIONS) == 7
    for section in SECTIONS[1:]:
        for word in ("**Assumes**", "**Wrong if**", "**Source**"):
            assert word in section, section.splitlines()[0]
        assert 3 <= len([line for line in code_of(section).splitlines() if line]) <= 12


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 4, 5, 6])
def test_the_code_runs(number, namespace, capsys):
    exec(code_of(SECTIONS[0]), namespace)
    if number == 2:
        exec(code_of(SECTIONS[1]).split("gb.check")[0], namespace)
    exec(code_of(SECTIONS[number]), namespace)
    printed = capsys.readouterr().out
    assert printed
    if number == 1:
        means = [float(word) for word in re.findall(r"-?\d+\.\d*(?:e[-+]\d+)?", printed)]
        np.testing.assert_allclose(sorted(means), CENTRES["mu"], atol=0.05)
    if number == 2:
        assert "mixed up to symmetry" in printed
    if number == 4:
        assert 0.001 < float(namespace["checked"]["p_value"][0])


def test_the_code_of_calibration_runs(engine, namespace, tmp_path, monkeypatch, capsys):
    shutil.copy(Path(__file__).parent / "programs" / "normal-mean.stan", tmp_path / "model.stan")
    monkeypatch.chdir(tmp_path)
    exec(code_of(SECTIONS[0]), namespace)
    exec(code_of(SECTIONS[3]), namespace)
    assert float(re.findall(r"\d\.\d*", capsys.readouterr().out)[0]) > 0.001
