"""The log posterior of any point of weight space and its gradient, without a run of Stan.

Values come from numpy, many points at a time; gradients from the shared library of the C++ kernels
(``stan/kernels/gpt.h``) and the derivative of the prior. Both equal what the Stan programs say.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptbayes.model import kernel_sources
from gptbayes.model.design import Design
from gptbayes.model.forward import Parameters, token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import log_prior
from gptbayes.model.stages import Stage
from gptbayes.model.stan_data import stan_data

_NUMBERS = ctypes.POINTER(ctypes.c_double)
_INTS = ctypes.POINTER(ctypes.c_int)

NO_MEMORY = "the kernels found no memory for one evaluation of the likelihood"


class LogLikelihood(NamedTuple):
    """What the kernels say of one draw.

    Attributes
    ----------
    log_lik : ndarray, (sequence, position)
        In nats.
    gradient : dict of str to ndarray, or None
        Of the weighted sum of ``log_lik``, each with the shape it has in the Stan program.
    """

    log_lik: np.ndarray
    gradient: dict[str, np.ndarray] | None


def log_posterior(problem: Problem, parameters: Parameters) -> np.ndarray:
    """Log posterior density of draws, up to the constants that Stan's `~` leaves out.

    Parameters
    ----------
    problem : Problem
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Returns
    -------
    ndarray, (*batch)
        In nats.
    """
    log_lik = token_log_prob(problem.stage, parameters, problem.training).sum(axis=(-2, -1))
    return problem.likelihood_weight * log_lik + log_prior(problem, parameters)


def log_posterior_gradient(
    problem: Problem, library: Path | None = None
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function that gives the log posterior and its gradient at points of weight space.

    Parameters
    ----------
    problem : Problem
    library : path, optional
        The kernels' shared library; compiled, once for a machine, if it is not given.

    Returns
    -------
    callable
        Takes points ``(point, weight)``, as `ravel` orders weights; returns values ``(point,)``
        in nats, up to the constants of `log_posterior`, and gradients ``(point, weight)``.

    Raises
    ------
    ToolchainError
        If there is no compiler for the kernels.
    """
    library = kernel_sources.build().library if library is None else library
    order = kernel_order(problem)
    prior = _log_prior_in_place(problem, order.weight_index)
    weights = np.full(order.x.shape, problem.likelihood_weight)
    log_lik = np.empty(order.x.shape)
    point, slope = np.empty((2, len(order.weight_index)))
    place = np.argsort(order.weight_index)
    function = ctypes.CDLL(str(library)).gptbayes_log_likelihood
    # Made once: for small problems they take as long as the kernels.
    arguments = (
        ctypes.byref(order.sizes),
        *(each.ctypes.data_as(_INTS) for each in (order.x, order.y)),
        _addresses(order, point, True),
        *(each.ctypes.data_as(_NUMBERS) for each in (weights, log_lik)),
        _addresses(order, slope, False),
    )

    def evaluate(points):
        points = np.asarray(points, dtype=float)
        if points.shape[-1] != point.size:
            raise ValueError(f"points must have {point.size} weights, got {points.shape[-1]}")
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        for i, each in enumerate(points):
            each.take(order.weight_index, out=point, mode="clip")
            values[i] = prior(point, slope)
            if function(*arguments) != 0:  # adds to the slope
                raise MemoryError(NO_MEMORY)
            values[i] += problem.likelihood_weight * log_lik.sum()
            slope.take(place, out=gradients[i], mode="clip")
        return values, gradients

    return evaluate


class KernelOrder(NamedTuple):
    """The data of a problem, and the order of its weights, as the kernels read them.

    Attributes
    ----------
    weight_index : ndarray of int, (weight,)
        The kernels' weight ``k`` is weight ``weight_index[k]`` of `ravel`.
    lengths : tuple of int
        Number of elements of every argument of the stage.
    masks : tuple of ndarray or None
        The values of arguments that are masks.
    x, y : ndarray of int32, (sequence, position)
        From 0.
    sizes : ctypes.Structure
        ``gptbayes_sizes`` of ``gpt.h``.
    """

    weight_index: np.ndarray
    lengths: tuple[int, ...]
    masks: tuple[np.ndarray | None, ...]
    x: np.ndarray
    y: np.ndarray
    sizes: ctypes.Structure


def kernel_order(problem: Problem) -> KernelOrder:
    """The data of a problem in the order of the kernels.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    KernelOrder
    """
    data, stage, design = stan_data(problem), problem.stage, problem.design
    numbers = np.arange(stage.n_parameters(design))
    stan = stage.to_stan(unravel(stage, design, numbers), design)
    flat = [a.flat((data if a.kind == "mask" else stan)[a.name]) for a in stage.arguments]
    index = [v for a, v in zip(stage.arguments, flat, strict=True) if a.kind != "mask"]
    x, y = (np.array(data[name], dtype=np.int32) - 1 for name in ("x", "y"))
    return KernelOrder(
        np.concatenate(index).astype(np.int64),
        tuple(len(v) for v in flat),
        tuple(v if a.kind == "mask" else None for a, v in zip(stage.arguments, flat, strict=True)),
        x,
        y,
        _sizes(problem, x.shape),
    )


def prior_moments(problem: Problem) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Means and inverse variances of the independent normal prior of each weight, as `ravel`.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    mean, precision : ndarray, (weight,), or None
        None for the log-gamma prior.
    """
    stage, design = problem.stage, problem.design
    if any(p.prior == "log_gamma" for p in stage.parameters):
        return None, None
    sizes = [int(np.prod(stage.shape(p, design))) for p in stage.parameters]
    means = [float(p.prior_mean) for p in stage.parameters]
    precisions = [problem.priors.scale(p) ** -2.0 for p in stage.parameters]
    return np.repeat(means, sizes), np.repeat(precisions, sizes)


def ravel(stage: Stage, parameters: Parameters) -> np.ndarray:
    """All weights of each draw in one row, parameter by parameter in the order of the stage.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Returns
    -------
    ndarray, (*batch, weight)
    """
    rows = []
    for p in stage.parameters:
        value = np.asarray(parameters[p.name])
        rows.append(value.reshape(*value.shape[: value.ndim - len(p.dims)], -1))
    return np.concatenate(rows, axis=-1)


def unravel(stage: Stage, design: Design, points: np.ndarray) -> dict[str, np.ndarray]:
    """Convert rows of weights to parameters, the inverse of `ravel`.

    Parameters
    ----------
    stage : Stage
    design : Design
    points : ndarray, (*batch, weight)

    Returns
    -------
    dict of str to ndarray
        Each ``(*batch, dims of that parameter)``.

    Raises
    ------
    ValueError
        If the rows have another number of weights.
    """
    shapes = [stage.shape(p, design) for p in stage.parameters]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    if points.shape[-1] != ends[-1]:
        raise ValueError(f"points must have {ends[-1]} weights, got {points.shape[-1]}")
    parts = np.split(points, ends[:-1], axis=-1)
    return {
        p.name: part.reshape(*points.shape[:-1], *shape)
        for p, part, shape in zip(stage.parameters, parts, shapes, strict=True)
    }


def kernel_likelihood(
    problem: Problem, library: Path, *, length: int | None = None
) -> Callable[..., LogLikelihood]:
    """The kernels' log likelihood as a function; threads may call it at the same time.

    Parameters
    ----------
    problem : Problem
    library : path
        As `gptbayes.model.kernel_sources.build` gives it.
    length : int, optional
        Look at the first positions of all sequences only.

    Returns
    -------
    callable
        ``(parameters, weights=None, with_gradient=True) -> LogLikelihood``: one draw whose arrays
        have the shapes they have in the Stan program, and weights of the tokens ``(sequence,
        position)``, 1 by default.
    """
    data, stage = stan_data(problem), problem.stage
    x, y = (np.array(data[name], dtype=np.int32)[:, :length] - 1 for name in ("x", "y"))
    masks = {a.name: a.flat(data[a.name]) for a in stage.arguments if a.kind == "mask"}
    sizes = _sizes(problem, x.shape)
    function = ctypes.CDLL(str(library)).gptbayes_log_likelihood

    def evaluate(
        parameters: Mapping[str, np.ndarray],
        weights: np.ndarray | None = None,
        with_gradient: bool = True,
    ) -> LogLikelihood:
        values = {
            a.name: masks[a.name] if a.kind == "mask" else a.flat(parameters[a.name])
            for a in stage.arguments
        }
        gradients = {
            name: np.zeros_like(value) for name, value in values.items() if name not in masks
        }
        weights = np.ones(x.shape) if weights is None else np.ascontiguousarray(weights)
        log_lik = np.empty(x.shape)
        status = function(
            ctypes.byref(sizes),
            x.ctypes.data_as(_INTS),
            y.ctypes.data_as(_INTS),
            _pointers(values.values()),
            weights.ctypes.data_as(_NUMBERS),
            log_lik.ctypes.data_as(_NUMBERS),
            _pointers([gradients.get(name) for name in values]) if with_gradient else None,
        )
        if status != 0:
            raise MemoryError(NO_MEMORY)
        if not with_gradient:
            return LogLikelihood(log_lik, None)
        return LogLikelihood(
            log_lik,
            {
                a.name: a.unflat(gradients[a.name], np.shape(parameters[a.name]))
                for a in stage.arguments
                if a.kind == "parameter"
            },
        )

    return evaluate


class _Sizes(ctypes.Structure):
    """`gptbayes_sizes` of gpt.h."""

    _fields_ = [(name, ctypes.c_int) for name in "stage V block_size C H L B T".split()]


def _sizes(problem, shape):
    sizes = problem.stage.sizes(problem.design)
    names = ("token", "position", "embed", "head", "layer")
    return _Sizes(int(problem.stage.number[:2]), *(sizes[name] for name in names), *shape)


def _addresses(order, row, with_masks):
    """A pointer for each argument of the kernels, those of parameters into a row of numbers."""
    start, found = row.ctypes.data, []
    for length, mask in zip(order.lengths, order.masks, strict=True):
        if mask is None:
            found.append(start)
            start += row.itemsize * length
        else:
            found.append(mask.ctypes.data if with_masks else None)
    return (ctypes.c_void_p * len(found))(*found)


def _log_prior_in_place(problem, weight_index):
    """The log prior of a point in the kernels' order, with its gradient written to a buffer."""
    mean, precision = prior_moments(problem)
    if mean is None or precision is None:  # log-gamma variables, all with the same parameter
        concentration = problem.priors.concentration

        def log_gamma(point, slope):
            np.exp(point, out=slope)
            value = concentration * point.sum() - slope.sum()
            np.subtract(concentration, slope, out=slope)
            return value

        return log_gamma
    mean, precision = mean[weight_index], precision[weight_index]
    apart = np.empty(mean.size)

    def normal(point, slope):
        np.subtract(mean, point, out=apart)
        np.multiply(apart, precision, out=slope)
        return -0.5 * (apart @ slope)

    return normal


def _pointers(arrays):
    addresses: list[Any] = [None if a is None else a.ctypes.data_as(_NUMBERS) for a in arrays]
    return (_NUMBERS * len(arrays))(*addresses)
