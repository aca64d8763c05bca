"""Symmetries of dropout masks: weights whose output is dropped entirely are free."""

from __future__ import annotations

import numpy as np

from gptbayes.model.stages import Stage
from gptbayes.symmetry.group.families import Generator, translations
from gptbayes.symmetry.group.masks import dropped_elements, output_mask


def droppable_parameters(stage: Stage) -> tuple[str, ...]:
    """The parameters whose output a dropout mask multiplies, in stages 11 and 12.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    tuple of str
    """
    if "dropout" not in stage.features:
        return ()
    feed_forward = ("feed_forward_proj_multiplier", "feed_forward_proj_offset")
    if "projection" in stage.features:
        return (*feed_forward, "sa_proj_multiplier", "sa_proj_offset")
    return (*feed_forward, "value")


def dropout_generators(stage: Stage) -> list[Generator]:
    """The generators of this module that a stage has.

    Parameters
    ----------
    stage : Stage
        With its masks; without them nothing is dropped.

    Returns
    -------
    list of Generator
    """
    if stage.masks is None:
        return []
    names = droppable_parameters(stage)
    return [_shift_dropped(stage, name) for name in names if not np.all(output_mask(stage, name))]


def _shift_dropped(stage, name):
    dims = stage.parameter(name).dims

    def act(stage, parameters, element):
        return {**parameters, name: parameters[name] + element}

    def shape(sizes):
        return tuple(sizes[dim] for dim in dims)

    def allowed(stage, sizes):
        return dropped_elements(stage, name, shape(sizes))

    return translations(f"shift_dropped_{name}", act, shape, allowed)
