"""Masses of modes: draws that are placed, forward passes that are real."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr
from problems import small_problem

from gptbayes import fit, plots
from gptbayes.cli import main
from gptbayes.compare.evidence import compare_evidence, model_evidence
from gptbayes.compare.evidence_summary import summarise_tempering
from gptbayes.diagnostics.mode_masses import (
    label_of_draws,
    masses_of_modes,
    mode_masses,
    weigh_by_mass,
    with_masses,
)
from gptbayes.diagnostics.verdict import MIXED, WRONG_IF, Verdict
from gptbayes.inference import open_run
from gptbayes.report import Analysis, render

N_CHAIN, N_SEGMENT, N_MOVE = 4, 8, 6


@pytest.fixture(scope="module")
def bigram(tmp_path_factory, engine):
    folder = tmp_path_factory.mktemp("masses") / "01"
    settings = {"chains": N_SEGMENT, "moves": N_MOVE, "weights": (0.05, 1.0)}
    fit.smc(small_problem("01", n_new_tokens=0), folder, replicates=N_CHAIN, **settings)
    return open_run(folder)


def placed(idata, segments, rng, shift=4.0):
    """The same fit with the draws of some segments at other bigrams than the rest.

    ``segments`` are, for each replicate, how many of its segments are in the second mode.
    """
    moved = idata.copy()
    values = rng.normal(0, 0.3, size=idata.posterior["token_embedding"].shape)
    for chain, n in enumerate(segments):
        first = np.arange(values.shape[1]) >= n * N_MOVE
        values[chain, first, :, 0] += shift
        values[chain, ~first, :, 1] += shift
    moved.posterior["token_embedding"] = idata.posterior["token_embedding"].copy(data=values)
    return moved


def labels(per_chain):
    """Of two segments of each chain, in 48 draws."""
    n = len(per_chain)
    flat = np.array(per_chain).ravel()
    size = N_SEGMENT * N_MOVE // 2
    coords = {
        "chain_index": ("segment", np.repeat(np.arange(n), 2)),
        "start": ("segment", np.tile([0, size], n)),
        "stop": ("segment", np.tile([size, 2 * size], n)),
    }
    return xr.DataArray(flat, dims="segment", coords=coords)


def test_masses_and_their_errors(bigram, rng):
    found = mode_masses(placed(bigram, [1, 2, 3, 2], rng))
    shares = np.array([1, 2, 3, 2]) / N_SEGMENT
    np.testing.assert_allclose(found.table["mass"], [1 - shares.mean(), shares.mean()])
    np.testing.assert_allclose(found.table["se"], shares.std(ddof=1) / 2)
    np.testing.assert_allclose(found.of_replicate[:, 1], shares)
    assert found.table["n_replicates"].values.tolist() == [4, 4]
    assert found.label.shape == (N_CHAIN, N_SEGMENT * N_MOVE)
    assert [each.ok for each in found.findings] == [True, True]
    assert found.findings[1].text == "mode 2 has mass 0.25 ± 0.05"


def test_a_mode_of_some_replicates_is_named(bigram, rng):
    found = mode_masses(placed(bigram, [0, 4, 0, 0], rng))
    assert found.table["n_replicates"].values.tolist() == [4, 1]
    assert not found.findings[1].ok
    assert "found by replicate 2 of 4 only" in found.findings[1].text


def test_one_mode_stays_one(bigram, rng):
    for each in (bigram, placed(bigram, [0, 0, 0, 0], rng), placed(bigram, [2] * 4, rng, 0.3)):
        found = mode_masses(each)
        assert found.table.sizes["mode"] == 1
        assert float(found.table["mass"][0]) == 1


def test_three_modes(bigram, rng):
    three = placed(bigram, [2, 3, 3, 2], rng)
    values = three.posterior["token_embedding"].values
    values[:, -N_MOVE:, :, 0] -= 4.0
    values[:, -N_MOVE:, :, 2] += 4.0
    found = mode_masses(three)
    np.testing.assert_allclose(sorted(found.table["mass"].values), [4 / 32, 10 / 32, 18 / 32])


def test_masses_of_the_modes_that_chains_are_in(bigram, rng):
    chains = placed(bigram, [0, 8, 0, 0], rng)  # three chains in the first mode, one in the other
    label = labels([[0, 0], [1, 1], [0, 0], [0, 0]])
    smc = placed(bigram, [4, 5, 4, 5], rng)
    found = masses_of_modes(chains, label, smc)
    share = np.array([4, 5, 4, 5]) / N_SEGMENT
    np.testing.assert_allclose(found.table["mass"], [1 - share.mean(), share.mean()], atol=0.02)
    mixtures = weigh_by_mass(chains, label, found, np.array([1.0, 0, 0, 0]))
    weight = mixtures["weight"].sel(mixture="mass").values
    np.testing.assert_allclose(weight.sum(), 1)
    assert weight[1] == pytest.approx(found.table["mass"][1] / found.table["mass"].sum())
    np.testing.assert_allclose(weight[0], weight[2])
    assert np.isfinite(mixtures["elpd"]).all()
    elsewhere = masses_of_modes(chains, label, placed(bigram, [8, 8, 8, 8], rng, 9.0))
    assert elsewhere.elsewhere > 0.9
    assert "the chains missed a part of the posterior" in elsewhere.findings[-1].text


def test_labels_of_draws():
    found = label_of_draws(labels([[0, 1], [-1, 0]]), (2, 50))
    assert found[0].tolist() == [0] * 24 + [1] * 24 + [-1] * 2
    assert found[1].tolist() == [-1] * 24 + [0] * 24 + [-1] * 2


def test_the_verdict_says_what_smc_knows(bigram, rng):
    verdict = Verdict(MIXED, "Mixed.", WRONG_IF[MIXED], xr.Dataset())
    assert with_masses(verdict, None) is verdict
    one = with_masses(verdict, mode_masses(placed(bigram, [0] * 4, rng)))
    assert "4 replicates from the prior, finds no other mode" in one.text
    assert "none of 4 replicates from the prior had a particle in it" in one.wrong_if
    two = with_masses(verdict, mode_masses(placed(bigram, [2] * 4, rng)))
    assert "mode 2 has mass 0.25" in two.text
    assert two.wrong_if == WRONG_IF[MIXED]


def test_fits_of_another_posterior_have_no_say(bigram, runs):
    nuts = open_run(runs["nuts"])
    with pytest.raises(ValueError, match="need fits of the same posterior"):
        masses_of_modes(nuts, labels([[0, 0], [0, 0]]), bigram)
    with pytest.raises(ValueError, match="a path is that of smc, got a fit by nuts"):
        mode_masses(nuts)


def test_symmetry_finds_the_fit_beside_it(runs, tmp_path, capsys):
    shutil.copytree(runs["nuts"], tmp_path / "05-nuts")
    settings = {"replicates": 2, "chains": 10, "moves": 6}
    open_run(fit.smc(small_problem("05"), tmp_path / "05-smc", **settings))
    assert main(["symmetry", str(tmp_path / "05-nuts"), "--no-paths", "--no-contraction"]) == 0
    said = capsys.readouterr()
    assert "masses of modes from" in said.err
    assert "Masses of modes, by sequential Monte Carlo" in said.out
    assert "mode 1 has mass" in said.out
    assert main(["symmetry", str(tmp_path / "05-smc"), "--no-paths", "--no-contraction"]) == 0
    assert "mode 1 has mass" in capsys.readouterr().out


def test_what_a_report_shows(bigram):
    found = summarise_tempering(bigram)
    assert found.replicates["n_levels"].values.tolist() == [2] * N_CHAIN
    assert (found.replicates["stan_share"] < 1).all()
    assert found.evidence.log_evidence == pytest.approx(
        float(np.log(np.exp(found.replicates["log_evidence"]).mean()))
    )
    assert "first particles" in found.findings[0].text
    assert found.findings[-1] == found.masses.findings[-1]


@pytest.mark.slow
def test_the_report_has_a_section_on_the_evidence(bigram):
    html = render(Analysis(bigram, "it"))
    assert html.index('id="diagnostics"') < html.index('id="evidence"') < html.index('id="chains"')
    found = model_evidence(bigram)
    assert f"{found.log_evidence:.2f} ± {found.se:.2f}" in html
    assert "would be wrong if replicates differed" in html
    assert "independent draws from the prior" in html


@pytest.mark.parametrize("draw", [plots.plot_tempering, plots.plot_level_health])
def test_figures_of_the_path(bigram, draw):
    _, (ax,) = plots.figure()
    assert draw(bigram["path"], ax=ax) is ax
    assert len(ax.lines) >= 3
    plots.close(ax.figure)


def test_figures_of_evidence_and_masses(bigram, rng):
    _, axes = plots.figure(3)
    table = compare_evidence({"it": model_evidence(bigram)})
    assert plots.plot_evidence(table, ax=axes[0]) is axes[0]
    masses = mode_masses(placed(bigram, [1, 2, 3, 2], rng))
    assert plots.plot_mode_masses(masses.of_replicate, ax=axes[1]) is axes[1]
    gain = xr.DataArray([[1.0, -2.0]], {"model": ["stage 01"], "n_characters": [64, 128]})
    assert plots.plot_evidence_by_size(gain, abs(gain), ax=axes[2]) is axes[2]
    assert [each.get_text() for each in axes[2].get_xticklabels()] == ["64", "128"]
    plots.close(axes[0].figure)


def test_lines_of_twelve_stages_differ():
    names = [f"stage {k}" for k in range(1, 13)]
    cost = xr.DataArray(np.ones((12, 2)), {"model": names, "n_characters": [64, 128]})
    _, (ax,) = plots.figure()
    assert plots.plot_cost_by_size(cost, ax=ax) is ax
    looks = {(tuple(line.get_color()), line.get_marker()) for line in ax.lines}
    assert len(looks) == 12
    assert [each.get_text() for each in ax.get_legend().get_texts()] == names
    plots.close(ax.figure)
