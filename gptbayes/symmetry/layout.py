"""Where the parts of a group act on arrays of given dims and shapes.

`lay_out` matches a group with the variables of a model and checks that they fit. Elements,
alignment and invariants then use plain arrays ``(draw, dims)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gptbayes.symmetry.compact_group import Group, Part, Permutation, SignFlip, paths_of

Draws = Mapping[str, np.ndarray]
"""Draws of each variable, ``(draw, dims)``, with the axes of blocks split."""


class Site(NamedTuple):
    """One place where a part acts.

    Attributes
    ----------
    variable : str
    each : tuple of int or None
        Axes, counted from the end, over which elements are independent; None where the variable
        has no such axis and the length is one.
    axis : int or None
        The axis that is permuted or rotated; None for a change of sign.
    """

    variable: str
    each: tuple[int | None, ...]
    axis: int | None

    @property
    def axes(self) -> tuple[int | None, ...]:
        """All axes of the path."""
        return self.each if self.axis is None else (*self.each, self.axis)

    @property
    def changed(self) -> int | None:
        """The axis whose items are moved, mixed or changed in sign; None for a whole variable."""
        return self.axes[-1] if self.axes else None


class Placed(NamedTuple):
    """A part of a group on variables of known shapes.

    Attributes
    ----------
    part : Permutation, SignFlip or Orthogonal
    sites : tuple of Site
    each : tuple of int
        Lengths of the axes over which elements are independent.
    n : int
        Length of the axis that is permuted or rotated; 1 for a change of sign.
    labels : ndarray of int, (*each, n), or None
        Of a permutation.
    inside : dict of int to tuple of int
        The permutations within whose items this part acts, by their index in `Layout.parts`, and
        the positions of their axes in ``each``.
    """

    part: Part
    sites: tuple[Site, ...]
    each: tuple[int, ...]
    n: int
    labels: np.ndarray | None
    inside: dict[int, tuple[int, ...]]


class Layout(NamedTuple):
    """A group on variables of known shapes.

    Attributes
    ----------
    group : Group
    shapes : dict of str to tuple of int
        Of each variable of the group.
    split : dict of str to tuple of int
        The same with the axes of blocks split.
    parts : tuple of Placed
    """

    group: Group
    shapes: dict[str, tuple[int, ...]]
    split: dict[str, tuple[int, ...]]
    parts: tuple[Placed, ...]

    def split_blocks(self, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Split the axes of blocks.

        Parameters
        ----------
        draws : mapping of str to ndarray
            Each ``(*batch, dims)``; variables that are not of the group are left out.

        Returns
        -------
        dict of str to ndarray
        """
        return _reshaped(draws, self.shapes, self.split)

    def join_blocks(self, draws: Draws) -> dict[str, np.ndarray]:
        """Undo `split_blocks`.

        Parameters
        ----------
        draws : mapping of str to ndarray
            Each ``(*batch, dims)``, with blocks split.

        Returns
        -------
        dict of str to ndarray
        """
        return _reshaped(draws, self.split, self.shapes)


def lay_out(
    group: Group, dims: Mapping[str, Sequence[str]], shapes: Mapping[str, Sequence[int]]
) -> Layout:
    """Find the axes of a group in variables of given dims and shapes.

    Parameters
    ----------
    group : Group
    dims : mapping of str to sequence of str
        Dims of each variable, without those of draws.
    shapes : mapping of str to sequence of int
        Their lengths.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If a variable or a dim is missing, or axes on which the same element acts have different
        lengths. The message names variables, dims and shapes.
    """
    missing = [name for name in group.variables if name not in dims]
    if missing:
        raise ValueError(
            f"the group acts on {', '.join(missing)}, the variables are {', '.join(dims) or 'none'}"
        )
    known = {name: tuple(shapes[name]) for name in group.variables}
    names, sizes = _split_dims(group, dims, known)
    sites = [_sites(part, names, dims, known) for part in group.parts]
    _solve_sizes(group, names, sizes, sites, known)
    parts = []
    for part, places in zip(group.parts, sites, strict=True):
        lengths = _shared_lengths(part, places, sizes, known)
        each, n = (lengths, 1) if isinstance(part, SignFlip) else (lengths[:-1], lengths[-1])
        parts.append(Placed(part, places, each, n, _labels(part, lengths), {}))
    for inner in parts:
        for k, outer in enumerate(parts):
            at = _position_inside(inner, outer)
            if at is not None:
                inner.inside[k] = at
    return Layout(group, known, {name: tuple(sizes[name]) for name in known}, tuple(parts))


def front(values: np.ndarray, axes: Sequence[int | None], n_dims: int) -> np.ndarray:
    """Axes in front, all others flattened.

    Parameters
    ----------
    values : ndarray, (..., n_dims dims)
    axes : sequence of int or None
        Counted from the end; None makes an axis of length one.
    n_dims : int
        Number of trailing dims that are not batch dims.

    Returns
    -------
    ndarray, (..., axes, rest)
    """
    n_batch = values.ndim - n_dims
    real = [axis for axis in axes if axis is not None]
    rest = [axis for axis in range(-n_dims, 0) if axis not in real]
    order = [*range(n_batch), *(values.ndim + axis for axis in (*real, *rest))]
    moved = values.transpose(order)
    lengths = [1 if axis is None else values.shape[axis] for axis in axes]
    n_rest = math.prod(values.shape[axis] for axis in rest)
    return moved.reshape(*values.shape[:n_batch], *lengths, n_rest)


def _reshaped(draws, before, after):
    """Variables with other trailing dims and the same batch dims."""
    found = {}
    for name, shape in after.items():
        value = np.asarray(draws[name])
        found[name] = value.reshape(*value.shape[: value.ndim - len(before[name])], *shape)
    return found


def _split_dims(group, dims, shapes):
    """Names and lengths of the dims of each variable with its blocks split; None if unknown."""
    names, sizes = {}, {}
    for name in group.variables:
        found: list[str] = []
        lengths: list[int | None] = []
        blocks = group.blocks.get(name, {})
        for dim, length in zip(dims[name], shapes[name], strict=True):
            into = blocks.get(dim, (dim,))
            found += into
            lengths += [length] if len(into) == 1 else [None] * len(into)
        for dim in blocks:
            if dim not in dims[name]:
                raise ValueError(f"blocks are of {dim} of {name}, but {_has(name, dims, shapes)}")
        names[name], sizes[name] = tuple(found), lengths
    return names, sizes


def _sites(part, names, dims, shapes):
    found = []
    depth = max(len(path) for paths in paths_of(part).values() for path in paths)
    for name, paths in paths_of(part).items():
        for path in paths:
            for dim in path:
                if dim not in names[name]:
                    raise ValueError(
                        f"the {part.name} acts on {'/'.join(path)} of {name}, "
                        f"but {_has(name, dims, shapes)}"
                    )
            axes = [None] * (depth - len(path))
            axes += [names[name].index(dim) - len(names[name]) for dim in path]
            if isinstance(part, SignFlip):
                found.append(Site(name, tuple(axes), None))
            else:
                found.append(Site(name, tuple(axes[:-1]), axes[-1]))
    return tuple(found)


def _has(name, dims, shapes):
    return f"{name} has dims ({', '.join(dims[name])}) of shape {tuple(shapes[name])}"


def _solve_sizes(group, names, sizes, sites, shapes):
    """Fill the lengths of blocks in, from other variables on which the same part acts."""
    for _ in range(1 + sum(length is None for each in sizes.values() for length in each)):
        for places in sites:
            for column in zip(*(place.axes for place in places), strict=True):
                known = [
                    sizes[p.variable][a]
                    for p, a in zip(places, column, strict=True)
                    if a is not None and sizes[p.variable][a] is not None
                ]
                for place, axis in zip(places, column, strict=True):
                    if known and axis is not None and sizes[place.variable][axis] is None:
                        sizes[place.variable][axis] = known[0]
        for name, blocks in group.blocks.items():
            for into in blocks.values() if name in sizes else ():
                _complete_block(name, into, names, sizes, blocks, shapes)
    for name, lengths in sizes.items():
        if None in lengths:
            at = names[name][lengths.index(None)]
            raise ValueError(
                f"the length of {at} in the blocks of {name} is unknown: no other variable has it"
            )


def _complete_block(name, into, names, sizes, blocks, shapes):
    """The one unknown length of a block is what the others leave."""
    at = [names[name].index(dim) for dim in into]
    known = [sizes[name][i] for i in at if sizes[name][i] is not None]
    whole = _length_before_split(name, into, names, blocks, shapes)
    product = math.prod(known)
    if len(known) == len(at) - 1:
        if not product or whole % product:
            raise ValueError(f"{name} cannot be split in blocks: {whole} is no multiple of {known}")
        sizes[name][next(i for i in at if sizes[name][i] is None)] = whole // product
    elif len(known) == len(at) and product != whole:
        raise ValueError(f"the blocks of {name} have {known} elements, its axis has {whole}")


def _length_before_split(name, into, names, blocks, shapes):
    position, n = 0, 0
    while names[name][position] != into[0]:
        split = [each for each in blocks.values() if each[0] == names[name][position]]
        position += len(split[0]) if split else 1
        n += 1
    return shapes[name][n]


def _shared_lengths(part, places, sizes, shapes):
    """The lengths of the axes that an element has, equal at all places."""
    lengths = []
    for column in zip(*(place.axes for place in places), strict=True):
        found: dict[int, str] = {}
        for place, axis in zip(places, column, strict=True):
            length = 1 if axis is None else sizes[place.variable][axis]
            found.setdefault(length, place.variable)
        if len(found) > 1:
            seen = ", ".join(
                f"{length} in {name} of shape {shapes[name]}" for length, name in found.items()
            )
            raise ValueError(f"the axes of the {part.name} must have equal lengths, got {seen}")
        lengths.append(next(iter(found)))
    return tuple(lengths)


def _labels(part, lengths):
    if not isinstance(part, Permutation) or part.labels is None:
        return None
    given = np.asarray(part.labels)
    try:
        full = np.broadcast_to(given, lengths)
    except ValueError:
        raise ValueError(
            f"labels of the {part.name} must have shape {lengths}, got {given.shape}"
        ) from None
    return np.unique(full, return_inverse=True)[1].reshape(lengths)


def _position_inside(inner, outer):
    """Positions in ``inner.each`` of the axes of a permutation that carries ``inner``, or None."""
    if inner is outer or not isinstance(outer.part, Permutation):
        return None
    positions = None
    for site in inner.sites:
        match = [
            tuple(site.each.index(axis) if axis is not None else None for axis in other.axes)
            for other in outer.sites
            if other.variable == site.variable
            and all(axis is None or axis in site.each for axis in other.axes)
        ]
        if not match:
            return None
        found = match[0]
        if positions is None:
            positions = list(found)
        positions = [a if a is not None else b for a, b in zip(positions, found, strict=True)]
    if positions is None or None in positions or len(set(positions)) != len(positions):
        known = [p for p in positions or [] if p is not None]
        free = [i for i in range(len(inner.each)) if i not in known]
        if positions is None or len(known) != len(set(known)):
            return None
        # Axes that no variable has are of length one: any free position of that length serves.
        ones = [i for i in free if inner.each[i] == 1]
        if positions.count(None) > len(ones):
            return None
        positions = [p if p is not None else ones.pop(0) for p in positions]
    return tuple(positions)
