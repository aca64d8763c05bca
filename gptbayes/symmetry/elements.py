"""Elements of a compact group: random ones, all of them, and what they do to draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from gptbayes.symmetry.compact_group import Orthogonal, Permutation, SignFlip
from gptbayes.symmetry.layout import Draws, Layout, Placed, Site
from gptbayes.symmetry.matrices import ORTHOGONAL, multiply_axis

MAX_ELEMENTS = 10_000
"""Largest number of elements that `all_elements` lists by default."""


class Element(NamedTuple):
    """What one part of a group does.

    Attributes
    ----------
    part : int
        Number of the part in its group.
    values : ndarray
        A permutation ``(*batch, *each, n)``, whose new item ``i`` is the old item ``values[i]``;
        signs ``(*batch, *each)``; or orthogonal matrices ``(*batch, *each, n, n)``, by which rows
        are multiplied from the right.
    """

    part: int
    values: np.ndarray


def random_element(
    layout: Layout, batch: tuple[int, ...], rng: np.random.Generator
) -> list[Element]:
    """Random elements of a group, uniform (Haar) within each part.

    Parameters
    ----------
    layout : Layout
    batch : tuple of int
    rng : numpy.random.Generator

    Returns
    -------
    list of Element
        One for each part, to be applied in this order.
    """
    found: list[Element] = []
    for k, placed in enumerate(layout.parts):
        if isinstance(placed.part, SignFlip):
            values = rng.choice([-1.0, 1.0], size=(*batch, *placed.each))
        elif isinstance(placed.part, Orthogonal):
            values = ORTHOGONAL.random(placed.n, (*batch, *placed.each), rng)
        else:
            values = _random_permutations(placed, found, batch, rng)
        found.append(Element(k, values))
    return found


def apply_element(layout: Layout, draws: Draws, elements: Sequence[Element]) -> dict:
    """Apply elements of parts to draws, one after the other.

    Parameters
    ----------
    layout : Layout
    draws : mapping of str to ndarray
        Each ``(*batch, dims)``, with blocks split.
    elements : sequence of Element
        Batch dims broadcast against those of the draws.

    Returns
    -------
    dict of str to ndarray
    """
    moved = dict(draws)
    for element in elements:
        placed = layout.parts[element.part]
        for site in placed.sites:
            n_dims = len(layout.split[site.variable])
            moved[site.variable] = _act(placed, site, moved[site.variable], element.values, n_dims)
    return moved


def transform(
    layout: Layout, draws: Mapping[str, np.ndarray], elements: Sequence[Element]
) -> dict[str, np.ndarray]:
    """Apply elements to variables of their own shapes.

    Parameters
    ----------
    layout : Layout
    draws : mapping of str to ndarray
        Each ``(*batch, dims)``; others than those of the group are returned as they are.
    elements : sequence of Element

    Returns
    -------
    dict of str to ndarray
    """
    moved = layout.join_blocks(apply_element(layout, layout.split_blocks(draws), elements))
    return {name: moved.get(name, value) for name, value in draws.items()}


def group_order(layout: Layout) -> float:
    """The number of elements of a group.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    float
        Infinite if there are rotations. Parts are counted as if no element were in two of them.
    """
    total = 1.0
    for placed in layout.parts:
        copies = math.prod(placed.each)
        if isinstance(placed.part, SignFlip):
            total *= 2.0**copies
        elif isinstance(placed.part, Orthogonal):
            total *= 2.0**copies if placed.n == 1 else math.inf
        elif placed.labels is None:
            total *= float(math.factorial(placed.n)) ** copies if placed.n < 171 else math.inf
        else:
            for row in placed.labels.reshape(-1, placed.n):
                counts = np.unique(row, return_counts=True)[1]
                total *= math.prod(float(math.factorial(int(c))) for c in counts)
    return total


def all_elements(layout: Layout, max_elements: int = MAX_ELEMENTS) -> Iterator[list[Element]]:
    """All elements of a small finite group.

    Parameters
    ----------
    layout : Layout
    max_elements : int

    Yields
    ------
    list of Element
        The first is the identity.

    Raises
    ------
    ValueError
        If the group has more elements, or infinitely many.
    """
    order = group_order(layout)
    if order > max_elements:
        size = "infinitely many" if math.isinf(order) else f"{order:.3g}"
        raise ValueError(
            f"the group has {size} elements, at most {max_elements} are listed; use random elements"
        )
    choices = [_all_of_part(k, placed) for k, placed in enumerate(layout.parts)]
    return (list(each) for each in product(*choices))


def describe_element(layout: Layout, element: Element) -> str:
    """Name an element for a message: its part and its values, shortened.

    Parameters
    ----------
    layout : Layout
    element : Element
        Without batch dims.

    Returns
    -------
    str
    """
    values = element.values
    if not np.issubdtype(values.dtype, np.integer):
        values = np.round(values, 3) + 0.0
    words = np.array2string(values, threshold=36, separator=", ")
    return f"{layout.parts[element.part].part.name}: {' '.join(words.split())}"


# Parts.


def _act(placed: Placed, site: Site, values, element, n_dims):
    """An element at one site."""
    tail = 0 if isinstance(placed.part, SignFlip) else 1
    tail += isinstance(placed.part, Orthogonal)
    element = _without_missing_axes(element, site, tail)
    if isinstance(placed.part, SignFlip):
        return values * _spread(element, site.each, n_dims)
    if isinstance(placed.part, Permutation):
        at = _spread(element, site.axes, n_dims)
        batch = np.broadcast_shapes(values.shape[:-n_dims], at.shape[:-n_dims])
        full = np.broadcast_to(values, (*batch, *values.shape[-n_dims:]))
        return _permuted(full, np.broadcast_to(at, (*batch, *at.shape[-n_dims:])), site.axis)
    *each, axis = (axis for axis in site.axes if axis is not None)
    return multiply_axis(values, element, axis, n_dims, each)


def _permuted(values, at, axis):
    """Items along an axis in another order, as by `numpy.take_along_axis`.

    Where an order holds for all the numbers of an item, which lie next to each other, they are
    copied together, many times as fast.
    """
    rest = range(values.ndim + axis + 1, values.ndim)
    if any(at.shape[dim] > 1 for dim in rest):
        return np.take_along_axis(values, at, axis=axis)
    order = at[(..., *(0 for _ in rest))]
    before, n = values.shape[: order.ndim - 1], order.shape[-1]
    order = np.broadcast_to(order, (*before, n)).reshape(-1, n)
    places = order + n * np.arange(len(order))[:, None]
    n_rest = math.prod(values.shape[dim] for dim in rest)
    return values.reshape(-1, n_rest).take(places, axis=0).reshape(values.shape)


def _without_missing_axes(element, site, tail):
    """The element without the axes of length one that a variable does not have."""
    missing = [i for i, axis in enumerate(site.each) if axis is None]
    start = element.ndim - tail - len(site.each)
    return element.squeeze(tuple(start + i for i in missing)) if missing else element


def _spread(element, axes, n_dims):
    """An element with its axes at their places among the dims of a variable."""
    axes = [axis for axis in axes if axis is not None]
    n_batch = element.ndim - len(axes)
    order = np.argsort(axes)
    moved = element.transpose(*range(n_batch), *(n_batch + order))
    shape = [1] * n_dims
    for place, length in zip(sorted(axes), moved.shape[n_batch:], strict=True):
        shape[place] = length
    return moved.reshape(*element.shape[:n_batch], *shape)


def _random_permutations(placed, before, batch, rng):
    """Random permutations; within the items of a permutation before, labels go with the items."""
    shape = (*batch, *placed.each, placed.n)
    if placed.labels is None:
        return rng.permuted(np.broadcast_to(np.arange(placed.n), shape), axis=-1)
    wanted = np.broadcast_to(placed.labels, shape)
    given = wanted
    for k, at in placed.inside.items():
        if k < len(before):
            axes = [axis - len(placed.each) - 1 for axis in at]  # counted from the end
            order = _spread(before[k].values, axes, len(placed.each) + 1)
            given = np.take_along_axis(given, order, axis=axes[-1])
    rows = zip(given.reshape(-1, placed.n), wanted.reshape(-1, placed.n), strict=True)
    return np.array([_random_bijection(*pair, rng) for pair in rows]).reshape(shape)


def _random_bijection(given, wanted, rng):
    """For each place a random item whose label is the label of the place."""
    order = np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        order[wanted == label] = rng.permutation(np.flatnonzero(given == label))
    return order


def _all_of_part(k, placed):
    copies = math.prod(placed.each)
    if isinstance(placed.part, Permutation):
        rows = np.zeros((copies, placed.n), dtype=int)
        if placed.labels is not None:
            rows = placed.labels.reshape(copies, placed.n)
        orders = [
            [o for o in permutations(range(placed.n)) if (row[list(o)] == row).all()]
            for row in rows
        ]
        return [
            Element(k, np.array(each).reshape(*placed.each, placed.n)) for each in product(*orders)
        ]
    shape = placed.each if isinstance(placed.part, SignFlip) else (*placed.each, 1, 1)
    return [
        Element(k, np.array(each).reshape(shape)) for each in product([1.0, -1.0], repeat=copies)
    ]
