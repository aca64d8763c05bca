"""What a generator of the symmetry group is, and how generators are made from actions.

A generator pairs an action on the parameters with random elements and tangents. Each function
here makes one kind: translations, scalings and sign flips. Those that keep the prior are made from
the compact group in `gptbayes.symmetry.group.compact`; others whose elements are matrices are in
`gptbayes.symmetry.group.stream` and `gptbayes.symmetry.group.heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.dimension import STEP
from gptbayes.symmetry.group.axes import sizes_of
from gptbayes.symmetry.group.masks import Allowed
from gptbayes.symmetry.matrices import LOG_SCALE_SD

Action = Callable[[Stage, Parameters, np.ndarray], dict[str, np.ndarray]]
"""``act(stage, parameters, element)`` gives the transformed parameters."""
Shape = Callable[[Mapping[str, int]], tuple[int, ...]]
"""``shape(sizes)`` gives the shape of an element, without batch dims."""


class Generator(NamedTuple):
    """A family of transformations of the parameters that leave every prediction unchanged.

    Attributes
    ----------
    name : str
    continuous : bool
    keeps_prior : bool
        Whether every element leaves the independent normal prior unchanged too, and with it the
        posterior.
    random : callable
        ``random(stage, design, batch_shape, rng)`` gives random elements, one array
        ``(*batch_shape, ...)``, not near the identity; of the compact group a list of
        `gptbayes.symmetry.elements.Element`.
    act : callable
        ``act(stage, parameters, element)`` gives the transformed parameters; batch dims broadcast.
    tangents : callable
        ``tangents(stage, parameters)`` gives a basis of the directions in which the generator
        moves the parameters: dict of str to ndarray ``(*batch, dimension, dims of the
        parameter)``; empty if the generator is discrete.
    """

    name: str
    continuous: bool
    keeps_prior: bool
    random: Callable
    act: Action
    tangents: Callable


def translations(name: str, act: Action, shape: Shape, allowed: Allowed | None = None) -> Generator:
    """A generator whose elements are added.

    Parameters
    ----------
    name : str
    act : callable
    shape : callable
        Of an element.
    allowed : callable, optional
        Components of an element that the masks leave free; the others are 0. By default all.

    Returns
    -------
    Generator
    """
    allowed = allowed or (lambda stage, sizes: np.ones(shape(sizes), dtype=bool))

    def random(stage, design, batch, rng):
        sizes = stage.sizes(design)
        return rng.normal(size=(*batch, *shape(sizes))) * allowed(stage, sizes)

    def directions(stage, sizes):
        free = allowed(stage, sizes)
        basis = np.eye(free.size)[free.ravel()]
        return np.zeros(free.shape), basis.reshape(-1, *free.shape)

    return Generator(name, True, False, random, act, tangents_of(act, directions))


def scalings(name: str, act: Action, shape: Shape) -> Generator:
    """A generator whose elements are positive factors.

    Parameters
    ----------
    name, act, shape
        As for `translations`.

    Returns
    -------
    Generator
    """

    def random(stage, design, batch, rng):
        return np.exp(LOG_SCALE_SD * rng.normal(size=(*batch, *shape(stage.sizes(design)))))

    def directions(stage, sizes):
        n = int(np.prod(shape(sizes)))
        return np.ones(shape(sizes)), np.eye(n).reshape(n, *shape(sizes))

    return Generator(name, True, False, random, act, tangents_of(act, directions))


def sign_flips(name: str, act: Action, shape: Shape) -> Generator:
    """A generator whose elements are 1 or -1.

    Parameters
    ----------
    name, act, shape
        As for `translations`.

    Returns
    -------
    Generator
    """

    def random(stage, design, batch, rng):
        return rng.choice([-1.0, 1.0], size=(*batch, *shape(stage.sizes(design))))

    return Generator(name, False, False, random, act, _no_tangents)


def without_stage(action: Callable[[Parameters, np.ndarray], dict[str, np.ndarray]]) -> Action:
    """An action that does not depend on the stage, with the signature of one that does.

    Parameters
    ----------
    action : callable
        Takes parameters and an element.

    Returns
    -------
    callable
        Takes a stage, parameters and an element.
    """
    return lambda stage, parameters, element: action(parameters, element)


def tangents_of(
    act: Action, directions: Callable
) -> Callable[[Stage, Parameters], Mapping[str, np.ndarray]]:
    """Derivatives of an action at the identity by complex steps: exact to rounding.

    Parameters
    ----------
    act : callable
    directions : callable
        ``directions(stage, sizes)`` gives the identity element and a basis of the Lie algebra,
        ``(dimension, dims of an element)``.

    Returns
    -------
    callable
        As `Generator.tangents`.
    """

    def tangents(stage, parameters):
        identity, basis = directions(stage, sizes_of(stage, parameters))
        expanded = {
            p.name: np.expand_dims(parameters[p.name], -len(p.dims) - 1) for p in stage.parameters
        }
        moved = act(stage, expanded, identity + 1j * STEP * basis)
        found = {}
        for p in stage.parameters:
            shape, at = list(expanded[p.name].shape), -len(p.dims) - 1
            shape[at] = len(basis)
            found[p.name] = np.broadcast_to(moved[p.name].imag / STEP, shape)
        return found

    return tangents


def _no_tangents(stage, parameters) -> dict[str, np.ndarray]:
    return {}
