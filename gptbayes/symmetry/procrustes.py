"""Move draws towards a reference by one part of a compact group at a time.

Orthogonal maps solve the orthogonal Procrustes problem, permutations a linear assignment problem,
and signs are those of inner products. Each update is the optimum over its part of the group, given
the other parts. A permutation of items counts each pair of items as close as the parts that act
within items can bring them: rotations by the nuclear norm, signs by the absolute value, inner
permutations by their own assignment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from gptbayes.symmetry.compact_group import Orthogonal, Permutation, SignFlip
from gptbayes.symmetry.elements import Element, apply_element
from gptbayes.symmetry.layout import Draws, Layout, Site, front
from gptbayes.symmetry.polar import nearest_orthogonal, nuclear_norm

ENUMERATED = 4
"""Assignments of up to this many items are found by enumeration."""

Update = Callable[[Draws, Draws, bool], dict[str, np.ndarray]]
"""``update(draws, reference, first)`` returns the moved draws, each ``(draw, dims)``.

In the first pass only weights that no later update changes are compared.
"""


def updates_towards(layout: Layout) -> list[Update]:
    """Updates that bring draws closer to a reference, in the order of the parts of the group.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    list of callable
        ``update(draws, reference, first)``, see `Update`, in the order that the first pass needs.
    """
    updates = []
    joint = {_permutation_with(layout, k) for k in range(len(layout.parts))} - {None}
    taken = {k for k in range(len(layout.parts)) if _permutation_with(layout, k) in joint}
    for k, placed in enumerate(layout.parts):
        carried = [j for j in placed.inside if isinstance(layout.parts[k].part, Permutation)]
        if carried or k in taken:
            continue  # found together with the permutation
        if isinstance(placed.part, Permutation):
            flips = [j for j in taken if _permutation_with(layout, j) == k]
            updates.append(_permutation_update(layout, k, flips[0] if flips else None))
        elif isinstance(placed.part, Orthogonal):
            updates.append(_rotation_update(layout, k))
        else:
            updates.append(_sign_update(layout, k))
    return updates


def largest_cross_product(layout: Layout) -> int:
    """Number of elements of the largest array that an update makes for each draw.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    int
    """
    sizes = [math.prod(placed.each) * placed.n**2 for placed in layout.parts]
    for placed in layout.parts:
        for k in placed.inside:
            sizes.append(math.prod(placed.each) * placed.n**2 * layout.parts[k].n)
    return max(sizes)


def best_assignment(gain: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """The assignment of columns to rows with the largest gain.

    Parameters
    ----------
    gain : ndarray, (..., k, k)
    allowed : ndarray of bool, (..., k, k), optional
        Broadcasts against the gain. At least one assignment must be allowed.

    Returns
    -------
    ndarray of int, (..., k)
        The column of each row. Ties are broken in favour of the first candidate.
    """
    k = gain.shape[-1]
    if allowed is not None and not allowed.all():
        penalty = 1 + 2 * k * np.abs(gain).max()
        gain = np.where(allowed, gain, -penalty)
    flat = gain.reshape(-1, k, k)
    if k <= ENUMERATED:
        orders = np.array(list(permutations(range(k))))
        total = np.sum([flat[:, i, orders[:, i]] for i in range(k)], axis=0)  # (draw, order)
        return orders[total.argmax(axis=1)].reshape(*gain.shape[:-1])
    best = flat.argmax(axis=-1)
    clash = (np.sort(best, axis=-1) != np.arange(k)).any(axis=-1)
    for i in np.flatnonzero(clash):  # elsewhere the largest gains of all rows are compatible
        best[i] = linear_sum_assignment(flat[i], maximize=True)[1]
    return best.reshape(*gain.shape[:-1])


# Updates.


def _rotation_update(layout, k):
    placed = layout.parts[k]

    def update(draws, reference, first):
        cross: Any = 0.0
        for site in _compared(layout, k, [(site, site.axes) for site in placed.sites], first):
            ours, theirs = _both(layout, draws, reference, site, site.axes)
            cross = cross + ours @ np.swapaxes(theirs, -1, -2)  # (draw, each, k, k)
        return apply_element(layout, draws, [Element(k, nearest_orthogonal(cross))])

    return update


def _sign_update(layout, k):
    placed = layout.parts[k]

    def update(draws, reference, first):
        product = 0.0
        for site in _compared(layout, k, [(site, site.axes) for site in placed.sites], first):
            ours, theirs = _both(layout, draws, reference, site, site.axes)
            product = product + (ours * theirs).sum(axis=-1)
        return apply_element(layout, draws, [Element(k, np.where(product < 0, -1.0, 1.0))])

    return update


def _permutation_update(layout, k, flip):
    """Permutation of items, with what acts within them, and with the sign of whole variables."""
    placed = layout.parts[k]
    carried = [j for j, other in enumerate(layout.parts) if k in other.inside]
    signed = {site.variable for site in layout.parts[flip].sites} if flip is not None else set()
    same = None
    if placed.labels is not None:
        same = placed.labels[..., :, None] == placed.labels[..., None, :]

    def update(draws, reference, first):
        crosses = _cross_products_of_items(layout, k, carried, draws, reference, first, signed)
        alone = _products_of(draws, reference, signed - {site.variable for site in placed.sites})
        order, inner, gain = _best_order(layout, k, crosses, same, 1.0)
        elements = []
        if flip is not None:
            other = _best_order(layout, k, crosses, same, -1.0)
            opposite = other[2] - alone > gain + alone
            order = np.where(opposite.reshape(-1, *(1,) * (order.ndim - 1)), other[0], order)
            inner = {
                j: np.where(opposite.reshape(-1, *(1,) * (v.ndim - 1)), other[1][j], v)
                for j, v in inner.items()
            }
            elements.append(Element(flip, np.where(opposite, -1.0, 1.0)))
        elements.append(Element(k, order))
        elements += [Element(j, values) for j, values in inner.items()]
        return apply_element(layout, draws, elements)

    return update


def _best_order(layout, k, crosses, same, sign):
    """The best permutation (draw, *each, n), those within its items, and the gain (draw,)."""
    placed = layout.parts[k]
    gain, within = np.zeros(()), {}
    for j, pair in crosses.items():
        cross = pair[1] if pair[0] is None else pair[1] + sign * pair[0]
        # (draw, each, n, n, extra, k, k), of the reference and of the draw
        if j is None:
            gain = gain + cross[..., 0, 0, 0]
        elif isinstance(layout.parts[j].part, Orthogonal):
            gain = gain + nuclear_norm(cross).sum(axis=-1)
        elif isinstance(layout.parts[j].part, SignFlip):
            gain = gain + np.abs(cross[..., 0, 0]).sum(axis=-1)
        else:
            found = best_assignment(cross, _same_within(layout, k, j, same))
            chosen = np.take_along_axis(cross, found[..., None], axis=-1)[..., 0]
            gain = gain + chosen.sum(axis=(-1, -2))
            within[j] = found
    flat_same = None if same is None else same.reshape(-1, placed.n, placed.n)
    order = best_assignment(gain, flat_same)  # (draw, each, n)
    total = np.take_along_axis(gain, order[..., None], axis=-1)[..., 0].sum(axis=(-1, -2))
    inner = {}
    for j, found in within.items():
        at = order[..., None, None, None]
        inner[j] = _restored(layout, k, j, np.take_along_axis(found, at, axis=3)[:, :, :, 0])
    return order.reshape(len(order), *placed.each, placed.n), inner, total


# Cross products of reference and draws.


def _cross_products_of_items(layout, k, carried, draws, reference, first, signed):
    """Inner products of the items of a permutation, by the part that acts within them.

    Each is a pair: what changes sign with `signed`, or None, and what does not.
    """
    placed = layout.parts[k]
    views: list[tuple[Site, tuple, int | None]] = []
    for site in placed.sites:
        inside = _carried_at(layout, k, carried, site)
        if inside is None:
            views.append((site, (*site.axes, None), None))
            continue
        j, other = inside
        views.append((other, _axes_by_item(layout, k, j, other), j))
    chosen = set(_compared(layout, k, [(v[0], v[1]) for v in views], first))
    found: dict = {}
    for site, axes, j in views:
        if site not in chosen:
            continue
        cross = _pairs_of_items(layout, k, j, draws, reference, site, axes)
        pair = found.setdefault(j, [None, None])
        which = 0 if site.variable in signed else 1
        pair[which] = cross if pair[which] is None else pair[which] + cross
    for pair in found.values():
        if pair[1] is None:
            pair[1] = np.zeros_like(pair[0])
    return found


def _products_of(draws, reference, names):
    """Inner products of whole variables, (draw,)."""
    products = [
        (draws[name] * reference[name]).reshape(len(draws[name]), -1).sum(axis=1) for name in names
    ]
    return np.sum(products, axis=0) if products else 0.0


def _pairs_of_items(layout, k, j, draws, reference, site, axes):
    """(draw, each, n, n, extra, k, k), the first of each pair the reference's."""
    n = layout.parts[k].n
    ours, theirs = _both(layout, draws, reference, site, axes)
    size, n_rest = (1 if j is None else layout.parts[j].n), ours.shape[-1]
    n_each = math.prod(layout.parts[k].each)
    n_draws = len(ours)

    def arranged(values):  # (..., each, n, extra, k, rest) -> (..., each, extra, n * k, rest)
        split = values.reshape(*values.shape[:1], n_each, n, -1, size, n_rest)
        return np.moveaxis(split, 2, 3).reshape(len(values), n_each, -1, n * size, n_rest)

    cross = arranged(theirs[None]) @ np.swapaxes(arranged(ours), -1, -2)
    cross = cross.reshape(n_draws, n_each, -1, n, size, n, size)
    return cross.transpose(0, 1, 3, 5, 2, 4, 6)


def _axes_by_item(layout, k, j, site):
    """Axes of a site of an inner part: those of the permutation, the others, its own."""
    at = layout.parts[j].inside[k]
    others = [i for i in range(len(layout.parts[j].each)) if i not in at]
    return (*(site.each[i] for i in at), *(site.each[i] for i in others), site.axis)


def _restored(layout, k, j, values):
    """Inner permutations (draw, each, n, extra, k) with the axes of their part."""
    inner, outer = layout.parts[j], layout.parts[k]
    at = inner.inside[k]
    others = [i for i in range(len(inner.each)) if i not in at]
    lengths = [*outer.each, outer.n, *(inner.each[i] for i in others)]
    split = values.reshape(len(values), *lengths, inner.n)
    back = np.argsort([*at, *others])
    return split.transpose(0, *(1 + back), split.ndim - 1)


def _same_within(layout, k, j, same):
    """Which items within an item may take which places, (each, n, n, extra, k, k) or None."""
    inner, outer = layout.parts[j], layout.parts[k]
    if inner.labels is None:
        return None
    at = inner.inside[k]
    others = [i for i in range(len(inner.each)) if i not in at]
    labels = inner.labels.transpose(*at, *others, len(inner.each))
    labels = labels.reshape(math.prod(outer.each), outer.n, -1, inner.n)
    equal = labels[:, :, None, :, :, None] == labels[:, None, :, :, None, :]
    if same is None:
        return equal
    pairs = same.reshape(-1, outer.n, outer.n)
    return equal | ~pairs[..., None, None, None]


def _carried_at(layout, k, carried, site):
    """The first part that acts within items at a site, and its own site there, or None."""
    for j in carried:
        for other in layout.parts[j].sites:
            axes = [other.each[i] for i in layout.parts[j].inside[k]]
            if other.variable == site.variable and all(
                a == b for a, b in zip(axes, site.axes, strict=True) if b is not None
            ):
                return j, other
    return None


def _compared(layout, k, views, first):
    """Sites to compare; in the first pass those that no later part changes, if there are any."""
    if not first:
        return [site for site, _ in views]
    settled = [site for site, axes in views if not _changes_later(layout, k, site, axes)]
    return settled or [site for site, _ in views]


def _changes_later(layout, k, site, axes):
    """Whether another axis of the variable is changed by this part or by a later one."""
    for j, placed in enumerate(layout.parts):
        for other in placed.sites if j >= k else ():
            changed = other.changed
            if other.variable == site.variable and changed is not None and changed not in axes:
                return True
    return False


def _both(layout, draws, reference, site, axes):
    n_dims = len(layout.split[site.variable])
    return tuple(front(each[site.variable], axes, n_dims) for each in (draws, reference))


def _permutation_with(layout, k) -> int | None:
    """The permutation with which a sign of whole variables is found, the first that shares one."""
    placed = layout.parts[k]
    if not isinstance(placed.part, SignFlip) or placed.each:
        return None
    variables = {site.variable for site in placed.sites}
    taken: Sequence[int] = [j for j in range(k) if _permutation_with(layout, j) is not None]
    used = {_permutation_with(layout, j) for j in taken}
    for j, other in enumerate(layout.parts):
        shared = {site.variable for site in other.sites} & variables
        if isinstance(other.part, Permutation) and not other.inside and shared and j not in used:
            return j
    return None
