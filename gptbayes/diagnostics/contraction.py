"""What did the data teach? The posterior against the prior, apart from symmetry.

Contraction is 1 - posterior variance / prior variance: 1 for what the text settles, 0 for what it
says nothing about. Of single weights it means little, for symmetry moves them; here it is looked at

- in directions that no prediction depends on, where it must be 0, exactly and for every sampler;
- locally at draws: of the normal approximation whose precision is that of the prior plus the
  Fisher information of the text at a draw. Its null space is the gauge at that draw, curved
  symmetries included, and the sum of its contractions is the effective number of parameters
  (MacKay 1992, section 4), which can be shared out among layers and kinds of parameter;
- of aligned weights, against prior draws that were aligned in the same way, for alignment itself
  takes away spread;
- of predictions, the centred logits at the contexts of the text.

Heads and hidden units are compared with the prior's by symmetric summaries, sorted in each draw:
the largest head of a posterior draw with the largest head of a prior draw. What cannot be told from
the prior is the prior speaking.
"""

from __future__ import annotations

from typing import NamedTuple

import arviz as az
import numpy as np
import scipy.linalg
import scipy.sparse
import xarray as xr
from scipy.special import softmax, xlogy
from scipy.stats import kstwobign

from gptbayes.findings import ESS_LIMIT
from gptbayes.inference import parameters_of, problem_of
from gptbayes.model.forward import Parameters, active_hidden_units, forward, over_draws
from gptbayes.model.log_density import ravel, unravel
from gptbayes.model.problem import Problem
from gptbayes.stats.summary import summarise
from gptbayes.symmetry import align, logit_jacobian, numerical_rank
from gptbayes.symmetry.dimension import MAX_PARAMETERS
from gptbayes.validate.exact_marginals import known_marginals

N_LOCAL = 6
"""Draws at which the local approximation is taken."""
MAX_DRAWS = 250
"""Draws per chain, evenly spaced, of aligned weights and predictions."""
LEARNED = 0.5
"""A direction with a larger contraction was settled by the text more than by the prior."""
CONSTANT = 1e-9
SKETCH = 8
"""Random sums that each row of a Jacobian goes into."""
LEVEL = 0.01
"""Of the test that tells a posterior summary from the prior's."""


class Contraction(NamedTuple):
    """What the data taught.

    Attributes
    ----------
    gauge : Dataset (direction), or None
        As `gauge_contraction`; None where no direction is known.
    local : Dataset (block, direction), or None
        As `local_contraction`; None for a model that is too large or has no normal prior.
    weights : Dataset (block)
        As `weight_contraction`.
    predictions : Dataset (position)
        As `prediction_contraction`.
    parts : dict of str to Dataset (layer, rank)
        As `compare_with_prior`, of each of `part_summaries`.
    sentences : list of str
        What they say, in words.
    """

    gauge: xr.Dataset | None
    local: xr.Dataset | None
    weights: xr.Dataset
    predictions: xr.Dataset
    parts: dict[str, xr.Dataset]
    sentences: list[str]


def contraction(
    idata: az.InferenceData, *, n_local: int = N_LOCAL, max_draws: int = MAX_DRAWS
) -> Contraction:
    """All that this module has to say of a fit.

    Parameters
    ----------
    idata : InferenceData
        Of NUTS or Pathfinder: a mode has no variance.
    n_local : int
        Draws at which the local approximation is taken; one costs seconds at 1000
        parameters, up to a minute at 2500.
    max_draws : int
        Draws per chain, evenly spaced, of aligned weights, predictions, heads and hidden units.

    Returns
    -------
    Contraction

    Raises
    ------
    ValueError
        If there are fewer than four draws per chain.
    """
    if idata.posterior.sizes["draw"] < 4:
        n = idata.posterior.sizes["draw"]
        raise ValueError(f"contraction needs at least 4 draws per chain, got {n}")
    problem = problem_of(idata)
    posterior = _thinned(parameters_of(idata), max_draws)
    prior = parameters_of(idata, "prior")
    local = None
    if _is_normal(problem) and problem.stage.n_parameters(problem.design) <= MAX_PARAMETERS:
        local = local_contraction(problem, posterior, n_draws=n_local)
    summaries = (part_summaries(problem, draws) for draws in (posterior, prior))
    pairs = zip(*(each.items() for each in summaries), strict=True)
    parts = {name: compare_with_prior(ours, theirs) for (name, ours), (_, theirs) in pairs}
    gauge = gauge_contraction(problem, idata.posterior)
    weights = weight_contraction(problem, posterior, prior)
    predictions = prediction_contraction(problem, posterior, prior)
    found = Contraction(gauge, local, weights, predictions, parts, [])
    return found._replace(sentences=_sentences(found))


def gauge_contraction(problem: Problem, posterior: xr.Dataset) -> xr.Dataset | None:
    """Contraction in the directions whose posterior is exactly their prior: it must be zero.

    Parameters
    ----------
    problem : Problem
    posterior : Dataset (chain, draw, ...)
        As it was sampled, not aligned.

    Returns
    -------
    Dataset (direction), or None if there is none
        ``n`` scalars of each kind, ``contraction`` about their exact mean, pooled over the kind,
        and its Monte Carlo error ``mcse``.
    """
    rows = {}
    for name, known in known_marginals(problem, posterior).items():
        if np.isfinite(known.sd):
            squares = (((known.draws - known.mean) / known.sd) ** 2).mean("scalar")
            if float(squares.std()) < CONSTANT:  # an orientation: its squares always add up to one
                continue
            share = summarise(squares)
            rows[name] = xr.Dataset(
                {
                    "n": known.draws.sizes["scalar"],
                    "contraction": 1 - share["mean"],
                    "mcse": _finite(share["mcse_mean"]),
                }
            )
    if not rows:
        return None
    return xr.concat(rows.values(), xr.DataArray(list(rows), dims="direction", name="direction"))


def local_contraction(
    problem: Problem, parameters: Parameters, *, n_draws: int = N_LOCAL
) -> xr.Dataset:
    """Contraction of the local normal approximation, by kind of parameter and layer.

    With weights in units of their prior sd, the precision at a draw is I + F, F the Fisher
    information of the text under the draw's own predictions (the generalised Gauss-Newton
    matrix). A direction of eigenvalue f contracts by f / (1 + f); a weight shares in the directions
    by its squared loading. No symmetry that keeps the prior changes that, nothing is aligned.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.
    n_draws : int
        How many draws, evenly spaced, are averaged over.

    Returns
    -------
    Dataset (block, direction)
        Blocks are parameters, layer by layer: ``n`` weights, ``gauge`` (of the directions that no
        logit of the text depends on, how many lie in the block), ``identified`` (n - gauge),
        ``learned`` (effective number of parameters) with ``learned_mcse``, ``contraction``
        (learned / identified, nan where nothing is); coords ``parameter`` and
        ``block_layer`` (-1 for none). ``spectrum`` (direction): contractions, largest first,
        averaged over draws.
        Where the stage has them, ``head_learned`` (layer, head) and ``unit_learned`` (layer,
        hidden): sums over all weights of a head or hidden unit, sorted in each draw. Attr
        ``n_draws``.

    Raises
    ------
    ValueError
        For more parameters than `gptbayes.symmetry.null_dimension` takes, or no normal priors.
    """
    if not _is_normal(problem):
        raise ValueError(f"stage {problem.stage.number} has no normal prior, its gauge is curved")
    stage, design = problem.stage, problem.design
    flat = ravel(stage, parameters)
    flat = flat.reshape(-1, flat.shape[-1])
    chosen = np.unique(np.linspace(0, len(flat) - 1, n_draws).round().astype(int))
    found = [_local(problem, unravel(stage, design, flat[i])) for i in chosen]
    learned, gauge, spectrum = (np.stack(each) for each in zip(*found, strict=True))
    where, coords = _blocks(problem)
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
        "learned_mcse": ("block", _standard_error(sums)),
        "contraction": (
            "block",
            np.where(some, sums.mean(axis=1) / np.where(some, identified, 1), np.nan),
        ),
        "spectrum": ("direction", spectrum.mean(axis=0)),
        **_of_parts(stage, unravel(stage, design, learned)),
    }
    return xr.Dataset(variables, coords, {"n_draws": len(chosen)})


def weight_contraction(problem: Problem, posterior: Parameters, prior: Parameters) -> xr.Dataset:
    """Contraction of aligned weights against aligned prior draws.

    Parameters
    ----------
    problem : Problem
    posterior, prior : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``; as many draws of one chain of the posterior
        as of the prior are fairest, for alignment fits fewer draws better.

    Returns
    -------
    Dataset (block)
        Blocks as in `local_contraction`. ``posterior_sd`` and ``prior_sd``, root mean squares over
        the weights of the block, in units of the prior's sd, after alignment; ``contraction``
        and its Monte Carlo error ``mcse``.
    """
    where, coords = _blocks(problem)
    squares = []
    for draws in (posterior, prior):
        flat = _whitened(problem, align(problem.stage, draws).parameters)
        deviation = (flat - flat.mean(axis=(0, 1))) ** 2
        blocks = [deviation[..., at].mean(axis=-1) for at in where]
        squares.append(xr.DataArray(np.stack(blocks, -1), dims=("chain", "draw", "block")))
    return _ratio(*squares).assign_coords(coords)


def prediction_contraction(
    problem: Problem, posterior: Parameters, prior: Parameters
) -> xr.Dataset:
    """Contraction of the centred logits at the contexts of the training text.

    Parameters
    ----------
    problem : Problem
    posterior, prior : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.

    Returns
    -------
    Dataset (position)
        ``posterior_sd`` and ``prior_sd`` of a centred logit, in nats, root mean squares over
        sequences and characters; ``contraction`` and its Monte Carlo error ``mcse``.
    """
    stage, x = problem.stage, problem.training.x

    def logits(chunk):
        values = forward(stage, chunk, x).logits
        return values - values.mean(axis=-1, keepdims=True)

    squares = []
    for draws in (posterior, prior):
        first, second = (
            over_draws(stage, draws, x, lambda chunk, k=k: logits(chunk) ** k) for k in (1, 2)
        )
        mean = first.mean(axis=(0, 1))
        deviation = second - 2 * mean * first + mean**2
        values = deviation.mean(axis=(-3, -1))  # (chain, draw, position)
        squares.append(xr.DataArray(values, dims=("chain", "draw", "position")))
    return _ratio(*squares)


def part_summaries(problem: Problem, parameters: Parameters) -> dict[str, xr.DataArray]:
    """How large each head is and how busy each hidden unit, sorted within a draw.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(chain, draw, dims of that parameter)``.

    Returns
    -------
    dict of str to DataArray (chain, draw, layer, rank)
        Largest first. "size of query times key", its Frobenius norm over the root of the head's
        size; "distance from uniform attention", mean over the text of how many nats the entropy
        of the attention weights lies below the largest possible; "share of the text where a
        hidden unit is active". Empty for stages without heads.
    """
    stage, found = problem.stage, {}
    if "attention" in stage.features:
        found["size of query times key"] = _query_key_size(parameters)
        found["distance from uniform attention"] = over_draws(
            stage, parameters, problem.training.x, lambda c: _sharpness(problem, c)
        )
    if "feed_forward" in stage.features:
        found["share of the text where a hidden unit is active"] = over_draws(
            stage, parameters, problem.training.x, lambda c: _activity(problem, c)
        )
    dims = ("chain", "draw", "layer", "rank")
    return {
        name: xr.DataArray(-np.sort(-values, axis=-1), dims=dims, name=name)
        for name, values in found.items()
    }


def compare_with_prior(posterior: xr.DataArray, prior: xr.DataArray) -> xr.Dataset:
    """Can a sorted summary of posterior draws be told from that of prior draws?

    Parameters
    ----------
    posterior, prior : DataArray (chain, draw, layer, rank)
        As `part_summaries` gives them; prior draws are independent.

    Returns
    -------
    Dataset (layer, rank)
        ``mean``, ``lower``, ``upper`` of the posterior (90 %), ``prior_mean``, ``prior_lower``,
        ``prior_upper``; ``distance``, the largest difference of the two distribution functions
        (Kolmogorov-Smirnov); ``limit``, what it stays below in 99 of 100 cases if there is none,
        with the posterior's effective sample size in place of its size; ``told_apart``.
    """
    ours, theirs = summarise(posterior), summarise(prior)
    pooled = (each.values.reshape(-1, *each.shape[2:]) for each in (posterior, prior))
    distance = (("layer", "rank"), _kolmogorov_smirnov(*pooled))
    n_prior = prior.sizes["chain"] * prior.sizes["draw"]
    effective = ours["ess_bulk"].fillna(np.inf)
    limit = kstwobign.isf(LEVEL) * np.sqrt(1 / effective + 1 / n_prior)
    names = ("mean", "lower", "upper")
    found = xr.Dataset(
        {
            **{name: ours[name] for name in names},
            **{f"prior_{name}": theirs[name] for name in names},
            "ess_bulk": ours["ess_bulk"],
            "distance": distance,
            "limit": limit,
        }
    )
    return found.assign(told_apart=found["distance"] > found["limit"])


def _local(problem, draw):
    """Of each weight at one draw: its share of what is learned, and of the gauge; the spectrum."""
    scale = np.concatenate(
        [np.full(draw[p.name].size, problem.priors.scale(p)) for p in problem.stage.parameters]
    )
    x, n_weights, n_token = problem.training.x, len(scale), problem.design.vocab_size
    size = max(1, 2 * n_weights // (x.shape[1] * n_token))  # sequences whose Jacobian is held
    rng = np.random.default_rng(0)
    fisher, rows = np.zeros((n_weights, n_weights)), np.zeros((2 * n_weights, n_weights))
    for start in range(0, len(x), size):
        part = x[start : start + size]
        jacobian = logit_jacobian(problem.stage, draw, part) * scale  # (B T V, weight)
        logits = forward(problem.stage, draw, part).logits
        half = _half_fisher(jacobian, softmax(logits, axis=-1).reshape(-1, n_token))
        fisher += problem.likelihood_weight * half.T @ half
        rows += _sketch(len(jacobian), len(rows), rng) @ jacobian
    values, vectors = scipy.linalg.eigh(fisher)
    shrunk = np.maximum(values, 0) / (1 + np.maximum(values, 0))
    return vectors**2 @ shrunk, _gauge_share(rows), shrunk[::-1]


def _sketch(n_from, n_to, rng):
    """Random sums of rows, which keep the row space (Nelson & Nguyen 2013)."""
    to = rng.integers(n_to, size=(n_from, SKETCH))
    at = (to.ravel(), np.repeat(np.arange(n_from), SKETCH))
    return scipy.sparse.csr_array((rng.normal(size=to.size), at), shape=(n_to, n_from))


def _half_fisher(jacobian, probs):
    """A root of the Fisher information: diag(p) - p pᵀ is the square of diag(√p) (1 - 1 pᵀ)."""
    slopes = jacobian.reshape(*probs.shape, -1)  # (context, token, weight)
    mean = probs[:, None] @ slopes  # (context, 1, weight)
    return (np.sqrt(probs)[..., None] * (slopes - mean)).reshape(jacobian.shape)


def _gauge_share(rows):
    """Diagonal of the projector on the directions that are orthogonal to all rows."""
    (triangle,) = scipy.linalg.qr(rows, mode="r", check_finite=False)
    triangle = triangle[: rows.shape[1]]
    basis, found, _ = scipy.linalg.qr(triangle.T, mode="economic", pivoting=True)
    values = np.abs(np.diag(found))  # like singular values, but for a factor, and much sooner had
    rank, _ = numerical_rank(values)
    return 1 - (basis[:, :rank] ** 2).sum(axis=1)


def _blocks(problem):
    """Weights of each block, as `ravel` counts them, and the coords of the blocks."""
    stage, design, start = problem.stage, problem.design, 0
    where, labels, names, layers = [], [], [], []
    for p in stage.parameters:
        shape = stage.shape(p, design)
        layered = p.dims[0] == "layer"
        many = layered and "blocks" in stage.features
        for layer in range(shape[0] if layered else 1):
            n = int(np.prod(shape[1:] if layered else shape))
            where.append(np.arange(start, start + n))
            labels.append(f"{p.name}, layer {layer + 1}" if many else p.name)
            names.append(p.name)
            layers.append(layer if layered else -1)
            start += n
    coords = {"block": labels, "parameter": ("block", names), "block_layer": ("block", layers)}
    return where, coords


def _of_parts(stage, learned):
    """Sums over all weights of a head and of a hidden unit, sorted in each draw, then averaged."""
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


def _whitened(problem, parameters):
    priors = problem.priors
    return ravel(
        problem.stage,
        {
            p.name: (parameters[p.name] - priors.mean(p)) / priors.scale(p)
            for p in problem.stage.parameters
        },
    )


def _ratio(posterior, prior):
    """Contraction from squared deviations (chain, draw, ...), with its Monte Carlo error."""
    ours, theirs = summarise(posterior), summarise(prior)
    share = ours["mean"] / theirs["mean"]
    errors = [_finite(each["mcse_mean"]) / each["mean"] for each in (ours, theirs)]
    return xr.Dataset(
        {
            "contraction": 1 - share,
            "mcse": share * np.sqrt(errors[0] ** 2 + errors[1] ** 2),
            "posterior_sd": np.sqrt(ours["mean"]),
            "prior_sd": np.sqrt(theirs["mean"]),
            "ess_bulk": ours["ess_bulk"],
        }
    )


def _query_key_size(parameters):
    q, k = parameters["query"], parameters["key"]
    grams = [np.swapaxes(each, -1, -2) @ each for each in (q, k)]  # (..., H, h, h)
    squares = (grams[0] * np.swapaxes(grams[1], -1, -2)).sum(axis=(-2, -1))
    return np.sqrt(np.maximum(squares, 0) / q.shape[-1])  # |Q Kᵀ|² is tr(QᵀQ KᵀK)


def _sharpness(problem, chunk):
    weights = forward(problem.stage, chunk, problem.training.x).attention[..., 1:, :]
    total = weights.sum(axis=-1, keepdims=True)  # not one where a dropout mask took some away
    weights = weights / np.where(total > 0, total, 1)
    entropy = -xlogy(weights, weights).sum(axis=-1)  # (..., L, H, B, T - 1)
    largest = np.log(np.arange(2, problem.design.block_size + 1))
    return (largest - entropy).mean(axis=(-2, -1)) if len(largest) else entropy.sum(axis=(-2, -1))


def _activity(problem, chunk):
    return active_hidden_units(problem.stage, chunk, problem.training.x).mean(axis=(-2, -1))


def _kolmogorov_smirnov(a, b):
    """Largest difference of the distribution functions of (draw, layer, rank) arrays."""
    distance = np.empty(a.shape[1:])
    for at in np.ndindex(distance.shape):
        each = [np.sort(values[:, *at]) for values in (a, b)]
        both = np.concatenate(each)
        shares = [np.searchsorted(v, both, side="right") / len(v) for v in each]
        distance[at] = np.abs(shares[0] - shares[1]).max()
    return distance


def _standard_error(values):
    n = values.shape[-1]
    return values.std(axis=-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[:-1], np.nan)


def _finite(mcse):
    """What never changes has no Monte Carlo error."""
    return mcse.fillna(0.0)


def _is_normal(problem):
    return all(p.prior == "normal" for p in problem.stage.parameters)


def _thinned(parameters, max_draws):
    n_draw = next(iter(parameters.values())).shape[1]
    index = np.unique(np.linspace(0, n_draw - 1, min(n_draw, max_draws)).round().astype(int))
    return {name: value[:, index] for name, value in parameters.items()}


def _sentences(found):
    sentences = []
    if found.gauge is not None:
        sentences.append(_gauge_sentence(found.gauge))
    if found.local is not None:
        sentences += _local_sentences(found.local)
    sentences.append(_prediction_sentence(found.predictions))
    for name, table in found.parts.items():
        sentences += _part_sentences(name, table)
    smallest = min(float(t["ess_bulk"].min()) for t in (found.predictions, found.weights))
    if smallest < ESS_LIMIT:
        sentences.append(
            f"smallest ESS of a variance {smallest:.0f}, below {ESS_LIMIT}: contractions are rough"
        )
    return sentences


def _gauge_sentence(gauge):
    t = (gauge["contraction"] / gauge["mcse"].where(gauge["mcse"] > 0)).fillna(0)
    worst = gauge.isel(direction=int(np.abs(t.values).argmax()))
    text = (
        f"in {int(gauge['n'].sum())} directions that no prediction depends on the contraction must "
        f"be 0; furthest from it are the {worst['direction'].item()}, "
        f"{100 * float(worst['contraction']):+.1f} % ± {100 * float(worst['mcse']):.1f} %"
    )
    if float(np.abs(t).max()) > 4:
        text += ": more than four Monte Carlo errors, these draws are not of the posterior"
    return text


def _local_sentences(local):
    total, gauge = int(local["n"].sum()), float(local["gauge"].sum())
    learned = float(local["learned"].sum())
    settled = int((local["spectrum"] > LEARNED).sum())
    first = (
        f"of {total} weights {gauge:.0f} directions change no prediction of the text; in the other "
        f"{total - gauge:.0f} the text is worth {learned:.0f} parameters (local normal "
        f"approximation, draws looked at: {local.attrs['n_draws']}), {settled} directions are "
        "settled by it more than by the prior"
    )
    some = local.isel(block=local["contraction"].notnull().values)
    ordered = some.sortby("contraction", ascending=False)
    ends = [
        f"{ordered['block'].values[k]} ({100 * float(ordered['contraction'][k]):.0f} %)"
        for k in (0, -1)
    ]
    if ordered.sizes["block"] < 2:
        return [first]
    return [first, f"it taught most about {ends[0]}, least about {ends[1]}"]


def _prediction_sentence(at):
    values = 100 * at["contraction"].values
    low, high = int(values.argmin()), int(values.argmax())
    text = (
        f"predictions (centred logits at the contexts of the text) contract by {values[low]:.0f} % "
        f"at position {low + 1} of a context to {values[high]:.0f} % at position {high + 1}, Monte "
        f"Carlo error up to {100 * float(at['mcse'].max()):.1f} %"
    )
    if values[low] >= 0:
        return text
    return f"{text}; negative is a wider spread than a priori, as large weights give"


def _part_sentences(name, table):
    n = table.sizes["rank"]
    sentences = []
    for layer in range(table.sizes["layer"]):
        told = table["told_apart"].isel(layer=layer)
        where = f" in layer {layer + 1}" if table.sizes["layer"] > 1 else ""
        text = f"{name}{where}: {int(told.sum())} of {n} ranks can be told from the prior"
        if not bool(told.all()):
            text += ", what cannot is the prior speaking"
        sentences.append(text)
    return sentences
