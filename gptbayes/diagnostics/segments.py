"""Segments of chains, and their groups: evidence for modes.

Each chain is cut into segments of equal length. If a chain is trapped in a mode, its segments agree
with each other and differ from those of chains in other modes. If a chain is slow, its own segments
differ. Squared distances between the means of segments are estimated by cross-validation (Walther
et al. 2016): with a1, a2 and b1, b2 the means of the halves of two segments, (a1 - b1)(a2 - b2) has
expectation (a - b)² if the halves are nearly independent. Then the distance has no bias from Monte
Carlo error. If the halves are dependent, the chain is slow within a segment, which R-hat detects.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import f as f_distribution

MAX_SEGMENTS = 5
"""Default number of segments per chain."""
MIN_LENGTH = 40
"""Smallest default length of a segment in draws, so that its quarters have ten."""
SEPARATION_LIMIT = 2.5
"""Smallest separation of groups. The density of an equal mixture of two normals has two modes if
the separation is above 2 standard deviations (Ashman, Bird & Zepf 1994, section 2.1). The limit is
larger because of estimation error."""
SETTLED_LIMIT = 1.1
"""Largest R-hat within a group. It is larger than for chains because segments are short."""
SETTLED_SHARE = 0.8
"""Smallest fraction of segments in settled groups for the groups to be modes."""


class Groups(NamedTuple):
    """Groups of segments that agree within a group and are separated from other groups.

    Attributes
    ----------
    label : DataArray of int (segment)
        The group of each segment, by decreasing size from 0; -1 for segments in no settled group.
        Coordinates are ``chain_index`` (0-based), ``start`` and ``stop`` (the slice of draws of
        the chain).
    r_hat_within : float
        The largest R-hat within a settled group, corrected for Monte Carlo error.
    separation : float
        The smallest separation of two groups: the distance between their centers in standard
        deviations of the draws along the line between them; above `SEPARATION_LIMIT`.
    share : float
        Fraction of segments in settled groups.
    """

    label: xr.DataArray
    r_hat_within: float
    separation: float
    share: float

    @property
    def n(self) -> int:
        """The number of groups."""
        return int(self.label.max()) + 1


def cut_segments(draws: xr.DataArray, n_segments: int | None = None) -> xr.DataArray:
    """Cut chains into segments of equal length, without the first few draws.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    n_segments : int, optional
        Number of segments per chain; by default 5, or fewer such that each has at least 40 draws.

    Returns
    -------
    DataArray (segment, draw, ...)
        With the coordinates of `Groups.label`. The length is a multiple of 4.

    Raises
    ------
    ValueError
        If a segment would have fewer than 4 draws.

    Examples
    --------
    >>> draws = xr.DataArray(np.zeros((2, 103, 3)), dims=("chain", "draw", "scalar"))
    >>> cut_segments(draws).sizes
    Frozen({'segment': 4, 'draw': 48, 'scalar': 3})
    """
    n_chain, n_draw = draws.sizes["chain"], draws.sizes["draw"]
    if n_segments is None:
        n_segments = int(np.clip(n_draw // MIN_LENGTH, 1, MAX_SEGMENTS))
    length = n_draw // n_segments // 4 * 4 if n_segments > 0 else 0
    if length < 4:
        raise ValueError(
            f"segments must have at least 4 draws, got {n_draw} draws for {n_segments} segments"
        )
    first = n_draw - n_segments * length
    values = draws.transpose("chain", "draw", ...)
    kept = values.values[:, first:]
    rest = values.dims[2:]
    return xr.DataArray(
        kept.reshape(n_chain * n_segments, length, *kept.shape[2:]),
        dims=("segment", "draw", *rest),
        coords={
            "chain_index": ("segment", np.repeat(np.arange(n_chain), n_segments)),
            "start": ("segment", np.tile(first + length * np.arange(n_segments), n_chain)),
            "stop": ("segment", np.tile(first + length * np.arange(1, n_segments + 1), n_chain)),
            **{dim: draws[dim] for dim in rest if dim in draws.coords},
        },
    )


def cut_like(draws: xr.DataArray, label: xr.DataArray) -> xr.DataArray:
    """Cut chains into the segments of some labels.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    label : DataArray of int (segment)
        As in `Groups`.

    Returns
    -------
    DataArray (segment, draw, ...)
        As of `cut_segments`.
    """
    return cut_segments(draws, int((label["chain_index"] == 0).sum()))


def as_chains(segments: xr.DataArray, label: xr.DataArray, group: int) -> xr.DataArray:
    """The segments of one group as chains.

    Parameters
    ----------
    segments : DataArray (segment, draw, ...)
    label : DataArray of int (segment)
        As in `Groups`.
    group : int

    Returns
    -------
    DataArray (chain, draw, ...)
    """
    members = segments.isel(segment=np.flatnonzero(label.values == group))
    return members.drop_vars(("chain_index", "start", "stop")).rename(segment="chain")


def counts_by_group(label: xr.DataArray) -> xr.Dataset:
    """Count the chains and the draws of each group, and the moves of chains between groups.

    Parameters
    ----------
    label : DataArray of int (segment)
        As in `Groups`.

    Returns
    -------
    Dataset (mode)
        ``whole_chains``, the number of chains all of whose segments are in the group, and
        ``share_of_draws`` among draws that are in a group. Attribute ``switches``: how often a
        chain is in another group than in its segment before.
    """
    values, chain = label.values, label["chain_index"].values
    numbers = range(int(values.max()) + 1)
    whole = [sum(bool((values[chain == c] == k).all()) for c in np.unique(chain)) for k in numbers]
    known = values >= 0
    moved = (np.diff(values[known]) != 0) & (np.diff(chain[known]) == 0)
    return xr.Dataset(
        {
            "whole_chains": ("mode", whole),
            "share_of_draws": ("mode", [float((values == k).sum() / known.sum()) for k in numbers]),
        },
        attrs={"switches": int(moved.sum())},
    )


def group_segments(segments: xr.DataArray, distance: np.ndarray | None = None) -> Groups | None:
    """Group segments into modes by average linkage.

    A group is settled if its segments agree (R-hat at most 1.1 after correction for Monte Carlo
    error). The result is the smallest number of groups such that at least four fifths of all
    segments, and all but at most one segment of each chain, are in settled groups, and every two
    settled groups are separated (along a line that is estimated from one half of each segment and
    tested with the other).

    Parameters
    ----------
    segments : DataArray (segment, draw, scalar)
        As of `cut_segments`.
    distance : ndarray, (segment, segment), optional
        By default `distances`.

    Returns
    -------
    Groups, or None
        None if this holds for no number of groups from 2 to the number of chains plus 2.

    See Also
    --------
    differences : Tests for differences between groups.
    gptbayes.diagnostics.verdict.mixing_verdict : Uses these groups.
    """
    x = _standardized(segments.values)
    chain = segments["chain_index"].values
    n_segment, n_chain = len(x), len(np.unique(chain))
    if n_segment < 2 or x.shape[-1] == 0:
        return None
    quarters = _means(x, 4)
    distance = _distances(quarters) if distance is None else distance
    tree = linkage(squareform(distance, checks=False), "average")
    for k in range(2, min(n_chain + 2, n_segment) + 1):
        members = [np.flatnonzero(fcluster(tree, k, "maxclust") == i) for i in range(1, k + 1)]
        within = [_r_hat_within(x, quarters, chain, each) for each in members]
        settled = [m for m, r in zip(members, within, strict=True) if m.size and r <= SETTLED_LIMIT]
        share = sum(map(len, settled)) / n_segment
        if len(settled) < 2 or share < SETTLED_SHARE or _has_slow_chain(segments, settled):
            continue
        separation = min(_separation(x, quarters, *pair) for pair in combinations(settled, 2))
        if separation > SEPARATION_LIMIT:
            label = _labels(segments, sorted(settled, key=len, reverse=True))
            return Groups(label, max(r for r in within if r <= SETTLED_LIMIT), separation, share)
    return None


def distances(segments: xr.DataArray) -> np.ndarray:
    """Compute distances between the means of segments, corrected for Monte Carlo error.

    Parameters
    ----------
    segments : DataArray (segment, draw, scalar)

    Returns
    -------
    ndarray, (segment, segment)
        Root mean square over the scalars that vary, in standard deviations within segments; 0 if
        the estimate of the squared distance is negative.

    Raises
    ------
    ValueError
        If all scalars are constant within segments.
    """
    x = _standardized(segments.values)
    if x.shape[-1] == 0:
        raise ValueError("distances needs a scalar that varies within segments, got none")
    return _distances(_means(x, 4))


def differences(segments: xr.DataArray, label: xr.DataArray) -> xr.Dataset:
    """Test for differences between groups by one-way analysis of variance of segment means.

    Parameters
    ----------
    segments : DataArray (segment, draw, scalar)
        Any quantity, cut into the segments of the labels.
    label : DataArray of int (segment)
        As in `Groups`. Segments with label -1 are excluded.

    Returns
    -------
    Dataset (scalar)
        ``range``, the difference between the largest and the smallest mean of a group; ``sd``,
        the pooled standard deviation within segments; ``p_value``, nan if there are no more
        segments than groups.
    """
    used = label.values >= 0
    groups, x = label.values[used], segments.values[used]
    means = x.mean(axis=1)  # (segment, scalar)
    centre = np.stack([means[groups == g].mean(axis=0) for g in np.unique(groups)])
    return xr.Dataset(
        {
            "range": ("scalar", centre.max(axis=0) - centre.min(axis=0)),
            "sd": ("scalar", np.sqrt(x.var(axis=1, ddof=1).mean(axis=0))),
            "p_value": ("scalar", analysis_of_variance(means, groups)),
        }
    )


def analysis_of_variance(means: np.ndarray, groups: Sequence[int] | np.ndarray) -> np.ndarray:
    """One-way analysis of variance of means that are independent under the null hypothesis.

    Parameters
    ----------
    means : ndarray, (unit, scalar)
    groups : sequence of int, one per unit

    Returns
    -------
    ndarray, (scalar,)
        p-values of Fisher's F test; nan if there are no more units than groups.
    """
    names, which = np.unique(groups, return_inverse=True)
    between_df, within_df = len(names) - 1, len(which) - len(names)
    if within_df < 1:
        return np.full(means.shape[1], np.nan)
    centre = np.stack([means[which == g].mean(axis=0) for g in range(len(names))])
    size = np.bincount(which)
    between = (size[:, None] * (centre - means.mean(axis=0)) ** 2).sum(axis=0)
    within = ((means - centre[which]) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(between > 0, (between / between_df) / (within / within_df), 0.0)
    return f_distribution.sf(ratio, between_df, within_df)


def _standardized(values):
    """Center and scale by the standard deviation within segments, without constant scalars."""
    sd = np.sqrt(values.var(axis=1, ddof=1).mean(axis=0))
    centre = values.mean(axis=(0, 1))
    moving = sd > 1e-12 * (np.abs(centre) + np.abs(values).max(axis=(0, 1)))
    return (values[..., moving] - centre[moving]) / sd[moving]


def _means(x, parts):
    """Means of equal parts of each segment, (segment, part, scalar)."""
    return x.reshape(len(x), parts, -1, x.shape[-1]).mean(axis=2)


def _distances(quarters):
    first, second = quarters[:, :2].mean(axis=1), quarters[:, 2:].mean(axis=1)
    gram = first @ second.T / first.shape[-1]
    own = np.diag(gram)
    square = own[:, None] + own - gram - gram.T
    np.fill_diagonal(square, 0.0)
    return np.sqrt(np.maximum(square, 0.0))


def _r_hat_within(x, quarters, chain, members):
    """The largest R-hat of a group and of the segments of each chain in it.

    R-hat of each chain is relative to its own variance, which detects slow drift of a chain whose
    variance is much smaller than that of the others.
    """
    parts = [members[chain[members] == c] for c in np.unique(chain[members])]
    parts = [members] if len(parts) < 2 else [members, *parts]
    return max((_r_hat(x[each], quarters[each]) for each in parts if each.size), default=np.inf)


def _r_hat(x, quarters):
    """R-hat of half segments, with the cross-validated variance of their quarters."""
    variance = x.var(axis=1, ddof=1).mean(axis=0)
    moving = variance > 0
    if not moving.any():
        return 1.0
    halves = quarters[..., moving].reshape(-1, 2, moving.sum())  # (half, quarter, scalar)
    centred = halves - halves.mean(axis=0)
    between = (centred[:, 0] * centred[:, 1]).sum(axis=0) / (len(halves) - 1)
    return float(np.sqrt(1 + max((between / variance[moving]).mean(), 0.0)))


def _has_slow_chain(segments, settled):
    """Whether a chain has two segments in no settled group, and so is slow and not trapped."""
    chain = segments["chain_index"].values
    ungrouped = np.setdiff1d(np.arange(len(chain)), np.concatenate(settled))
    return np.unique(chain[ungrouped]).size < ungrouped.size


def _separation(x, quarters, one, other):
    """Ashman's D along the line between two centers; line and draws are from different halves."""
    n = x.shape[1] // 2
    found = []
    for line_from, draws in ((slice(0, 2), slice(n, None)), (slice(2, 4), slice(0, n))):
        line = quarters[one][:, line_from].mean(axis=(0, 1))
        line = line - quarters[other][:, line_from].mean(axis=(0, 1))
        a, b = (x[each][:, draws] @ line for each in (one, other))
        with np.errstate(divide="ignore", invalid="ignore"):  # constant groups are separated
            found.append((a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))
    return float(np.mean(found))


def _labels(segments, groups):
    label = np.full(segments.sizes["segment"], -1)
    for i, members in enumerate(groups):
        label[members] = i
    coords = {name: segments[name] for name in ("chain_index", "start", "stop")}
    return xr.DataArray(label, dims="segment", coords=coords, name="label")
