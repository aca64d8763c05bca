"""Contraction of the local normal approximation, and the effective number of parameters."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse
import xarray as xr
from scipy.special import softmax

from gptbayes.diagnostics.contraction.blocks import has_normal_prior, parameter_blocks
from gptbayes.model.forward import Parameters, position_logits
from gptbayes.model.log_density import ravel, unravel
from gptbayes.model.problem import Problem
from gptbayes.stats.standard_error import standard_error
from gptbayes.stats.thinning import evenly_spaced
from gptbayes.symmetry import logit_jacobian, numerical_rank

N_LOCAL = 6
"""Number of draws at which the local approximation is computed."""
SKETCH_SIZE = 8
"""Number of random sums to which each row of a Jacobian contributes."""


def local_contraction(
    problem: Problem, parameters: Parameters, *, n_draws: int = N_LOCAL
) -> xr.Dataset:
    """Contraction of a local normal approximation, by kind of parameter and layer.

    With weights in units of their prior standard deviation, the precision at a draw is I + F, where
    F is the Fisher information of the text under the predictions of that draw (the generalised
    Gauss-Newton matrix). An eigenvector of F with eigenvalue f contracts by f / (1 + f), and each
    weight has a share of that contraction equal to its squared loading. Symmetries that keep the
    prior do not change the result, so that no alignment is needed.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    n_draws : int
        Number of draws, evenly spaced, to average over.

    Returns
    -------
    Dataset (block, direction)
        A block is a parameter in one layer. ``n``, the number of weights; ``gauge``, the dimension
        of the null space of the logits of the text, shared out among blocks; ``identified``, n -
        gauge; ``learned``, the effective number of parameters, with its standard error
        ``learned_mcse``; ``contraction``, learned / identified, nan where nothing is identified.
        Coords ``parameter`` and ``block_layer`` (-1 for none). ``spectrum`` (direction), the
        contractions of the eigenvectors, largest first, averaged over draws. Where the stage has
        them, ``head_learned`` (layer, head) and ``unit_learned`` (layer, hidden), the effective
        numbers of parameters of heads and hidden units, sorted in each draw. Attr ``n_draws``.

    Raises
    ------
    ValueError
        If the model has more parameters than `gptbayes.symmetry.null_dimension` accepts, or priors
        that are not normal.
    """
    if not has_normal_prior(problem):
        raise ValueError(f"stage {problem.stage.number} has no normal prior")
    stage, design = problem.stage, problem.design
    flat = ravel(stage, parameters)
    flat = flat.reshape(-1, flat.shape[-1])
    chosen = evenly_spaced(len(flat), n_draws)
    found = [_at_draw(problem, unravel(stage, design, flat[i])) for i in chosen]
    learned, gauge, spectrum = (np.stack(each) for each in zip(*found, strict=True))
    where, coords = parameter_blocks(problem)
    sums = np.stack([learned[:, at].sum(axis=1) for at in where])  # (block, draw)
    n = np.array([len(at) for at in where])
    in_gauge = np.stack([gauge[:, at].sum(axis=1).mean() for at in where])
    identified = n - in_gauge
    some = identified > 1e-6
    variables = {
        "n": ("block", n),
        "gauge": ("block", in_gauge),
        "identified": ("block", identified),
        "learned": ("block", sums.mean(axis=1)),
        "learned_mcse": ("block", standard_error(sums)),
        "contraction": (
            "block",
            np.where(some, sums.mean(axis=1) / np.where(some, identified, 1), np.nan),
        ),
        "spectrum": ("direction", spectrum.mean(axis=0)),
        **_by_head_and_unit(stage, unravel(stage, design, learned)),
    }
    return xr.Dataset(variables, coords, {"n_draws": len(chosen)})


def _at_draw(problem, draw):
    """At one draw: contraction of each weight, its share of the gauge, and the spectrum."""
    scale = np.concatenate(
        [np.full(draw[p.name].size, problem.priors.scale(p)) for p in problem.stage.parameters]
    )
    x, n_weights, n_token = problem.training.x, len(scale), problem.design.vocab_size
    size = max(1, 2 * n_weights // (x.shape[1] * n_token))  # sequences per chunk
    rng = np.random.default_rng(0)
    fisher, rows = np.zeros((n_weights, n_weights)), np.zeros((2 * n_weights, n_weights))
    for start in range(0, len(x), size):
        part = x[start : start + size]
        jacobian = logit_jacobian(problem.stage, draw, part) * scale  # (B T V, weight)
        logits = position_logits(problem.stage, draw, part)
        root = _fisher_root(jacobian, softmax(logits, axis=-1).reshape(-1, n_token))
        fisher += problem.likelihood_weight * root.T @ root
        rows += _sketch(len(jacobian), len(rows), rng) @ jacobian
    values, vectors = scipy.linalg.eigh(fisher)
    shrunk = np.maximum(values, 0) / (1 + np.maximum(values, 0))
    return vectors**2 @ shrunk, _gauge_projection(rows), shrunk[::-1]


def _sketch(n_from, n_to, rng):
    """A random matrix that preserves the row space of a Jacobian (Nelson & Nguyen 2013)."""
    to = rng.integers(n_to, size=(n_from, SKETCH_SIZE))
    at = (to.ravel(), np.repeat(np.arange(n_from), SKETCH_SIZE))
    return scipy.sparse.csr_array((rng.normal(size=to.size), at), shape=(n_to, n_from))


def _fisher_root(jacobian, probs):
    """A root of the Fisher information, as diag(p) - p pᵀ is the square of diag(√p) (1 - 1 pᵀ)."""
    slopes = jacobian.reshape(*probs.shape, -1)  # (context, token, weight)
    mean = probs[:, None] @ slopes  # (context, 1, weight)
    return (np.sqrt(probs)[..., None] * (slopes - mean)).reshape(jacobian.shape)


def _gauge_projection(rows):
    """Diagonal of the projector onto the orthogonal complement of the rows."""
    (triangle,) = scipy.linalg.qr(rows, mode="r", check_finite=False)
    triangle = triangle[: rows.shape[1]]
    basis, found, _ = scipy.linalg.qr(triangle.T, mode="economic", pivoting=True)
    values = np.abs(np.diag(found))  # within a factor of the singular values, and faster
    rank, _ = numerical_rank(values)
    return 1 - (basis[:, :rank] ** 2).sum(axis=1)


def _by_head_and_unit(stage, learned):
    """Sums over the weights of each head and hidden unit, sorted in each draw, then averaged."""
    found = {}
    if "attention" in stage.features:
        heads = sum(learned[name].sum(axis=(-2, -1)) for name in ("key", "query", "value"))
        if "sa_proj_multiplier" in learned:
            heads = heads + learned["sa_proj_multiplier"].sum(axis=(-3, -1))
        found["head_learned"] = (("layer", "head"), heads)
    if "feed_forward" in stage.features:
        units = learned["feed_forward_multiplier"].sum(axis=-1) + learned["feed_forward_offset"]
        if "feed_forward_proj_multiplier" in learned:
            units = units + learned["feed_forward_proj_multiplier"].sum(axis=-2)
        found["unit_learned"] = (("layer", "hidden"), units)
    return {n: (dims, -np.sort(-each, axis=-1).mean(axis=0)) for n, (dims, each) in found.items()}
