"""Modes across chains: where chains are in function space and weight space, and what they predict.

Segments of chains are compared by what they predict at fixed contexts (Jensen-Shannon divergence,
whose square root is a distance) and by their aligned weights, with the noise within chains as the
yardstick. What separate chains never tell is how much of the posterior a mode holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from scipy.special import entr, log_softmax

from gptbayes.diagnostics import segments
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import forward, over_draws
from gptbayes.predict import (
    compare_held_out,
    encode_prompt,
    fixed_contexts,
    generate,
    held_out_log_prob,
    loo,
    n_bad_pareto_k,
    stacked,
)
from gptbayes.stats.summary import log_mean_exp, summarise

MASS = (
    "Separate chains do not tell the mass of a mode: how many of them are in it says where they "
    "started and how wide a region leads there, not how much of the posterior it holds"
)
MIN_SWITCHES = 20
"""Crossings from mode to mode below which the share of draws is no estimate of mass."""
MAX_TEXT_DRAWS = 100
_SAMPLED = ["posterior", "sample_stats", "log_likelihood"]


class Space(NamedTuple):
    """Segments of chains, and how far they are apart.

    Attributes
    ----------
    distance : DataArray (segment, other)
        Free of Monte Carlo error's share; coordinates as in `gptbayes.diagnostics.segments.Groups`.
    unit : str
        Of the distance, in words.
    within : float
        The yardstick: root mean square distance between segments of the same chain in the same
        mode; nan if every chain is one segment.
    tree : ndarray, (segment - 1, 4)
        Average linkage, as `scipy.cluster.hierarchy.linkage` returns it: dendrogram data.
    map : DataArray (segment, axis)
        Classical scaling to two axes (Torgerson 1952).
    shown : float
        Share of the squared distances that the map shows.
    groups : gptbayes.diagnostics.segments.Groups, or None
        The modes, if there are any.
    """

    distance: xr.DataArray
    unit: str
    within: float
    tree: np.ndarray
    map: xr.DataArray
    shown: float
    groups: segments.Groups | None


class Modes(NamedTuple):
    """The modes of a fit, described.

    Attributes
    ----------
    label : DataArray of int (segment)
        As in `gptbayes.diagnostics.segments.Groups`; all 0 if there is one mode.
    table : Dataset (mode)
        ``whole_chains`` that stayed in it, ``share_of_draws`` among those that are in any;
        ``lp``, ``lp_mcse`` and ``lp_sd``, of the log posterior; ``elpd``, ``se``, ``mcse``,
        ``difference`` to the first mode and ``difference_se`` on held-out text as in
        `gptbayes.predict.Comparison`; ``text``, coherent, by one draw of the mode. In ``attrs``
        ``switches``, how often a chain went from one mode to another, and ``mass``, a sentence.
    divergence : DataArray (mode, other)
        Jensen-Shannon divergence of the modes' predictions, mean over contexts, in nats, free of
        Monte Carlo error's share: at most log 2, 0 for modes that predict alike.
    differences : Dataset (row)
        What modes predict most differently, largest first: ``mode``, ``other``, ``context``,
        ``character``, ``probability`` and ``other_probability``, their ``difference`` and its
        Monte Carlo error ``mcse``. Chosen as the largest of many: differences of less than three
        of their errors may be chance.
    """

    label: xr.DataArray
    table: xr.Dataset
    divergence: xr.DataArray
    differences: xr.Dataset


class Stack(NamedTuple):
    """Chains weighted for prediction.

    Attributes
    ----------
    chains : Dataset (chain)
        ``weight`` of stacking, ``uniform`` weight, ``elpd_loo`` and ``n_bad_k`` (sequences with a
        Pareto k above 0.7, for which elpd and so the weight are not to be trusted).
    held_out : Dataset (mixture)
        For "stacked" and "uniform": ``elpd`` and ``se`` in nats on held-out text, which had no say
        in the weights; ``difference`` of stacked to uniform with ``difference_se``.
    """

    chains: xr.Dataset
    held_out: xr.Dataset


def context_log_prob(
    idata: az.InferenceData, contexts: np.ndarray | Sequence[str] | None = None
) -> xr.DataArray:
    """Log probabilities of the next character after fixed contexts, for every draw.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int (context, position) or sequence of str of equal length, optional
        By default `fixed_contexts`; of longer ones the last ``block_size`` characters are read.

    Returns
    -------
    DataArray (chain, draw, context, token)
        In nats.

    Raises
    ------
    ValueError
        If contexts are empty, of unequal length, or have unknown characters.
    """
    problem, parameters = problem_of(idata), parameters_of(idata)
    tokens = _context_tokens(problem, contexts)

    def log_prob(chunk):
        return log_softmax(forward(problem.stage, chunk, tokens).logits[..., -1, :], axis=-1)

    return xr.DataArray(
        over_draws(problem.stage, parameters, tokens, log_prob),
        dims=("chain", "draw", "context", "token"),
        coords={
            "context": [problem.vocabulary.decode(each) for each in tokens],
            "token": list(problem.vocabulary.characters),
        },
    )


def function_space(log_prob: xr.DataArray, n_segments: int | None = None) -> Space:
    """Segments of chains by what they predict.

    The distance is the root of the Jensen-Shannon divergence between mean predictive
    distributions, averaged over contexts: a metric (Endres & Schindelin 2003) that embeds in a
    Euclidean space, so that classical scaling is at home. Monte Carlo error makes divergences too
    large, to first order by a quarter of that between two halves of each of the two segments,
    which is taken off before the root.

    Parameters
    ----------
    log_prob : DataArray (chain, draw, context, token)
        As `context_log_prob` returns it, in nats.
    n_segments : int, optional
        Of each chain, see `gptbayes.diagnostics.segments.cut`.

    Returns
    -------
    Space
    """
    _check_finite(log_prob)
    pieces = segments.cut(log_prob, n_segments)
    distance = np.sqrt(_divergence(_half_means(np.exp(pieces.values))))
    flat = pieces.stack(scalar=("context", "token")).drop_vars(("scalar", "context", "token"))
    return _space(flat, distance, "√nat")


def weight_space(draws: xr.DataArray, n_segments: int | None = None) -> Space:
    """Segments of chains by where they are.

    Parameters
    ----------
    draws : DataArray (chain, draw, scalar)
        Aligned weights: raw ones say where on its orbit a chain is.
    n_segments : int, optional
        Of each chain, see `gptbayes.diagnostics.segments.cut`.

    Returns
    -------
    Space
        The distance is `gptbayes.diagnostics.segments.distances`.
    """
    _check_finite(draws)
    pieces = segments.cut(draws, n_segments)
    return _space(pieces, segments.distances(pieces), "standard deviations within segments")


def find_modes(
    idata: az.InferenceData,
    label: xr.DataArray | None = None,
    *,
    contexts: np.ndarray | Sequence[str] | None = None,
    prompt: str | None = None,
    length: int = 60,
    n_differences: int = 10,
    seed: int = 0,
) -> Modes:
    """Describe the modes of a fit: what can be known of each, and what they predict.

    Parameters
    ----------
    idata : InferenceData
        Of MCMC.
    label : DataArray of int (segment), optional
        Of a `gptbayes.diagnostics.verdict.Verdict`'s ``groups``, or a `Space`'s; by default those of function
        space, or one mode if there are none.
    contexts : ndarray of int (context, position) or sequence of str, optional
        As in `context_log_prob`.
    prompt : str, optional
        Where texts begin; by default the first context.
    length : int
        Characters of each text.
    n_differences : int
        How many of the largest to list.
    seed : int
        Of the texts.

    Returns
    -------
    Modes

    Raises
    ------
    ValueError
        For unusable contexts, prompt or length, or labels of other chains.
    """
    log_prob = context_log_prob(idata, contexts)
    if label is None:
        found = function_space(log_prob)
        label = found.groups.label if found.groups else xr.zeros_like(found.distance[:, 0], int)
        label = label.drop_vars("other", errors="ignore").rename("label")
    _check_label(label, log_prob)
    prompt = str(log_prob["context"].values[0]) if prompt is None else prompt
    numbers = range(int(label.max()) + 1)
    of_mode = [_of_mode(idata, label, k) for k in numbers]
    rng = np.random.default_rng(seed)
    texts = [generate(_thinned(each), prompt, length, rng).attrs["text"] for each in of_mode]
    held_out = compare_held_out({str(k): each for k, each in enumerate(of_mode)}).table
    lp = [_lp_summary(each.sample_stats["lp"]) for each in of_mode]
    chain = label["of_chain"]
    table = xr.merge([xr.concat(lp, "mode"), held_out.rename(fit="mode").drop_vars("mode")])
    table = table.assign(
        whole_chains=("mode", [_whole_chains(label.values, chain.values, k) for k in numbers]),
        share_of_draws=("mode", [float((label == k).sum() / (label >= 0).sum()) for k in numbers]),
        text=("mode", np.array(texts, dtype=object)),
    )
    switches = _switches(label.values, chain.values)
    attrs = {"switches": switches, "mass": _mass_words(switches), "prompt": prompt}
    return Modes(
        label,
        table.drop_vars(("per_character", "per_character_se")).assign_attrs(attrs),
        *_predicted_differently(segments.cut(log_prob, _per_chain(label)), label, n_differences),
    )


def stack_chains(idata: az.InferenceData) -> Stack:
    """Weight chains for prediction (Yao, Vehtari & Gelman 2022), beside equal weights.

    Where chains are trapped, weighting all draws alike weights modes by where chains started.
    Stacking chooses the mixture of chains that predicts best, leaving one sequence out. Its
    weights are for prediction only: they are not the posterior mass of anything.

    Parameters
    ----------
    idata : InferenceData
        Of MCMC.

    Returns
    -------
    Stack

    Raises
    ------
    ValueError
        If there are fewer than two chains or one of them never moves: its leave-one-out density
        would be that of the data it was fitted to.
    """
    lp = idata.sample_stats["lp"]
    n_chain = lp.sizes["chain"]
    if n_chain < 2:
        raise ValueError(f"stack_chains needs at least two chains, got {n_chain}")
    still = np.flatnonzero(np.ptp(lp.transpose("chain", "draw").values, axis=1) == 0)
    if still.size:
        raise ValueError(f"stack_chains needs chains that move, chain {still[0] + 1} never does")
    with warnings.catch_warnings():  # n_bad_k says it
        warnings.simplefilter("ignore", UserWarning)
        loos = {str(c): loo(idata.isel(chain=[c], groups=_SAMPLED)) for c in range(n_chain)}
    weight = stacked(loos)["weight"].sel(fit=list(loos)).values
    chains = xr.Dataset(
        {
            "weight": ("chain", weight / weight.sum()),
            "uniform": ("chain", np.full(n_chain, 1 / n_chain)),
            "elpd_loo": ("chain", [float(each["elpd_loo"]) for each in loos.values()]),
            "n_bad_k": ("chain", [n_bad_pareto_k(each) for each in loos.values()]),
        },
        {"chain": idata.posterior["chain"]},
    )
    return Stack(chains, _mixtures(held_out_log_prob(idata).sum("position"), chains))


def _space(pieces, distance, unit):
    coords = {n: pieces[n] for n in ("of_chain", "start", "stop")}
    chain = pieces["of_chain"].values
    points, shown = _classical_scaling(distance)
    groups = segments.group(pieces, distance)
    mode = groups.label.values if groups else np.zeros(len(chain), int)
    same = (chain[:, None] == chain) & (mode[:, None] == mode) & ~np.eye(len(chain), dtype=bool)
    within = float(np.sqrt((distance[same] ** 2).mean())) if same.any() else np.nan
    tree = np.empty((0, 4))
    if len(chain) > 1:
        tree = linkage(squareform(distance, checks=False), "average")
    return Space(
        xr.DataArray(distance, dims=("segment", "other"), coords=coords),
        unit,
        within,
        tree,
        xr.DataArray(points, dims=("segment", "axis"), coords=coords),
        shown,
        groups,
    )


def _half_means(p):
    """Means of both halves of each segment, (segment, half, context, token)."""
    n = p.shape[1] // 2
    return np.stack([p[:, :n].mean(axis=1), p[:, n:].mean(axis=1)], axis=1)


def _divergence(halves):
    """Jensen-Shannon divergence between all units, in nats, free of Monte Carlo error's share."""
    whole = halves.mean(axis=1)  # (unit, context, token)
    own = entr(whole).sum(axis=-1)  # (unit, context)
    between = np.stack(
        [
            (entr((row + whole) / 2).sum(axis=-1) - (h + own) / 2).mean(axis=-1)
            for row, h in zip(whole, own, strict=True)
        ]
    )
    noise = (entr(whole).sum(axis=-1) - entr(halves).sum(axis=-1).mean(axis=1)).mean(axis=-1) / 4
    free = np.maximum(between - noise[:, None] - noise, 0.0)
    np.fill_diagonal(free, 0.0)
    return (free + free.T) / 2


def _classical_scaling(distance):
    """Two axes whose inner products are closest to those of the points, and the share shown."""
    n = len(distance)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ distance**2 @ centring)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    points = np.zeros((n, 2))
    points[:, : min(2, n)] = vectors[:, :2] * np.sqrt(values[:2])
    total = values.sum()
    return points, float(values[:2].sum() / total) if total > 0 else 1.0


def _of_mode(idata, label, k):
    """The draws of a mode as InferenceData whose chains are its segments."""
    keep = np.flatnonzero(label.values == k)

    def kept(values):
        pieces = segments.cut(values, _per_chain(label)).isel(segment=keep)
        pieces = pieces.drop_vars(("of_chain", "start", "stop")).rename(segment="chain")
        return pieces.assign_coords(
            chain=np.arange(keep.size), draw=np.arange(pieces.sizes["draw"])
        )

    part = az.InferenceData(
        posterior=idata.posterior.map(kept),
        sample_stats=idata.sample_stats[["lp"]].map(kept),
    )
    part.attrs = dict(idata.attrs)
    return part


def _thinned(idata):
    sizes = idata.posterior.sizes
    step = -(-sizes["chain"] * sizes["draw"] // MAX_TEXT_DRAWS)
    return idata.isel(draw=slice(None, None, step))


def _per_chain(label):
    return int((label["of_chain"] == 0).sum())


def _lp_summary(lp):
    found = summarise(lp)
    return xr.Dataset({"lp": found["mean"], "lp_mcse": found["mcse_mean"], "lp_sd": found["sd"]})


def _whole_chains(label, chain, k):
    return sum(bool((label[chain == c] == k).all()) for c in np.unique(chain))


def _switches(label, chain):
    known = label >= 0
    label, chain = label[known], chain[known]
    return int(((np.diff(label) != 0) & (np.diff(chain) == 0)).sum())


def _mass_words(switches):
    if switches >= MIN_SWITCHES:
        return (
            f"Chains went from mode to mode {switches} times: the share of draws estimates the "
            "mass of each mode, as roughly as so few crossings can"
        )
    return f"{MASS}. Crossings from mode to mode that were seen: {switches}"


def _predicted_differently(pieces, label, n_rows):
    """Divergences between modes, and the largest differences of probability."""
    p = np.exp(pieces)
    numbers = range(int(label.max()) + 1)
    of_mode = [p.isel(segment=np.flatnonzero(label.values == k)) for k in numbers]
    halves = np.stack([_half_means(each.values).mean(axis=0) for each in of_mode])
    divergence = xr.DataArray(_divergence(halves), dims=("mode", "other"))
    if len(of_mode) < 2:
        return divergence, xr.Dataset()
    moments = [
        summarise(each.rename(segment="chain").transpose("chain", "draw", ...)) for each in of_mode
    ]
    pairs = [
        _largest(moments[a], moments[b], n_rows).assign(
            mode=("row", [a] * n), other=("row", [b] * n)
        )
        for a, b in combinations(numbers, 2)
        if (n := min(n_rows, p.sizes["context"] * p.sizes["token"]))
    ]
    rows = xr.concat(pairs, "row")
    return divergence, rows.isel(row=np.argsort(-abs(rows["difference"].values))[:n_rows])


def _largest(one, other, n_rows):
    pair = xr.Dataset(
        {
            "probability": one["mean"],
            "other_probability": other["mean"],
            "difference": one["mean"] - other["mean"],
            "mcse": np.sqrt(one["mcse_mean"] ** 2 + other["mcse_mean"] ** 2),
        }
    )
    flat = pair.stack(row=("context", "token"))
    top = flat.isel(row=np.argsort(-abs(flat["difference"].values))[:n_rows]).reset_index("row")
    return top.reset_coords(("context", "token")).rename(token="character")


def _mixtures(log_density, chains):
    """Held-out elpd of mixtures of chains; ``log_density`` (chain, draw, held_out_sequence)."""
    of_chain = log_mean_exp(log_density, "draw")
    n_chain, n = of_chain.sizes["chain"], of_chain.sizes["held_out_sequence"]
    terms = np.stack(
        [
            log_mean_exp(of_chain + np.log(np.maximum(chains[w], 1e-300) * n_chain), "chain").values
            for w in ("weight", "uniform")
        ]
    )
    difference = terms - terms[1]
    scale = np.sqrt(n) if n > 1 else np.nan
    ddof = min(1, n - 1)
    return xr.Dataset(
        {
            "elpd": ("mixture", terms.sum(axis=1)),
            "se": ("mixture", terms.std(axis=1, ddof=ddof) * scale),
            "difference": ("mixture", difference.sum(axis=1)),
            "difference_se": ("mixture", difference.std(axis=1, ddof=ddof) * scale),
        },
        {"mixture": ["stacked", "uniform"]},
    )


def _context_tokens(problem, contexts):
    if contexts is None:
        return fixed_contexts(problem)
    if not len(contexts):
        raise ValueError("contexts must be at least one, got none")
    if not isinstance(contexts, np.ndarray):
        lengths = sorted({len(each) for each in contexts})
        if len(lengths) > 1:
            raise ValueError(f"contexts must be of equal length, got lengths {lengths}")
        contexts = np.array([encode_prompt(problem.vocabulary, each) for each in contexts])
    return contexts[:, -problem.design.block_size :]


def _check_finite(draws):
    bad = ~np.isfinite(draws.transpose("chain", ...).values).reshape(draws.sizes["chain"], -1)
    if bad.any():
        raise ValueError(
            "chains must be finite and of equal length, got values that are no numbers in chain "
            f"{int(bad.any(axis=1).argmax()) + 1}"
        )


def _check_label(label, log_prob):
    n_chain = log_prob.sizes["chain"]
    found = np.unique(label["of_chain"].values)
    if not np.array_equal(found, np.arange(n_chain)) or label.sizes["segment"] % n_chain:
        raise ValueError(f"label must be of segments of all {n_chain} chains, got {found.tolist()}")
