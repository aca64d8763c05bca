"""Posterior masses of modes, from the draws of sequential Monte Carlo.

The number of trapped chains in a mode depends on where they started. Particles that came from the
prior by reweighting and resampling are in each mode in proportion to its mass. The spread of the
replicates gives the standard error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.diagnostics.modes import context_log_prob
from gptbayes.diagnostics.tempering_health import path_of
from gptbayes.diagnostics.verdict import MIXED, UP_TO_SYMMETRY, Verdict
from gptbayes.findings import Finding
from gptbayes.predict import held_out_log_prob
from gptbayes.stats.standard_error import standard_error
from gptbayes.stats.summary import log_mean_exp

VALLEY = 4.0
"""Smallest Ashman's D of two modes. The halves of a normal distribution have 2.7, those of a
uniform one 3.5."""
MIN_SHARE = 0.01
"""Smallest share of the draws that is a mode."""
MAX_MODES = 8
_NOT_THE_MODEL = ("prompt", "prompt_size", "n_new_tokens")


class ModeMasses(NamedTuple):
    """Modes and their masses.

    Attributes
    ----------
    table : Dataset (mode)
        ``mass``, the mean over replicates of the share of draws; ``se`` from their spread, nan for
        one replicate; ``n_replicates``, the number of replicates with draws in it. Largest mass
        first, or in the order of the given modes.
    of_replicate : DataArray (chain, mode)
        The share of draws of each replicate.
    label : DataArray of int (chain, draw)
        The mode of each draw; -1 for draws in no mode.
    elsewhere : float
        Share of draws in no mode.
    findings : list of Finding
        One for each mode, and one on draws in no mode.
    """

    table: xr.Dataset
    of_replicate: xr.DataArray
    label: xr.DataArray
    elsewhere: float
    findings: list[Finding]


def mode_masses(
    idata: az.InferenceData, contexts: np.ndarray | Sequence[str] | None = None, *, seed: int = 0
) -> ModeMasses:
    """Find modes with different predictions in a fit by sequential Monte Carlo, and their masses.

    Draws are divided by 2-means clustering of the square roots of their predictive probabilities
    at fixed contexts, whose Euclidean distance is the Hellinger distance. The two parts are modes
    if they are separated along a line that is estimated from one half of the segments and tested
    with the other. Each part is then divided again.

    Parameters
    ----------
    idata : InferenceData
        Of `gptbayes.fit.smc`.
    contexts : ndarray of int (context, position) or sequence of str, optional
        As in `gptbayes.diagnostics.modes.context_log_prob`.
    seed : int
        Of the clustering.

    Returns
    -------
    ModeMasses

    Raises
    ------
    ValueError
        If the fit is of another method.

    See Also
    --------
    masses_of_modes : Of the modes that chains of NUTS are in.
    """
    path_of(idata)
    points, shape = _features(idata, contexts)
    segment = idata.sample_stats["segment"].values
    half = ((segment + np.arange(shape[0])[:, None]) % 2).ravel().astype(bool)
    label = np.zeros(len(points), dtype=int)
    queue = [0]
    while queue and label.max() + 1 < MAX_MODES:
        mode = queue.pop()
        members = np.flatnonzero(label == mode)
        parts = _split(points[members], half[members], len(points), seed)
        if parts is not None:
            new = label.max() + 1
            label[members[parts]] = new
            queue += [mode, new]
    sizes = np.bincount(label)
    order = np.argsort(np.argsort(-sizes))
    return _masses(order[label].reshape(shape), idata, len(sizes))


def masses_of_modes(
    chains: az.InferenceData,
    label: xr.DataArray,
    smc: az.InferenceData,
    contexts: np.ndarray | Sequence[str] | None = None,
) -> ModeMasses:
    """Estimate the masses of the modes of some chains by sequential Monte Carlo.

    Each draw of ``smc`` belongs to the mode with the nearest mean prediction, and to no mode if it
    is farther from every mode than any draw of the chains is from its own.

    Parameters
    ----------
    chains : InferenceData
        Of NUTS.
    label : DataArray of int (segment)
        Of its segments, as `gptbayes.diagnostics.modes.Modes` has it.
    smc : InferenceData
        Of `gptbayes.fit.smc`.
    contexts : ndarray of int (context, position) or sequence of str, optional
        As in `gptbayes.diagnostics.modes.context_log_prob`.

    Returns
    -------
    ModeMasses

    Raises
    ------
    ValueError
        If the fits have different posteriors.
    """
    path_of(smc)
    if not same_posterior(chains, smc):
        raise ValueError("masses need fits of the same posterior, got two of different ones")
    points, shape = _features(chains, contexts)
    points = points.reshape(*shape, -1)
    own = label_of_draws(label, shape)
    modes = range(int(label.max()) + 1)
    centres = np.stack([points[own == k].mean(axis=0) for k in modes])
    reach = max(np.linalg.norm(points[own == k] - centres[k], axis=-1).max() for k in modes)
    theirs, their_shape = _features(smc, contexts)
    distance = np.linalg.norm(theirs[:, None] - centres, axis=-1)
    found = np.where(distance.min(axis=1) <= reach, distance.argmin(axis=1), -1)
    return _masses(found.reshape(their_shape), smc, len(centres))


def with_masses(verdict: Verdict, masses: ModeMasses | None) -> Verdict:
    """Add the masses of modes to a verdict on chains.

    Parameters
    ----------
    verdict : gptbayes.diagnostics.verdict.Verdict
    masses : ModeMasses or None
        Of `masses_of_modes` or `mode_masses`; None changes nothing.

    Returns
    -------
    gptbayes.diagnostics.verdict.Verdict
        With one more sentence in ``text``, and another ``wrong_if`` if chains agree and sequential
        Monte Carlo finds no other mode.
    """
    if masses is None:
        return verdict
    n_chain = masses.label.sizes["chain"]
    one = masses.table.sizes["mode"] == 1 and masses.elsewhere <= MIN_SHARE
    if not one:
        words = f"By sequential Monte Carlo, {'; '.join(each.text for each in masses.findings)}."
        return verdict._replace(text=f"{verdict.text} {words}")
    words = f"Sequential Monte Carlo, {n_chain} replicates from the prior, finds no other mode."
    changed = verdict._replace(text=f"{verdict.text} {words}")
    if verdict.name not in (MIXED, UP_TO_SYMMETRY):
        return changed
    return changed._replace(
        wrong_if="another mode had so small a mass, or were separated at so small a likelihood "
        f"weight, that none of {n_chain} replicates from the prior had a particle in it"
    )


def same_posterior(one: az.InferenceData, other: az.InferenceData) -> bool:
    """Whether two fits have the same stage, text and priors.

    Parameters
    ----------
    one, other : InferenceData

    Returns
    -------
    bool
    """

    def model(idata):
        data = json.loads(idata.attrs["stan_data"])
        return idata.attrs["stage"], {k: v for k, v in data.items() if k not in _NOT_THE_MODEL}

    return model(one) == model(other)


def label_of_draws(label: xr.DataArray, shape: tuple[int, int]) -> np.ndarray:
    """Labels of segments as labels of draws.

    Parameters
    ----------
    label : DataArray of int (segment)
    shape : tuple of int
        Numbers of chains and of draws.

    Returns
    -------
    ndarray of int, (chain, draw)
        -1 for draws in no segment.
    """
    found = np.full(shape, -1)
    for k in range(label.sizes["segment"]):
        one = label.isel(segment=k)
        chain, start, stop = (int(one[name]) for name in ("chain_index", "start", "stop"))
        found[chain, start:stop] = int(one)
    return found


def weigh_by_mass(
    chains: az.InferenceData, label: xr.DataArray, masses: ModeMasses, stacking: np.ndarray
) -> xr.Dataset:
    """Compute the held-out density of trapped chains, weighted by the masses of their modes.

    Parameters
    ----------
    chains : InferenceData
        Of NUTS.
    label : DataArray of int (segment)
        Of its segments.
    masses : ModeMasses
        Of `masses_of_modes`.
    stacking : ndarray, (chain,)
        Weights of `gptbayes.predict.stack_chains`.

    Returns
    -------
    Dataset (mixture)
        For "mass", "stacking" and "uniform": ``weight`` (mixture, chain), and ``elpd`` with its
        ``se`` on held-out text, in nats.
    """
    sizes = chains.posterior.sizes
    own = label_of_draws(label, (sizes["chain"], sizes["draw"]))
    n_mode = masses.table.sizes["mode"]
    inside = np.stack([(own == k).sum(axis=1) for k in range(n_mode)], axis=1).astype(float)
    share = inside / np.maximum(inside.sum(axis=0), 1)  # of a mode's draws, in each chain
    by_mass = share @ masses.table["mass"].values
    weight = np.stack([by_mass / by_mass.sum(), stacking, np.full(len(by_mass), 1 / len(by_mass))])
    log_density = log_mean_exp(held_out_log_prob(chains).sum("position"), "draw")
    terms = [
        log_mean_exp(
            log_density + xr.DataArray(np.log(np.maximum(w * len(w), 1e-300)), dims="chain"),
            "chain",
        )
        for w in weight
    ]
    joined = xr.concat(terms, "mixture")
    n = joined.sizes["held_out_sequence"]
    se = (
        joined.std("held_out_sequence", ddof=1) * np.sqrt(n)
        if n > 1
        else joined.sum("held_out_sequence") * np.nan
    )
    return xr.Dataset(
        {
            "weight": (("mixture", "chain"), weight),
            "elpd": joined.sum("held_out_sequence"),
            "se": se,
        },
        {"mixture": ["mass", "stacking", "uniform"]},
    )


def _features(idata, contexts):
    """Roots of predictive probabilities, (draw of any chain, feature), and (chains, draws)."""
    log_prob = context_log_prob(idata, contexts).transpose("chain", "draw", ...)
    shape = log_prob.shape[:2]
    roots = np.exp(log_prob.values / 2).reshape(shape[0] * shape[1], -1)
    return roots / np.sqrt(log_prob.sizes["context"]), shape


def _split(points, half, n_all, seed):
    """Which of some points are on the far side of a valley; None if there is none."""
    from sklearn.cluster import KMeans  # not at the top: its import is slow and its use rare

    least = max(2, int(np.ceil(MIN_SHARE * n_all)))
    if len(points) < 2 * least:
        return None
    found = KMeans(2, n_init=10, random_state=seed).fit_predict(points).astype(bool)
    if min(found.sum(), (~found).sum()) < least:
        return None
    separation = []
    for line_from in (half, ~half):
        groups = [found & line_from, ~found & line_from, found & ~line_from, ~found & ~line_from]
        if min(group.sum() for group in groups) < 2:
            return None
        line = points[groups[0]].mean(axis=0) - points[groups[1]].mean(axis=0)
        a, b = points[groups[2]] @ line, points[groups[3]] @ line
        with np.errstate(divide="ignore"):
            separation.append((a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))
    return found if np.mean(separation) > VALLEY else None


def _masses(label, idata, n_mode):
    labels = xr.DataArray(
        label, dims=("chain", "draw"), coords={n: idata.posterior[n] for n in ("chain", "draw")}
    )
    share = xr.concat([(labels == k).mean("draw") for k in range(n_mode)], "mode")
    share = share.transpose("mode", "chain")
    se = ("mode", standard_error(share.values))
    table = xr.Dataset(
        {"mass": share.mean("chain"), "se": se, "n_replicates": (share > 0).sum("chain")}
    )
    elsewhere = float((labels < 0).mean())
    of_replicate = share.transpose("chain", "mode")
    return ModeMasses(table, of_replicate, labels, elsewhere, _findings(table, share, elsewhere))


def _findings(table, share, elsewhere):
    n_chain = share.sizes["chain"]
    found = []
    for k in range(table.sizes["mode"]):
        row = table.isel(mode=k)
        text = f"mode {k + 1} has mass {float(row['mass']):.2f}"
        if n_chain > 1:
            text += f" ± {float(row['se']):.2f}"
        inside = np.flatnonzero(share.isel(mode=k).values > 0) + 1
        if len(inside) == n_chain:
            found.append(Finding(n_chain > 1, text if n_chain > 1 else f"{text}, of unknown error"))
        elif len(inside) == 0:
            found.append(Finding(False, f"{text}: no replicate has a draw in it"))
        else:
            which = ", ".join(map(str, inside))
            noun = "replicate" if len(inside) == 1 else "replicates"
            found.append(
                Finding(
                    False,
                    f"{text}, found by {noun} {which} of {n_chain} only: its mass is uncertain "
                    "beyond this error; run more chains",
                )
            )
    if elsewhere > MIN_SHARE:
        found.append(
            Finding(
                False,
                f"{elsewhere:.0%} of the draws of SMC are in no mode that the chains found: "
                "the chains missed a part of the posterior",
            )
        )
    return found
