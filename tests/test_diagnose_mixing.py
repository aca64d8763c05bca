"""Mixing of any model: what was planted in the draws is what the verdict says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

import gptbayes as gb
from gptbayes import Group, Orthogonal, Permutation
from gptbayes.cli import main
from gptbayes.diagnostics.mixing import difference_sentences, group_invariants
from gptbayes.groups import load_groups, make_groups, save_groups
from gptbayes.symmetry import random_element, transform
from gptbayes.symmetry.posterior import arrays_of, layout_of

COMPONENT = dict.fromkeys(("mu", "sigma", "theta"), "component")
MIXTURE = Group(Permutation(COMPONENT))
CENTRES = {"mu": [-4.0, 0.0, 4.0], "sigma": [0.5, 1.0, 1.5], "theta": [0.2, 0.3, 0.5]}


def chains_at(rng, centres, chains=4, draws=400):
    """Independent normal draws around one point for each chain."""
    dims = ("chain", "draw", "component")
    found = {}
    for name in CENTRES:
        middle = np.array([each[name] for each in centres])[:, None]  # (chain, 1, component)
        found[name] = (dims, middle + 0.05 * rng.normal(size=(chains, draws, 3)))
    return xr.Dataset(found)


def relabelled(posterior, rng, each_draw):
    """Chains, or draws, at random places of their orbits."""
    layout, arrays = layout_of(MIXTURE, posterior), arrays_of(posterior)
    n = (4, posterior.sizes["draw"]) if each_draw else (4, 1)
    moved = transform(layout, arrays, random_element(layout, n, rng))
    return posterior.assign({name: (posterior[name].dims, v) for name, v in moved.items()})


def as_idata(posterior):
    y = np.linspace(-5, 5, 6)
    mu, sigma, theta = (posterior[n].values[..., None, :] for n in CENTRES)
    density = np.exp(-(((y[:, None] - mu) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
    log_lik = np.log((theta * density).sum(axis=-1))
    lp = xr.Dataset({"lp": (("chain", "draw"), log_lik.sum(axis=-1))})
    likelihood = xr.Dataset({"y": (("chain", "draw", "observation"), log_lik)})
    return make_groups({"posterior": posterior, "sample_stats": lp, "log_likelihood": likelihood})


@pytest.mark.slow
@pytest.mark.parametrize("each_draw", [False, True])
def test_labels_are_no_disagreement(rng, each_draw):
    posterior = relabelled(chains_at(rng, 4 * [CENTRES]), rng, each_draw)
    found = gb.diagnose_mixing(as_idata(posterior), MIXTURE)
    evidence = found.verdict.evidence
    assert set(found.kinds) == set(evidence["quantity"].values)
    assert float(evidence["r_hat_max"].sel(quantity="aligned variables")) < 1.01
    if each_draw:  # every chain visits all labels alike
        assert found.verdict.name in ("mixed", "mixed up to symmetry")
    else:
        assert found.verdict.name == "mixed up to symmetry"
        assert float(evidence["r_hat_max"].sel(quantity="raw variables")) > 1.5
    assert found.modes is None and found.differences is None and found.space.groups is None


@pytest.mark.slow
def test_a_mode_that_labels_do_not_explain_is_found_and_described(rng):
    """Two chains with another middle component, and all with labels of their own."""
    other = {**CENTRES, "mu": [-4.0, 1.0, 4.0]}
    posterior = relabelled(chains_at(rng, [CENTRES, other, CENTRES, other]), rng, False)
    found = gb.diagnose_mixing(as_idata(posterior), MIXTURE)
    assert found.verdict.name == "trapped in modes with different predictions"
    assert found.modes.sizes["mode"] == 2
    np.testing.assert_array_equal(found.modes["whole_chains"], [2, 2])
    label = found.verdict.groups.label
    chain = label["chain_index"].values
    assert {len(set(label.values[chain == c])) for c in range(4)} == {1}
    assert label.values[chain == 0][0] == label.values[chain == 2][0]
    top = found.differences.isel(row=0)
    assert "mu" in str(top["scalar"].values) or "y" in str(top["scalar"].values)
    of_mu = [
        re.match(r"mu\[\d\]: (-?[\d.]+) ± .*, (-?[\d.]+) ±", line)
        for line in difference_sentences(found)
    ]
    pairs = [sorted((float(m[1]), float(m[2]))) for m in of_mu if m]
    np.testing.assert_allclose(pairs[0], [0.0, 1.0], atol=0.02)
    assert "do not estimate the posterior mass" in found.modes.attrs["mass"]
    assert found.modes["lp"].notnull().all()


@pytest.mark.slow
def test_without_a_group_labels_are_modes(rng):
    posterior = relabelled(chains_at(rng, 4 * [CENTRES]), np.random.default_rng(3), False)
    found = gb.diagnose_mixing(as_idata(posterior))
    assert found.verdict.name == "trapped in modes with equal predictions"
    assert "aligned variables" not in found.kinds


@pytest.mark.slow
def test_rotations_of_factors(rng):
    axes = {"loadings": "factor", "scores": "factor"}
    point = {"loadings": rng.normal(size=(6, 2)), "scores": rng.normal(size=(9, 2))}
    dims = {"loadings": ("item", "factor"), "scores": ("person", "factor")}
    draws = {n: v + 0.05 * rng.normal(size=(4, 300, *v.shape)) for n, v in point.items()}
    posterior = xr.Dataset({n: (("chain", "draw", *dims[n]), v) for n, v in draws.items()})
    group = Group(Orthogonal(axes))
    layout = layout_of(group, posterior)
    moved = transform(layout, arrays_of(posterior), random_element(layout, (4, 300), rng))
    rotated = posterior.assign({n: (posterior[n].dims, v) for n, v in moved.items()})
    functions = {"product": lambda p: np.einsum("cdif,cdpf->cdip", p["loadings"], p["scores"])}
    found = gb.diagnose_mixing(make_groups({"posterior": rotated}), group, functions)
    assert found.verdict.name in ("mixed", "mixed up to symmetry")
    kept = found.aligned.posterior["loadings"]
    assert float(kept.std(("chain", "draw")).max()) < 0.1
    assert float(rotated["loadings"].std(("chain", "draw")).max()) > 0.5
    before, after = group_invariants(posterior, group), group_invariants(rotated, group)
    np.testing.assert_allclose(before, after, atol=1e-10)


def test_invariants_do_not_move_with_the_labels(rng):
    posterior = chains_at(rng, 4 * [CENTRES])
    posterior["tau"] = (("chain", "draw"), rng.normal(size=(4, 400)))
    found = [group_invariants(p, MIXTURE) for p in (posterior, relabelled(posterior, rng, True))]
    np.testing.assert_allclose(*found, atol=1e-10)
    names = list(found[0]["scalar"].values)
    assert "tau" in names and "mu, sorted, 1" in names


@pytest.mark.slow
def test_superchains_give_nested_r_hat(rng):
    idata = as_idata(chains_at(rng, 4 * [CENTRES]))
    found = gb.diagnose_mixing(idata, MIXTURE, superchains=[0, 0, 1, 1])
    assert found.verdict.evidence["rhat_nested_max"].notnull().all()


def test_bad_input_is_named(rng):
    idata = as_idata(chains_at(rng, 4 * [CENTRES]))
    posterior = idata.posterior
    only = make_groups({"posterior": chains_at(rng, 4 * [CENTRES])})
    with pytest.raises(ValueError, match="must be given, since there is no group log_likelihood"):
        gb.diagnose_mixing(only, MIXTURE)
    with pytest.raises(ValueError, match="unknown functions nu, the variables are mu, sigma, thet"):
        gb.diagnose_mixing(only, MIXTURE, ["nu"])
    with pytest.raises(ValueError, match=r"f must have chain and draw in front, \(4, 400\), got"):
        gb.diagnose_mixing(only, MIXTURE, {"f": lambda p: np.zeros(3)})
    with pytest.raises(ValueError, match="f must have dims chain and draw, got"):
        gb.diagnose_mixing(only, MIXTURE, {"f": lambda p: p["mu"].mean("chain")})
    with pytest.raises(ValueError, match=r"finite"):
        gb.diagnose_mixing(only, MIXTURE, {"f": lambda p: np.nan * p["mu"]})
    with pytest.raises(ValueError, match="functions must have at least one item, got none"):
        gb.diagnose_mixing(only, MIXTURE, [])
    assert posterior.sizes["chain"] == 4


@pytest.mark.slow
def test_the_command(rng, tmp_path, capsys):
    other = {**CENTRES, "mu": [-4.0, 1.0, 4.0]}
    posterior = relabelled(chains_at(rng, [CENTRES, other, CENTRES, other]), rng, False)
    file, group = tmp_path / "posterior.nc", tmp_path / "mixture.toml"
    save_groups(as_idata(posterior), file)
    group.write_text('[permutation]\nmu = "component"\nsigma = "component"\ntheta = "component"\n')
    targets = ["--aligned", tmp_path / "aligned.nc", "--out", tmp_path / "mixing.csv"]
    arguments = ["mixing", file, "--group", group, *targets, "--figures", tmp_path / "figures"]
    assert main([str(each) for each in arguments]) == 0
    printed = capsys.readouterr().out
    assert "verdict: trapped in modes with different predictions" in printed
    assert "Largest differences between modes" in printed
    assert "permutation of mu, sigma, theta along component" in printed
    aligned = load_groups(tmp_path / "aligned.nc").posterior["sigma"].mean("draw").values
    np.testing.assert_allclose(aligned, aligned[:1].repeat(4, axis=0), atol=0.02)
    assert (tmp_path / "mixing.csv").read_text().startswith("quantity")
    for name in ("mixing.png", "chains.png"):
        assert (tmp_path / "figures" / name).stat().st_size > 5000


def test_the_command_answers_bad_input_in_one_line(rng, tmp_path, capsys):
    file, group = tmp_path / "posterior.nc", tmp_path / "group.toml"
    save_groups(as_idata(chains_at(rng, 4 * [CENTRES])), file)
    cases = {
        '[permutation]\nmu = "k"': (
            2,
            "acts on k of mu, but mu has dims (component) of shape (3,)",
        ),
        '[permutation]\nmu = "component"': (2, "sigma has the dim component"),
        "[rotation]\nmu = 'a'": (2, "unknown part 'rotation'"),
    }
    for text, (status, words) in cases.items():
        group.write_text(text)
        assert main(["mixing", str(file), "--group", str(group)]) == status
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert main(["mixing", str(tmp_path / "none.nc")]) == 1
    assert "there is no file" in capsys.readouterr().err
