"""Distances between segments of chains, in function space and in weight space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from gptbayes.diagnostics import segments
from gptbayes.diagnostics.modes.divergence import half_means, jensen_shannon
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import last_logits, over_draws
from gptbayes.model.layers import log_softmax
from gptbayes.predict import encode_prompt, fixed_contexts


class Space(NamedTuple):
    """Segments of chains and the distances between them.

    Attributes
    ----------
    distance : DataArray (segment, other)
        Corrected for Monte Carlo error. Coordinates as in `gptbayes.diagnostics.segments.Groups`.
    unit : str
        Of the distance.
    within : float
        Root mean square distance between segments of the same chain in the same mode, with which
        other distances are compared; nan if every chain is one segment.
    tree : ndarray, (segment - 1, 4)
        Average linkage, as returned by `scipy.cluster.hierarchy.linkage`.
    map : DataArray (segment, axis)
        Classical multidimensional scaling to two axes (Torgerson 1952).
    explained : float
        Share of the squared distances that the map represents.
    groups : gptbayes.diagnostics.segments.Groups, or None
        The modes, if there are any.
    """

    distance: xr.DataArray
    unit: str
    within: float
    tree: np.ndarray
    map: xr.DataArray
    explained: float
    groups: segments.Groups | None


def context_log_prob(
    idata: az.InferenceData, contexts: np.ndarray | Sequence[str] | None = None
) -> xr.DataArray:
    """Log probabilities of the next character after fixed contexts, for every draw.

    Parameters
    ----------
    idata : InferenceData
    contexts : ndarray of int (context, position) or sequence of str of equal length, optional
        By default `gptbayes.predict.fixed_contexts`. Of longer contexts the last ``block_size``
        characters are used.

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
        return log_softmax(last_logits(problem.stage, chunk, tokens))

    return xr.DataArray(
        over_draws(problem.stage, parameters, tokens, log_prob, last=True),
        dims=("chain", "draw", "context", "token"),
        coords={
            "context": [problem.vocabulary.decode(each) for each in tokens],
            "token": list(problem.vocabulary.characters),
        },
    )


def function_space(log_prob: xr.DataArray, n_segments: int | None = None) -> Space:
    """Segments of chains in function space: distances between their predictions.

    The distance is the square root of the Jensen-Shannon divergence between mean predictive
    distributions, averaged over contexts. It is a metric (Endres & Schindelin 2003) that embeds in
    a Euclidean space, as classical scaling requires. Monte Carlo error biases the divergence of two
    segments upwards. To first order the bias is a quarter of the divergence between the halves of
    the one plus a quarter of that of the other. It is subtracted before the root is taken.

    Parameters
    ----------
    log_prob : DataArray (chain, draw, context, token)
        As `context_log_prob` returns it, in nats.
    n_segments : int, optional
        Per chain, see `gptbayes.diagnostics.segments.cut_segments`.

    Returns
    -------
    Space
    """
    _check_finite(log_prob)
    pieces = segments.cut_segments(log_prob, n_segments)
    distance = np.sqrt(jensen_shannon(half_means(np.exp(pieces.values))))
    flat = pieces.stack(scalar=("context", "token")).drop_vars(("scalar", "context", "token"))
    return _space(flat, distance, "√nat")


def weight_space(draws: xr.DataArray, n_segments: int | None = None) -> Space:
    """Segments of chains in weight space: distances between their mean weights.

    Parameters
    ----------
    draws : DataArray (chain, draw, scalar)
        Aligned weights. Raw weights differ between chains by symmetry alone.
    n_segments : int, optional
        Per chain, see `gptbayes.diagnostics.segments.cut_segments`.

    Returns
    -------
    Space
        The distance is `gptbayes.diagnostics.segments.distances`.
    """
    _check_finite(draws)
    pieces = segments.cut_segments(draws, n_segments)
    return _space(pieces, segments.distances(pieces), "standard deviations within segments")


def _space(pieces, distance, unit):
    coords = {n: pieces[n] for n in ("chain_index", "start", "stop")}
    chain = pieces["chain_index"].values
    points, explained = _classical_scaling(distance)
    groups = segments.group_segments(pieces, distance)
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
        explained,
        groups,
    )


def _classical_scaling(distance):
    """Coordinates on two axes, and the share of the squared distances that they represent."""
    n = len(distance)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ distance**2 @ centring)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    points = np.zeros((n, 2))
    points[:, : min(2, n)] = vectors[:, :2] * np.sqrt(values[:2])
    total = values.sum()
    return points, float(values[:2].sum() / total) if total > 0 else 1.0


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
            "draws must be finite and chains of equal length, got values that are not finite in "
            f"chain {int(bad.any(axis=1).argmax()) + 1}"
        )
