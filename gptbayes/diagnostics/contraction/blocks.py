"""Blocks of weights, and what every kind of contraction needs of them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gptbayes.model.problem import Problem


def parameter_blocks(problem: Problem) -> tuple[list[np.ndarray], dict]:
    """The blocks of a model: each parameter, layer by layer.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    where : list of ndarray of int, (weight,)
        Indices of the weights of each block in the order of `gptbayes.model.log_density.ravel`.
    coords : dict
        Coords ``block``, ``parameter`` and ``block_layer`` (-1 for none) of dim ``block``.
    """
    stage, design, start = problem.stage, problem.design, 0
    where, labels, names, layers = [], [], [], []
    for p in stage.parameters:
        shape = stage.shape(p, design)
        layered = p.dims[0] == "layer"
        many = layered and "blocks" in stage.features
        for layer in range(shape[0] if layered else 1):
            n = int(np.prod(shape[1:] if layered else shape))
            where.append(np.arange(start, start + n))
            labels.append(f"{p.name}, layer {layer + 1}" if many else p.name)
            names.append(p.name)
            layers.append(layer if layered else -1)
            start += n
    coords = {"block": labels, "parameter": ("block", names), "block_layer": ("block", layers)}
    return where, coords


def has_normal_prior(problem: Problem) -> bool:
    """Whether every parameter of the stage has a normal prior.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    bool
    """
    return all(p.prior == "normal" for p in problem.stage.parameters)


def zero_if_constant(mcse: xr.DataArray) -> xr.DataArray:
    """Monte Carlo errors with 0 for quantities that are the same in every draw."""
    return mcse.fillna(0.0)
