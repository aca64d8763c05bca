"""Matching of heads across draws by their attention patterns.

Posterior and prior are invariant under permutations of the heads of a layer, so that each draw may
have them in another order. Heads are matched by their attention patterns on a fixed set of
contexts. The resulting order is used at all contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.attention.assignment import (
    LayerMatching,
    assign_heads,
    match_layer,
    past_mask,
)
from gptbayes.attention.contexts import checked_contexts, draws_of, labelled, problem_with_attention
from gptbayes.findings import Finding
from gptbayes.model.forward import attention_of, over_draws
from gptbayes.model.stages import Stage
from gptbayes.predict import fixed_contexts
from gptbayes.stats.probability import probability
from gptbayes.stats.summary import OVER

MANY_AMBIGUOUS = 0.1
"""Fraction of ambiguous draws above which heads are reported as not distinguishable."""
N_CONTEXTS = 16
"""Default number of contexts on which heads are matched."""
MAX_BYTES = 256 * 2**20
"""Default bound on the memory of the patterns of all draws."""


class Matching(NamedTuple):
    """The heads of each draw in the order of the matched heads.

    Matched heads are ordered by the mean distance between query and key position, smallest first,
    so that their numbers do not depend on the order of heads in the draws.

    Attributes
    ----------
    order : DataArray of int (chain, draw, layer, head)
        The index of each matched head in the draw.
    ambiguous : DataArray (layer)
        Fraction of draws in which another matching costs less than a tenth more. Near 1, the
        patterns of heads overlap and heads are not distinguishable.
    ambiguous_mcse : DataArray (layer)
        Monte Carlo standard error of ``ambiguous``.
    ambiguous_draw : DataArray of bool (chain, draw, layer)
        Whether the matching of a draw is ambiguous.
    reference : DataArray of float32 (layer, head, sequence, weight)
        The mean pattern of each matched head. Weights are those on past and current positions,
        row by row.
    kind : DataArray of int (layer, head)
        Heads of different kinds have different dropout masks. They are not exchangeable and are
        never matched with each other. All 0 without dropout.
    contexts : ndarray of int, (sequence, position)
        The contexts on which heads are matched.
    iterations : DataArray of int (layer)
        Number of iterations until convergence; 0 if the reference was given.
    converged : DataArray of bool (layer)
        False if the order still changed in the last iteration.
    """

    order: xr.DataArray
    ambiguous: xr.DataArray
    ambiguous_mcse: xr.DataArray
    ambiguous_draw: xr.DataArray
    reference: xr.DataArray
    kind: xr.DataArray
    contexts: np.ndarray
    iterations: xr.DataArray
    converged: xr.DataArray


class Matched(NamedTuple):
    """Attention weights of matched heads.

    Attributes
    ----------
    weights : DataArray (chain, draw, layer, head, sequence, query_position, key_position)
    order, ambiguous
        As in `Matching`.
    """

    weights: xr.DataArray
    order: xr.DataArray
    ambiguous: xr.DataArray


def head_order(
    idata: az.InferenceData,
    *,
    n_contexts: int = N_CONTEXTS,
    contexts: np.ndarray | None = None,
    group: str = "posterior",
    reference: Matching | None = None,
    max_iterations: int = 50,
    max_bytes: int = MAX_BYTES,
) -> Matching:
    """Match heads across draws and chains by their attention patterns.

    In each layer, the heads of each draw are assigned to reference patterns by linear assignment
    with squared distances. The references are the mean patterns of the matched heads. Both steps
    alternate until no assignment changes, as in k-means.

    Matching creates differences between heads even if there are none, since it sorts noise. A
    posterior pattern is therefore compared with that of the prior. Pass the matching of the
    posterior as the ``reference`` for prior draws: they are then assigned to the same patterns. If
    the text were uninformative, posterior and prior summaries would agree.

    Parameters
    ----------
    idata : InferenceData
    n_contexts : int
        Number of held-out contexts (`gptbayes.predict.fixed_contexts`). It is reduced if the
        patterns do not fit into ``max_bytes``.
    contexts : ndarray of int, (sequence, position), optional
        0-based tokens of other contexts.
    group : {"posterior", "prior"}
    reference : Matching, optional
        Assign each draw once to the patterns of this matching, at its contexts.
    max_iterations : int
    max_bytes : int
        Bound on the memory of the patterns of all draws, in single precision.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        If the stage has no attention, contexts have an invalid shape, or ``n_contexts`` or
        ``max_iterations`` is not positive.

    See Also
    --------
    matched : Reorder values of heads.
    matching_findings : Whether heads are distinguishable.

    Examples
    --------
    >>> import tempfile
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("05"), gb.zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = gb.open_run(gb.fit.prior(problem, folder, draws=20))
    >>> matching = head_order(idata)
    >>> prior = head_order(idata, group="prior", reference=matching)
    >>> prior.order.dims
    ('chain', 'draw', 'layer', 'head')
    """
    problem = problem_with_attention(idata)
    if n_contexts < 1 or max_iterations < 1:
        raise ValueError(
            f"n_contexts and max_iterations must be positive, got {n_contexts}, {max_iterations}"
        )
    parameters = draws_of(idata, group)
    batch = parameters["key"].shape[:2]
    if reference is not None:
        contexts = reference.contexts
    else:
        contexts = fixed_contexts(problem, n_contexts) if contexts is None else contexts
        contexts = checked_contexts(problem, contexts)
        contexts = contexts[: _max_contexts(problem, int(np.prod(batch)), contexts, max_bytes)]
    patterns = _patterns(problem, parameters, contexts)
    kinds = head_kinds(problem.stage, patterns.shape[0], patterns.shape[2], contexts.shape[1])
    found = []
    for layer, (drawn, kind) in enumerate(zip(patterns, kinds, strict=True)):
        if reference is None:
            found.append(match_layer(drawn, kind, max_iterations, contexts.shape[1]))
        else:
            given = reference.reference.values[layer].reshape(drawn.shape[1], -1)
            slots = reference.kind.values[layer]
            order, ambiguous = assign_heads(given, drawn, slots, kind)
            found.append(LayerMatching(order, ambiguous, given, slots, 0, True))
    return _matching(idata, group, contexts, found)


def match_posterior_and_prior(
    idata: az.InferenceData, matching: Matching | None = None
) -> dict[str, Matching]:
    """Match the heads of the posterior, and assign those of prior draws to the same patterns.

    Parameters
    ----------
    idata : InferenceData
    matching : Matching, optional
        That of the posterior, if it has been computed already.

    Returns
    -------
    dict of str to Matching
        Of "posterior" and "prior".
    """
    matching = head_order(idata) if matching is None else matching
    prior = head_order(idata, group="prior", reference=matching)
    return {"posterior": matching, "prior": prior}


def matched(values: xr.DataArray, matching: Matching) -> xr.DataArray:
    """Reorder values of heads by a matching.

    Parameters
    ----------
    values : DataArray (chain, draw, layer, head, ...)
        Values with the heads in the order of each draw.
    matching : Matching
        The matching of the same draws.

    Returns
    -------
    DataArray (chain, draw, layer, head, ...)

    Raises
    ------
    ValueError
        If values and matching have different draws, layers or heads.
    """
    values = values.transpose(*OVER, "layer", "head", ...)
    return values.copy(data=reordered(values.values, matching.order.values))


def reordered(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Reorder heads.

    Parameters
    ----------
    values : ndarray, (*batch, layer, head, ...)
    order : ndarray of int, (*batch, layer, head)

    Returns
    -------
    ndarray, as ``values``

    Raises
    ------
    ValueError
        If values and order have different draws, layers or heads.
    """
    if values.shape[: order.ndim] != order.shape:
        raise ValueError(
            f"values must have the draws, layers and heads of the matching, {order.shape}, "
            f"got {values.shape[: order.ndim]}"
        )
    index = order.reshape(*order.shape, *(1,) * (values.ndim - order.ndim))
    return np.take_along_axis(values, index, axis=order.ndim - 1)


def match_heads(weights: xr.DataArray, *, max_iterations: int = 50) -> Matched:
    """Match heads by given attention weights, see `head_order`.

    Parameters
    ----------
    weights : DataArray (chain, draw, layer, head, sequence, query_position, key_position)
    max_iterations : int

    Returns
    -------
    Matched
    """
    sizes = weights.sizes
    past = past_mask(sizes["query_position"])
    n_draws = sizes["chain"] * sizes["draw"]
    patterns = weights.values[..., past].astype(np.float32)
    patterns = patterns.reshape(n_draws, sizes["layer"], sizes["head"], -1)
    kind, n = np.zeros(sizes["head"], dtype=np.int64), sizes["query_position"]
    found = [
        match_layer(np.ascontiguousarray(patterns[:, layer]), kind, max_iterations, n)
        for layer in range(sizes["layer"])
    ]
    orders = np.stack([each.order for each in found], axis=1)
    dims = (*OVER, "layer", "head")
    coords = {dim: weights[dim] for dim in OVER}
    order = xr.DataArray(orders.reshape([sizes[dim] for dim in dims]), dims=dims, coords=coords)
    ambiguous = xr.DataArray([each.ambiguous.mean() for each in found], dims="layer")
    return Matched(weights.isel(head=order), order, ambiguous)


def head_kinds(stage: Stage, n_layer: int, n_head: int, n_positions: int) -> np.ndarray:
    """Label heads by their dropout masks.

    Parameters
    ----------
    stage : gptbayes.model.stages.Stage
    n_layer, n_head, n_positions : int

    Returns
    -------
    ndarray of int, (layer, head)
        Heads of a layer with the same label have the same mask in contexts of ``n_positions``.
    """
    if stage.masks is None:
        return np.zeros((n_layer, n_head), dtype=np.int64)
    past = np.tri(n_positions, dtype=bool)
    masks = np.asarray(stage.masks.attention)[:, :, :n_positions, :n_positions][..., past]
    kinds = [np.unique(layer, axis=0, return_inverse=True)[1].ravel() for layer in masks]
    return np.stack(kinds)


def matching_findings(matching: Matching) -> Iterator[Finding]:
    """State whether the heads of each layer are distinguishable.

    Parameters
    ----------
    matching : Matching

    Yields
    ------
    gptbayes.findings.Finding
        A finding for each layer with several heads.
    """
    n_layer, n_head = matching.kind.shape
    for layer in range(n_layer if n_head > 1 else 0):
        where = f"in layer {layer + 1} " if n_layer > 1 else ""
        if len(np.unique(matching.kind[layer])) == n_head:
            text = f"{where}heads have different dropout masks and are distinguishable"
            yield Finding(True, text)
            continue
        share = float(matching.ambiguous[layer])
        error = float(matching.ambiguous_mcse[layer])
        size = f"{share:.2f}" + (f" ± {error:.2f}" if np.isfinite(error) else "")
        text = f"{where}the matching of heads is ambiguous in {size} of the draws"
        if share > MANY_AMBIGUOUS:
            text += ": the heads overlap, and a mean over draws mixes them"
        if not bool(matching.converged[layer]):
            text += "; the matching did not converge"
        if len(np.unique(matching.kind[layer])) > 1:
            text += "; only heads with the same dropout mask were matched with each other"
        yield Finding(share <= MANY_AMBIGUOUS and bool(matching.converged[layer]), text)


def _max_contexts(problem, n_draws, contexts, max_bytes):
    n_layer, n_head = (problem.stage.sizes(problem.design)[dim] for dim in ("layer", "head"))
    each = 4 * n_draws * n_layer * n_head * int(past_mask(contexts.shape[1]).sum())
    return int(np.clip(max_bytes // max(each, 1), 1, len(contexts)))


def _patterns(problem, parameters, contexts):
    """Patterns (layer, draw, head, sequence * weight), in single precision."""
    n_layer, n_head = parameters["key"].shape[2:4]
    n_draws = int(np.prod(parameters["key"].shape[:2]))
    past = past_mask(contexts.shape[1])
    patterns = np.empty((n_layer, n_draws, n_head, len(contexts), past.sum()), dtype=np.float32)
    for b, context in enumerate(contexts[:, None]):

        def of_one(chunk, context=context):
            weights = attention_of(problem.stage, chunk, context)[..., 0, :, :]
            return weights[..., past].astype(np.float32)

        values = over_draws(problem.stage, parameters, context, of_one)
        patterns[..., b, :] = np.swapaxes(values.reshape(n_draws, n_layer, n_head, -1), 0, 1)
    return patterns.reshape(n_layer, n_draws, n_head, -1)


def _matching(idata, group, contexts, found):
    """Combine the matchings of layers."""
    n_layer, batch = len(found), [idata[group].sizes[dim] for dim in OVER]
    order = np.stack([each.order for each in found], axis=1)  # (draw, layer, head)
    is_ambiguous = np.stack([each.ambiguous for each in found], axis=1)  # (draw, layer)
    ambiguous = labelled(idata, group, is_ambiguous.reshape(*batch, n_layer), "layer")
    share = probability(ambiguous)
    reference = np.stack([each.reference for each in found])
    reference = reference.reshape(*order.shape[1:], len(contexts), -1)
    return Matching(
        order=labelled(idata, group, order.reshape(*batch, *order.shape[1:]), "layer", "head"),
        ambiguous=share["probability"],
        ambiguous_mcse=share["mcse"],
        ambiguous_draw=ambiguous,
        reference=xr.DataArray(reference, dims=("layer", "head", "sequence", "weight")),
        kind=xr.DataArray(np.stack([each.kind for each in found]), dims=("layer", "head")),
        contexts=contexts,
        iterations=xr.DataArray([each.iterations for each in found], dims="layer"),
        converged=xr.DataArray([each.converged for each in found], dims="layer"),
    )
