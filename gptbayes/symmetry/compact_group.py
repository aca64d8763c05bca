"""Compact symmetry groups as data: which axes of which variables are permuted, flipped or rotated.

A `Group` names variables and their dims and contains no code of a model, so that it describes the
symmetry of any program: a mixture, a factor model, a network, or one of the twelve stages, whose
groups are in `gptbayes.symmetry.group.compact`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

Axes = Mapping[str, str | Sequence[str]]
"""Variables and, for each, the axis on which a part acts, or several axes. An axis is a dim, or a
path of dims such as ``"layer/head"``, with one element for each index of the dims before the
last."""
Paths = dict[str, tuple[tuple[str, ...], ...]]
"""Variables and, for each, the dims of every path."""


@dataclass(frozen=True)
class Permutation:
    """Permutations of one axis that several variables share.

    Attributes
    ----------
    axes : mapping of str to str or sequence of str
        The axis of each variable, by the name of its dim. ``"layer/hidden"`` permutes the dim
        ``hidden`` independently in each layer. If a variable has two axes, both are permuted.
    labels : sequence, (..., item), optional
        Only items with equal labels are exchanged. By default all items are exchangeable. Leading
        axes are those of the path.
    name : str
        Used in messages. By default it lists the axes.

    Examples
    --------
    >>> Permutation({"mu": "component", "sigma": "component", "theta": "component"}).name
    'permutation of mu, sigma, theta along component'
    """

    axes: Axes
    labels: Any = field(default=None, compare=False)
    name: str = ""
    kind: ClassVar[str] = "permutation"

    def __post_init__(self) -> None:
        _complete(self)


@dataclass(frozen=True)
class SignFlip:
    """Changes of sign that several variables share.

    Attributes
    ----------
    axes : mapping of str to str or sequence of str
        ``{"loadings": "factor", "scores": "factor"}`` has a sign for each factor, and
        ``"layer/head"`` one for each layer and head. The empty path ``""`` is one sign for the
        whole variable.
    name : str
        Used in messages. By default it lists the axes.
    """

    axes: Axes
    name: str = ""
    kind: ClassVar[str] = "sign flip"

    def __post_init__(self) -> None:
        _complete(self)


@dataclass(frozen=True)
class Orthogonal:
    """Rotations and reflections of an axis that several variables share: the group O(k).

    Attributes
    ----------
    axes : mapping of str to str or sequence of str
        ``{"loadings": "factor", "scores": "factor"}`` multiplies both by the same orthogonal
        matrix. ``"layer/head/head_dim"`` has one matrix for each layer and head.
    name : str
        Used in messages. By default it lists the axes.
    """

    axes: Axes
    name: str = ""
    kind: ClassVar[str] = "orthogonal map"

    def __post_init__(self) -> None:
        _complete(self)


Part = Permutation | SignFlip | Orthogonal
KINDS = {"permutation": Permutation, "sign_flip": SignFlip, "orthogonal": Orthogonal}
"""The parts, by their name in a file."""


@dataclass(frozen=True, init=False)
class Group:
    """A compact group that acts on the variables of a model.

    Its elements are products of elements of the parts. Some parts act within the items of a
    permutation, as signs of factors or rotations of heads do. Such elements are permuted together
    with the items, which follows from the paths of dims.

    Parameters
    ----------
    *parts : Permutation, SignFlip or Orthogonal
        In the order in which alignment optimizes over them.
    blocks : mapping of str to mapping of str to sequence of str, optional
        Dims that consist of several axes. With ``{"w": {"embed": ("head", "head_dim")}}``, parts
        may name the axes ``head`` and ``head_dim`` of ``w``, whose dim ``embed`` has the columns
        of all heads side by side.

    Raises
    ------
    ValueError
        If there are no parts, or a part is not one of these.

    See Also
    --------
    gptbayes.align : Aligned draws of a fit.
    read_group : A group from a file.

    Examples
    --------
    A mixture, and a factor model whose prior keeps only signed permutations of the factors:

    >>> mixture = Group(Permutation({"mu": "component", "theta": "component"}))
    >>> axes = {"loadings": "factor", "scores": "factor"}
    >>> factors = Group(Permutation(axes), SignFlip(axes))
    >>> factors.variables
    ('loadings', 'scores')
    """

    parts: tuple[Part, ...]
    blocks: Mapping[str, Mapping[str, tuple[str, ...]]]

    def __init__(
        self,
        *parts: Part,
        blocks: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    ) -> None:
        if not parts:
            raise ValueError("a group must have at least one part, got none")
        for part in parts:
            if not isinstance(part, Part):
                kinds = ", ".join(kind.__name__ for kind in KINDS.values())
                raise ValueError(f"parts of a group must be {kinds}, got {type(part).__name__}")
        split = {v: {d: tuple(into) for d, into in b.items()} for v, b in (blocks or {}).items()}
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "blocks", split)

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables on which any part acts, in the order of the parts."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.axes))


def paths_of(part: Part) -> Paths:
    """The dims of every path of a part.

    Parameters
    ----------
    part : Permutation, SignFlip or Orthogonal

    Returns
    -------
    dict of str to tuple of tuple of str
    """
    found = {}
    for name, axes in part.axes.items():
        each = (axes,) if isinstance(axes, str) else tuple(axes)
        found[name] = tuple(tuple(path.split("/")) if path else () for path in each)
    return found


def read_group(path: str | Path) -> Group:
    """Read a group from a TOML or JSON file.

    Parameters
    ----------
    path : path
        With one table or a list of tables ``permutation``, ``sign_flip`` and ``orthogonal``, which
        have the axis of each variable, and a table ``blocks`` as in `Group`. A permutation may
        instead have a table ``axes`` and a list ``labels``.

    Returns
    -------
    Group

    Raises
    ------
    ValueError
        If the file is not TOML or JSON, or has other tables.
    OSError
        If it cannot be read.

    Notes
    -----
    A mixture and a factor model::

        [permutation]
        mu = "component"
        theta = "component"

        [[orthogonal]]
        loadings = "factor"
        scores = "factor"
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            found = json.loads(text, object_pairs_hook=dict)
        else:
            found = tomllib.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is not a TOML or JSON file of a group: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold tables, got {type(found).__name__}")
    blocks = found.pop("blocks", None)
    parts = []
    for kind, tables in found.items():
        if kind not in KINDS:
            raise ValueError(
                f"{path}: unknown part {kind!r}, valid parts: {', '.join(KINDS)}, and blocks"
            )
        for table in tables if isinstance(tables, list) else [tables]:
            parts.append(_part_of_table(path, kind, table))
    try:
        return Group(*parts, blocks=blocks)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _part_of_table(path, kind, table):
    if not isinstance(table, dict):
        raise ValueError(f"{path}: {kind} must be a table of variables, got {table!r}")
    options = {}
    if isinstance(table.get("axes"), dict):
        options = {key: value for key, value in table.items() if key != "axes"}
        table = table["axes"]
    try:
        return KINDS[kind](table, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _complete(part):
    """Check the axes of a part, and name it after them."""
    if not part.axes:
        raise ValueError(f"a {part.kind} must name at least one variable, got none")
    for name, axes in part.axes.items():
        each = (axes,) if isinstance(axes, str) else axes
        if not (isinstance(each, Sequence) and each and all(isinstance(a, str) for a in each)):
            raise ValueError(
                f"the axis of {name} must be the name of a dim or a path of dims, got {axes!r}"
            )
        for path in each:
            dims = path.split("/")
            whole = part.kind == "sign flip" and not path
            if not whole and not (all(dims) and len(set(dims)) == len(dims)):
                raise ValueError(f"the axis of {name} must be a path of dims, got {path!r}")
    if not part.name:
        dims = dict.fromkeys(path[-1] for each in paths_of(part).values() for path in each if path)
        along = f" along {', '.join(dims)}" if dims else ""
        object.__setattr__(part, "name", f"{part.kind} of {', '.join(part.axes)}{along}")
