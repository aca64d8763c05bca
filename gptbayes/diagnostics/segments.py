"""Segments of chains: do they fall into groups that agree within and are apart from each other?

A chain that is trapped in a mode agrees with itself and not with the others; a chain that is slow
does not even agree with itself. Every chain is cut into segments of equal length. What two
segments have in common is estimated from two halves of each that are compared across: with a1, a2
and b1, b2 the means of the halves, (a1 - b1)(a2 - b2) has expectation (a - b)² whatever the Monte
Carlo error, as long as the halves are nearly independent (the cross-validated distance of Walther
et al. 2016). Where they are not, the chain is slow within a segment, and it is seen.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import f as f_distribution

MAX_SEGMENTS = 5
MIN_LENGTH = 40
"""Draws that a segment should have, so that its quarters have ten."""
SEPARATION_LIMIT = 2.5
"""Two normals of equal size have a valley between them if they are further apart than two of
their standard deviations (Ashman, Bird & Zepf 1994, section 2.1); half a one more is for error."""
SETTLED_LIMIT = 1.1
"""R-hat within a group; looser than for chains, for segments are short."""
SETTLED_SHARE = 0.8
"""Of all segments, how many must be in settled groups for there to be modes."""


class Groups(NamedTuple):
    """Groups of segments.

    Attributes
    ----------
    label : DataArray of int (segment)
        0 for the group of most segments, and so on; -1 where a segment is in no group that has
        settled. Coordinates ``of_chain`` (position of its chain, from 0), ``start`` and ``stop``
        (draws of the chain, as of a slice).
    r_hat_within : float
        The largest of the settled groups, free of Monte Carlo error's share: how far the segments
        of a group are apart.
    separation : float
        The smallest of all pairs: distance of their centres along the line between them, in
        standard deviations of the draws along that line; more than 2.5, see `SEPARATION_LIMIT`.
    share : float
        Of segments in settled groups.
    """

    label: xr.DataArray
    r_hat_within: float
    separation: float
    share: float

    @property
    def n(self) -> int:
        """How many groups there are."""
        return int(self.label.max()) + 1


def cut(draws: xr.DataArray, n_segments: int | None = None) -> xr.DataArray:
    """Cut every chain into segments of equal length, leaving out draws at its beginning.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    n_segments : int, optional
        Of each chain; by default 5, or fewer so that each has at least 40 draws.

    Returns
    -------
    DataArray (segment, draw, ...)
        With the coordinates of `Groups.label`. The length is a multiple of 4.

    Raises
    ------
    ValueError
        If a segment would have fewer than 4 draws.
    """
    n_chain, n_draw = draws.sizes["chain"], draws.sizes["draw"]
    if n_segments is None:
        n_segments = int(np.clip(n_draw // MIN_LENGTH, 1, MAX_SEGMENTS))
    length = n_draw // n_segments // 4 * 4 if n_segments > 0 else 0
    if length < 4:
        raise ValueError(
            f"a segment needs at least 4 draws, got {n_draw} draws for {n_segments} segments"
        )
    first = n_draw - n_segments * length
    values = draws.transpose("chain", "draw", ...)
    kept = values.values[:, first:]
    rest = values.dims[2:]
    return xr.DataArray(
        kept.reshape(n_chain * n_segments, length, *kept.shape[2:]),
        dims=("segment", "draw", *rest),
        coords={
            "of_chain": ("segment", np.repeat(np.arange(n_chain), n_segments)),
            "start": ("segment", np.tile(first + length * np.arange(n_segments), n_chain)),
            "stop": ("segment", np.tile(first + length * np.arange(1, n_segments + 1), n_chain)),
            **{dim: draws[dim] for dim in rest if dim in draws.coords},
        },
    )


def group(segments: xr.DataArray, distance: np.ndarray | None = None) -> Groups | None:
    """Group segments into modes, if there are any to be told.

    Average linkage; the fewest groups such that at least four fifths of all segments, and of each
    chain all but one, are in groups whose segments agree with each other (R-hat at most 1.1 when
    Monte Carlo error is taken out), and every two of these are separated by a valley (along a line
    that is found in one half of each segment and tested in the other).

    Parameters
    ----------
    segments : DataArray (segment, draw, scalar)
        As `cut` returns it.
    distance : ndarray, (segment, segment), optional
        By default `distances`.

    Returns
    -------
    Groups, or None
        None if no number of groups, from two to two more than there are chains, is such.
    """
    x = _standardised(segments.values)
    chain = segments["of_chain"].values
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
        if len(settled) < 2 or share < SETTLED_SHARE or _roams(segments, settled):
            continue
        separation = min(_separation(x, quarters, *pair) for pair in combinations(settled, 2))
        if separation > SEPARATION_LIMIT:
            label = _labels(segments, sorted(settled, key=len, reverse=True))
            return Groups(label, max(r for r in within if r <= SETTLED_LIMIT), separation, share)
    return None


def distances(segments: xr.DataArray) -> np.ndarray:
    """Distance between the means of segments, free of Monte Carlo error's share.

    Parameters
    ----------
    segments : DataArray (segment, draw, scalar)

    Returns
    -------
    ndarray, (segment, segment)
        Root mean square over the scalars that vary, in standard deviations within segments; where
        the estimate of the square is negative, 0.

    Raises
    ------
    ValueError
        If no scalar moves within segments: there is nothing to measure a distance by.
    """
    x = _standardised(segments.values)
    if x.shape[-1] == 0:
        raise ValueError("distances need a scalar that moves within segments, got none")
    return _distances(_means(x, 4))


def differences(segments: xr.DataArray, label: xr.DataArray) -> xr.Dataset:
    """Test whether groups of segments differ, one-way analysis of variance of segment means.

    Parameters
    ----------
    segments : DataArray (segment, draw, scalar)
        Of any quantity, cut as for the labels.
    label : DataArray of int (segment)
        As in `Groups`; segments of label -1 are left out.

    Returns
    -------
    Dataset (scalar)
        ``range``, between the largest and the smallest mean of a group; ``sd`` within segments,
        pooled; ``p_value``, nan where there are no more segments than groups.
    """
    used = label.values >= 0
    groups, x = label.values[used], segments.values[used]
    means = x.mean(axis=1)  # (segment, scalar)
    names = np.unique(groups)
    centre = np.stack([means[groups == g].mean(axis=0) for g in names])
    size = np.array([(groups == g).sum() for g in names])
    between = (size[:, None] * (centre - means.mean(axis=0)) ** 2).sum(axis=0)
    within = ((means - centre[np.searchsorted(names, groups)]) ** 2).sum(axis=0)
    between_df, within_df = len(names) - 1, len(groups) - len(names)
    if within_df > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(between > 0, (between / between_df) / (within / within_df), 0.0)
        p = f_distribution.sf(ratio, between_df, within_df)
    else:
        p = np.full(means.shape[1], np.nan)
    return xr.Dataset(
        {
            "range": ("scalar", centre.max(axis=0) - centre.min(axis=0)),
            "sd": ("scalar", np.sqrt(x.var(axis=1, ddof=1).mean(axis=0))),
            "p_value": ("scalar", p),
        }
    )


def _standardised(values):
    """Centred, in standard deviations within segments; constant scalars left out."""
    sd = np.sqrt(values.var(axis=1, ddof=1).mean(axis=0))
    centre = values.mean(axis=(0, 1))
    moving = sd > 1e-12 * (np.abs(centre) + np.abs(values).max(axis=(0, 1)))
    return (values[..., moving] - centre[moving]) / sd[moving]


def _means(x, parts):
    """Means of equal parts of every segment, (segment, part, scalar)."""
    return x.reshape(len(x), parts, -1, x.shape[-1]).mean(axis=2)


def _distances(quarters):
    first, second = quarters[:, :2].mean(axis=1), quarters[:, 2:].mean(axis=1)
    gram = first @ second.T / first.shape[-1]
    own = np.diag(gram)
    square = own[:, None] + own - gram - gram.T
    np.fill_diagonal(square, 0.0)
    return np.sqrt(np.maximum(square, 0.0))


def _r_hat_within(x, quarters, chain, members):
    """The largest R-hat of a group and of what each chain has in it, by the spread of its own.

    A chain that hardly moves is at rest by the spread of the others, and by its own it drifts.
    """
    parts = [members[chain[members] == c] for c in np.unique(chain[members])]
    parts = [members] if len(parts) < 2 else [members, *parts]
    return max((_r_hat(x[each], quarters[each]) for each in parts if each.size), default=np.inf)


def _r_hat(x, quarters):
    """R-hat over half segments, from two quarters of each compared across."""
    variance = x.var(axis=1, ddof=1).mean(axis=0)
    moving = variance > 0
    if not moving.any():
        return 1.0
    halves = quarters[..., moving].reshape(-1, 2, moving.sum())  # (half, quarter, scalar)
    centred = halves - halves.mean(axis=0)
    between = (centred[:, 0] * centred[:, 1]).sum(axis=0) / (len(halves) - 1)
    return float(np.sqrt(1 + max((between / variance[moving]).mean(), 0.0)))


def _roams(segments, settled):
    """Whether a chain has two segments in no settled group: it is slow, not trapped."""
    chain = segments["of_chain"].values
    homeless = np.setdiff1d(np.arange(len(chain)), np.concatenate(settled))
    return np.unique(chain[homeless]).size < homeless.size


def _separation(x, quarters, one, other):
    """Ashman's D along the line between two centres; line and draws from different halves."""
    n = x.shape[1] // 2
    found = []
    for line_from, draws in ((slice(0, 2), slice(n, None)), (slice(2, 4), slice(0, n))):
        line = quarters[one][:, line_from].mean(axis=(0, 1))
        line = line - quarters[other][:, line_from].mean(axis=(0, 1))
        a, b = (x[each][:, draws] @ line for each in (one, other))
        with np.errstate(divide="ignore", invalid="ignore"):  # groups of no spread are apart
            found.append((a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))
    return float(np.mean(found))


def _labels(segments, groups):
    label = np.full(segments.sizes["segment"], -1)
    for i, members in enumerate(groups):
        label[members] = i
    coords = {name: segments[name] for name in ("of_chain", "start", "stop")}
    return xr.DataArray(label, dims="segment", coords=coords, name="label")
