"""Groups as data: known answers by brute force and by planted elements, for any model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

import gptbayes as gb
from gptbayes import Group, Orthogonal, Permutation, SignFlip
from gptbayes.groups import group as dataset_of
from gptbayes.groups import make_groups, save_groups
from gptbayes.symmetry import (
    Element,
    align_draws,
    all_elements,
    check_invariance,
    group_order,
    lay_out,
    match_draws,
    random_element,
    read_group,
    stage_group,
    transform,
)

N = 30
FACTORS = {"loadings": "factor", "scores": "factor"}
UNITS = {"w": "layer/unit", "b": "layer/unit", "v": "layer/unit"}
DIMS = {
    "mu": ("component",),
    "theta": ("component",),
    "loadings": ("item", "factor"),
    "scores": ("person", "factor"),
    "w": ("layer", "unit", "input"),
    "b": ("layer", "unit"),
    "v": ("layer", "output", "unit"),
    "q": ("head", "embed", "head_dim"),
    "k": ("head", "embed", "head_dim"),
    "u": ("output", "embed"),
    "out": ("head_out", "rows"),
}
SIZES = {
    "component": 5,
    "item": 7,
    "person": 11,
    "factor": 3,
    "layer": 2,
    "unit": 6,
    "input": 4,
    "output": 3,
    "head": 3,
    "embed": 6,
    "head_dim": 2,
}
HEADS = Group(
    Permutation({"q": "head", "k": "head", "u": "head"}),
    Orthogonal({"q": "head/head_dim", "k": "head/head_dim"}),
    SignFlip({"u": "head/head_dim"}),
    blocks={"u": {"embed": ("head", "head_dim")}},
)
BLOCKS = Group(
    Permutation({"u": "block", "q": "head", "k": "head"}),
    Permutation({"u": "block/place", "q": "head/head_dim"}),
    blocks={"u": {"embed": ("block", "place")}},
)
GROUPS = {
    "mixture": Group(Permutation({"mu": "component", "theta": "component"})),
    "rotated factors": Group(Orthogonal(FACTORS)),
    "signed factors": Group(Permutation(FACTORS), SignFlip(FACTORS)),
    "odd network": Group(Permutation(UNITS), SignFlip(UNITS)),
    "heads": HEADS,
    "blocks": BLOCKS,
    "whole sign": Group(SignFlip({"mu": "", "w": ""}), Permutation({"mu": "component"})),
    "one sign": Group(SignFlip({"mu": "", "w": ""})),
}


def shapes_of(dims):
    return {name: tuple(SIZES.get(dim, 1) for dim in each) for name, each in dims.items()}


def laid_out(group):
    return lay_out(group, DIMS, shapes_of(DIMS))


def normal_draws(layout, rng, n=N, near=None):
    points = {name: rng.normal(size=shape) for name, shape in layout.shapes.items()}
    spread = 1.0 if near is None else near
    return {k: v + spread * rng.normal(size=(n, *v.shape)) for k, v in points.items()}


def scrambled(layout, draws, seed):
    n = len(next(iter(draws.values())))
    return transform(layout, draws, random_element(layout, (n,), np.random.default_rng(seed)))


def distances(draws):
    flat = np.concatenate([v.reshape(len(v), -1) for v in draws.values()], axis=1)
    return np.linalg.norm(flat[:, None] - flat, axis=-1)


@pytest.fixture(params=list(GROUPS))
def layout(request):
    return laid_out(GROUPS[request.param])


def test_planted_elements_are_found(layout, rng):
    """Draws around one point, each moved along its orbit, come back to one point of the orbit."""
    draws = normal_draws(layout, rng, near=0.03)
    moved = scrambled(layout, draws, 1)
    found = align_draws(layout, moved)
    assert distances(moved).mean() > 3 * distances(draws).mean()
    assert distances(found.parameters).mean() < 1.001 * distances(draws).mean()
    assert (np.diff(found.objective) <= 0).all()


def test_where_a_draw_starts_on_its_orbit_does_not_matter(layout, rng):
    draws = normal_draws(layout, rng, near=0.3)
    found = [align_draws(layout, scrambled(layout, draws, seed)) for seed in (1, 2)]
    np.testing.assert_allclose(found[0].objective, found[1].objective, rtol=1e-8)


def test_chunks_do_not_show(layout, rng):
    draws = normal_draws(layout, rng)
    whole = align_draws(layout, draws, max_iterations=3).parameters
    pieces = align_draws(layout, draws, max_iterations=3, max_bytes=1).parameters
    for name, values in whole.items():
        np.testing.assert_allclose(values, pieces[name], atol=1e-7)


@pytest.mark.parametrize("name", ["mixture", "signed factors"])
def test_matching_is_the_minimum_over_all_elements(name, rng):
    """120 and 48 elements, one by one."""
    layout = laid_out(GROUPS[name])
    draws, reference = normal_draws(layout, rng), normal_draws(layout, rng, n=1)
    reference = {k: v[0] for k, v in reference.items()}

    def distance(moved):
        return np.sqrt(
            sum(((v - reference[k]) ** 2).reshape(N, -1).sum(axis=1) for k, v in moved.items())
        )

    every = [distance(transform(layout, draws, each)) for each in all_elements(layout)]
    assert len(every) == group_order(layout) == {"mixture": 120, "signed factors": 48}[name]
    found = match_draws(layout, draws, reference)
    np.testing.assert_allclose(distance(found), np.min(every, axis=0), rtol=1e-12)


def test_rotations_match_by_procrustes(rng):
    """A rotated copy comes back exactly, a noisy one no further away than it was put."""
    layout = laid_out(GROUPS["rotated factors"])
    draws = normal_draws(layout, rng, n=1)
    reference = {k: v[0] for k, v in draws.items()}
    copies = scrambled(layout, {k: np.repeat(v, N, axis=0) for k, v in draws.items()}, 2)
    for name, values in match_draws(layout, copies, reference).items():
        np.testing.assert_allclose(values, draws[name].repeat(N, axis=0), atol=1e-12)


def test_blocks_are_columns_side_by_side(rng):
    """Heads of ``u`` are pairs of its columns."""
    layout = laid_out(HEADS)
    draws = normal_draws(layout, rng, n=1)
    moved = transform(layout, draws, [Element(0, np.array([2, 0, 1]))])
    np.testing.assert_array_equal(moved["u"][0], draws["u"][0][:, [4, 5, 0, 1, 2, 3]])
    np.testing.assert_array_equal(moved["q"][0], draws["q"][0][[2, 0, 1]])


def test_labels_say_what_may_be_exchanged():
    """Blocks with the same labels in another order: their items are sorted as they move."""
    outer = {"u": "block", "m": "block"}
    parts = (
        Permutation(outer, labels=[0, 0, 1]),
        Permutation({"u": "block/place"}, labels=[[0, 1], [1, 0], [0, 0]]),
    )
    group = Group(*parts, blocks={"u": {"embed": ("block", "place")}})
    layout = lay_out(group, {**DIMS, "m": ("block",)}, {**shapes_of(DIMS), "u": (3, 6), "m": (3,)})
    labels = np.array([0, 1, 1, 0, 2, 2])
    draws = {"u": np.broadcast_to(labels, (1, 3, 6)).astype(float), "m": np.zeros((1, 3))}
    numbers = {"u": np.tile(np.arange(6.0), (1, 3, 1)), "m": np.zeros((1, 3))}
    for seed in range(20):
        np.testing.assert_array_equal(scrambled(layout, draws, seed)["u"], draws["u"])
    orders = {tuple(scrambled(layout, numbers, seed)["u"][0, 0]) for seed in range(80)}
    assert len(orders) == 4  # exchange the first two blocks, exchange in the third
    alone = Group(Permutation({"u": "block"}), blocks=group.blocks)
    with pytest.raises(ValueError, match="length of block in the blocks of u is unknown"):
        lay_out(alone, {"u": DIMS["u"]}, {"u": (3, 6)})


def test_the_stages_are_such_groups(problem):
    group = stage_group(problem.stage)
    if problem.stage.number == "01":
        assert group is None
        return
    names = {p.name for p in problem.stage.parameters}
    assert set(group.variables) <= names
    kinds = {part.name: part.kind for part in group.parts}
    if problem.stage.number == "12":
        assert kinds["flip_stream"] == "sign flip"
        assert kinds["rotate_value"] == "orthogonal map"


# A check of what is claimed.


def mixture_posterior(rng, chains=2, draws=25, k=3):
    theta = rng.dirichlet(np.ones(k), size=(chains, draws))
    mu = rng.normal(0, 3, size=(chains, draws, k))
    sigma = np.exp(0.3 * rng.normal(size=(chains, draws, k)))
    dims = ("chain", "draw", "component")
    return xr.Dataset({"mu": (dims, mu), "sigma": (dims, sigma), "theta": (dims, theta)})


def mixture_log_density(posterior):
    y = np.linspace(-4, 5, 13)
    mu, sigma, theta = (posterior[n].values[..., None, :] for n in ("mu", "sigma", "theta"))
    density = (theta * norm.pdf(y[:, None], mu, sigma)).sum(axis=-1)
    prior = norm.logpdf(posterior["mu"].values, 0, 3).sum(axis=-1)
    return np.log(density).sum(axis=-1) + prior


MIXTURE = Group(Permutation(dict.fromkeys(("mu", "sigma", "theta"), "component")))


def test_a_symmetry_passes_and_a_claim_that_is_none_is_refused(rng):
    posterior = mixture_posterior(rng)
    passed = check_invariance(MIXTURE, posterior, mixture_log_density)
    assert passed.exhaustive and passed.n_elements == 6 and passed.largest_change < 1e-12
    half = Group(Permutation({"mu": "component", "theta": "component"}))
    with pytest.raises(
        ValueError, match=r"not a symmetry .*\(permutation of mu, theta along compo"
    ):
        check_invariance(half, posterior, mixture_log_density)
    sign = Group(*MIXTURE.parts, SignFlip({"mu": ""}))
    with pytest.raises(ValueError, match=r"\(sign flip of mu: -1\.\) changes it from .* to "):
        check_invariance(sign, posterior, mixture_log_density)


def test_an_element_of_a_large_group_is_found_too(rng):
    """Orthogonal maps of factors, of which a sparse prior keeps only signed permutations."""
    dims = {"loadings": ("chain", "draw", "item", "factor")}
    values = rng.normal(size=(1, 30, 5, 3))
    posterior = xr.Dataset({"loadings": (dims["loadings"], values)})

    def normal(p):
        return -0.5 * (p["loadings"] ** 2).sum(("item", "factor"))

    def laplace(p):
        return -abs(p["loadings"]).sum(("item", "factor"))

    rotations = Group(Orthogonal({"loadings": "factor"}))
    found = check_invariance(rotations, posterior, normal)
    assert not found.exhaustive and found.n_elements == 50
    with pytest.raises(ValueError, match=r"orthogonal map of loadings along factor: \[\["):
        check_invariance(rotations, posterior, laplace)
    signed = Group(Permutation({"loadings": "factor"}), SignFlip({"loadings": "factor"}))
    assert check_invariance(signed, posterior, laplace, n=48).exhaustive
    with pytest.raises(ValueError, match="array with chain and draw in front"):
        check_invariance(signed, posterior, lambda p: 0.0 * p["loadings"].mean("chain"))
    with pytest.raises(ValueError, match="finite at every draw"):
        check_invariance(signed, posterior, lambda p: np.nan * normal(p))


def test_large_groups_are_not_listed():
    with pytest.raises(ValueError, match="infinitely many elements, at most 10000"):
        all_elements(laid_out(GROUPS["rotated factors"]))
    layout = laid_out(GROUPS["odd network"])  # (6! 2^6)^2
    assert group_order(layout) == (720 * 64) ** 2
    with pytest.raises(ValueError, match=r"2.12e\+09 elements, at most 10000 are listed"):
        all_elements(layout)


# InferenceData.


def two_label_orders(rng, k=3):
    """A posterior of well separated components, its second chain with other labels."""
    posterior = mixture_posterior(rng, draws=200, k=k)
    posterior["mu"] = 0.1 * posterior["mu"] + 4.0 * np.arange(k)
    order = [2, 0, 1]
    for name in posterior:
        posterior[name].values[1] = posterior[name].values[1][:, order]
    return posterior


def test_labels_of_a_mixture_are_found(rng, tmp_path):
    posterior = two_label_orders(rng)
    posterior["tau"] = (("chain", "draw"), rng.normal(size=(2, 200)))
    idata = make_groups({"posterior": posterior, "extra": posterior}, {"inference_library": "none"})
    for given in (idata, tmp_path / "posterior.nc"):
        if given is not idata:
            save_groups(idata, given)
        found = gb.align(given, MIXTURE, log_density=mixture_log_density)
        means = found.posterior["mu"].mean("draw").values
        np.testing.assert_allclose(means[0], means[1], atol=0.15)
        np.testing.assert_allclose(np.sort(means[0]), 4.0 * np.arange(3), atol=0.15)
        xr.testing.assert_equal(found.posterior["tau"], posterior["tau"])
        xr.testing.assert_equal(dataset_of(found, "extra")["mu"], posterior["mu"])
        before, after = found.posterior.attrs["alignment_distance"]
        assert after <= before
        np.testing.assert_allclose(
            mixture_log_density(dataset_of(found, "posterior")), mixture_log_density(posterior)
        )


def test_the_units_of_variables_do_not_matter(rng):
    posterior = two_label_orders(rng)
    scaled = posterior.assign(mu=1e6 * posterior["mu"], sigma=1e-6 * posterior["sigma"])
    found = [gb.align(make_groups({"posterior": each}), MIXTURE) for each in (posterior, scaled)]
    np.testing.assert_allclose(1e6 * found[0].posterior["mu"], found[1].posterior["mu"])
    np.testing.assert_allclose(found[0].posterior["theta"], found[1].posterior["theta"])


def test_counts_stay_counts(rng):
    posterior = two_label_orders(rng)
    counts = np.round(10 * posterior["mu"]).astype(int)
    idata = make_groups({"posterior": posterior.assign(counts=counts)})
    names = dict.fromkeys(("mu", "sigma", "theta", "counts"), "component")
    found = gb.align(idata, Group(Permutation(names))).posterior["counts"]
    assert found.dtype == counts.dtype
    np.testing.assert_array_equal(np.sort(found, axis=-1), np.sort(counts, axis=-1))


def test_what_does_not_fit_is_named(rng):
    posterior = mixture_posterior(rng)
    idata = make_groups({"posterior": posterior})
    refused = {
        r"acts on nu, the variables are mu, sigma, theta": Group(Permutation({"nu": "component"})),
        r"acts on k of mu, but mu has dims \(component\) of shape \(3,\)": Group(
            Permutation({"mu": "k"})
        ),
        r"sigma has the dim component, on which the group acts in mu": Group(
            Permutation({"mu": "component", "theta": "component"})
        ),
        r"labels of the .* must have shape \(3,\), got \(2,\)": Group(
            Permutation(MIXTURE.parts[0].axes, labels=[0, 1])
        ),
        r"blocks are of x of mu, but mu has dims": Group(
            *MIXTURE.parts, blocks={"mu": {"x": "ab"}}
        ),
    }
    for words, group in refused.items():
        with pytest.raises(ValueError, match=words):
            gb.align(idata, group)
    other = posterior.assign(w=(("chain", "draw", "part"), np.ones((2, 25, 4))))
    with pytest.raises(ValueError, match=r"equal lengths, got 3 in mu of shape \(3,\), 4 in w"):
        gb.align(
            make_groups({"posterior": other}), Group(Permutation({"mu": "component", "w": "part"}))
        )
    bad = posterior.copy(deep=True)
    bad["sigma"].values[1, 4, 0] = np.inf
    with pytest.raises(ValueError, match="got sigma with nan or infinity in 1 draws, first in "):
        gb.align(make_groups({"posterior": bad}), MIXTURE)
    with pytest.raises(ValueError, match="a fit must have a posterior group, its groups are prior"):
        gb.align(make_groups({"prior": posterior}), MIXTURE)
    with pytest.raises(ValueError, match="not a symmetry of this function"):
        gb.align(idata, MIXTURE, log_density=lambda p: p["mu"].isel(component=0))
    with pytest.raises(ValueError, match="at least one part, got none"):
        Group()
    with pytest.raises(ValueError, match="Permutation, SignFlip, Orthogonal, got str"):
        Group("mu")
    for axes in ({}, {"mu": 3}, {"mu": "a//b"}, {"mu": ()}, {"mu": ""}):
        with pytest.raises(ValueError, match=r"must (name at least|be)"):
            Permutation(axes)


def test_files_that_are_no_posterior_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        gb.align(tmp_path / "none.nc", MIXTURE)
    path = tmp_path / "text.nc"
    path.write_text("no netCDF")
    with pytest.raises(ValueError, match=r"text.nc cannot be read as netCDF"):
        gb.align(path, MIXTURE)


def test_a_group_is_read_from_a_file(tmp_path):
    toml, js = tmp_path / "group.toml", tmp_path / "group.json"
    toml.write_text(
        '[permutation]\nmu = "component"\ntheta = "component"\n\n'
        '[[orthogonal]]\nloadings = "factor"\n[[orthogonal]]\nq = "head/head_dim"\n\n'
        "[blocks.u]\nembed = ['head', 'head_dim']\n"
    )
    found = read_group(toml)
    assert [part.kind for part in found.parts] == ["permutation", *2 * ["orthogonal map"]]
    assert found.blocks == {"u": {"embed": ("head", "head_dim")}}
    tables = {
        "permutation": {"axes": {"mu": "component"}, "labels": [0, 0, 1]},
        "sign_flip": {"mu": ""},
    }
    js.write_text(json.dumps(tables))
    found = read_group(js)
    assert found.parts == (Permutation({"mu": "component"}), SignFlip({"mu": ""}))
    assert found.parts[0].labels == [0, 0, 1]
    bad = {
        "[rotation]\nmu = 'a'": "unknown part 'rotation', valid parts: permutation, sign_flip",
        "permutation = 3": "permutation must be a table of variables, got 3",
        "[permutation]\nmu = 3": "the axis of mu must be",
        "[permutation": "not a TOML or JSON file",
        "": "at least one part",
        "[permutation]\naxes = {mu = 'a'}\nlabel = 3": "label",
    }
    for text, words in bad.items():
        toml.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_group(toml)
    with pytest.raises(FileNotFoundError):
        read_group(tmp_path / "none.toml")
