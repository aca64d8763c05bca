"""Check that sampled elements of a group leave a function of the draws unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from gptbayes.stats.thinning import evenly_spaced
from gptbayes.symmetry.compact_group import Group, SignFlip
from gptbayes.symmetry.elements import (
    Element,
    all_elements,
    describe_element,
    group_order,
    random_element,
    transform,
)
from gptbayes.symmetry.layout import Layout
from gptbayes.symmetry.posterior import arrays_of, layout_of

TOLERANCE = 1e-8
"""Largest change due to rounding, relative to the larger of 1 and the value."""
MAX_DRAWS = 20
"""Number of draws with which a group is checked."""


class Invariance(NamedTuple):
    """The result of a passed check.

    Attributes
    ----------
    n_elements : int
        Number of elements applied to every draw.
    exhaustive : bool
        Whether these are all elements of the group. If not, other elements may change the
        function.
    largest_change : float
        The largest change of the function, relative to the larger of 1 and its value.
    """

    n_elements: int
    exhaustive: bool
    largest_change: float


def check_invariance(
    group: Group,
    posterior: xr.Dataset,
    function: Callable[[xr.Dataset], Any],
    *,
    n: int = 50,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Invariance:
    """Check that no element of a group changes a log density or a prediction.

    If the group has at most ``n`` elements, all are applied. Otherwise elements are random: first
    those of each part alone, then products of all parts.

    Parameters
    ----------
    group : Group
    posterior : Dataset (chain, draw, ...)
        20 evenly spaced draws are used.
    function : callable
        Takes such a dataset and returns an array (chain, draw, ...), for example the log density
        of every draw.
    n : int
        Number of elements.
    tolerance : float
        Largest change relative to the larger of 1 and the value.
    seed : int
        Seed of the random elements.

    Returns
    -------
    Invariance

    Raises
    ------
    ValueError
        If an element changes the function (the message has the element and the change), the group
        does not fit the variables, or the function is not finite.

    Examples
    --------
    >>> from gptbayes.symmetry import Group, Permutation
    >>> mu = xr.DataArray(np.arange(6.0).reshape(1, 2, 3), dims=("chain", "draw", "component"))
    >>> group = Group(Permutation({"mu": "component"}))
    >>> check_invariance(group, mu.to_dataset(name="mu"), lambda p: p["mu"].sum("component"))
    Invariance(n_elements=6, exhaustive=True, largest_change=0.0)
    """
    some = _thinned(posterior)
    layout = layout_of(group, some)
    draws = arrays_of(some)
    before = _values(function, some)
    rng = np.random.default_rng(seed)
    largest, tried = 0.0, 0
    exhaustive = group_order(layout) <= n
    elements = all_elements(layout, n) if exhaustive else _sample(layout, n, rng)
    for each in elements:
        moved = transform(layout, draws, each)
        dataset = some.assign({k: (some[k].dims, moved[k]) for k in layout.shapes})
        after = _values(function, dataset)
        change = np.abs(after - before) / np.maximum(1.0, np.abs(before))
        largest, tried = max(largest, float(change.max())), tried + 1
        if not change.max() <= tolerance:
            at = np.unravel_index(int(np.nanargmax(change)), change.shape)
            words = "; ".join(describe_element(layout, e) for e in _moving(layout, each))
            raise ValueError(
                f"the group is not a symmetry of this function: ({words}) changes it from "
                f"{before[at]:.6g} to {after[at]:.6g}"
            )
    return Invariance(tried, exhaustive, largest)


def _thinned(posterior):
    n_chain, n_draw = posterior.sizes["chain"], posterior.sizes["draw"]
    wanted = max(1, math.ceil(MAX_DRAWS / n_chain))
    return posterior.isel(draw=evenly_spaced(n_draw, wanted))


def _values(function, dataset):
    found = np.asarray(function(dataset), dtype=float)
    shape = (dataset.sizes["chain"], dataset.sizes["draw"])
    if found.shape[:2] != shape:
        raise ValueError(
            f"the function must return an array with chain and draw in front, {shape}, "
            f"got {found.shape}"
        )
    if not np.isfinite(found).all():
        raise ValueError("the function must be finite at every draw, got nan or infinity")
    return found


def _sample(layout: Layout, n, rng):
    """Random elements, of each part alone and then of all; parts that carry others take them."""
    single = max(1, n // (2 * len(layout.parts)))
    count = 0
    for k in range(len(layout.parts)):
        for _ in range(single):
            whole = random_element(layout, (), rng)
            yield [e for e in whole if e.part == k or k in layout.parts[e.part].inside]
            count += 1
    for _ in range(max(1, n - count)):
        yield random_element(layout, (), rng)


def _moving(layout: Layout, elements) -> list[Element]:
    """Elements that are not the identity."""
    found = []
    for element in elements:
        placed, values = layout.parts[element.part], element.values
        if isinstance(placed.part, SignFlip):
            same = (values == 1).all()
        elif np.issubdtype(values.dtype, np.integer):
            same = (values == np.arange(placed.n)).all()
        else:
            same = np.allclose(values, np.eye(placed.n))
        if not same:
            found.append(element)
    return found
