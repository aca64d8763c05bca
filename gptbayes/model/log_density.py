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
    given = kernel_data(problem)
    prior = _log_prior_in_place(problem)
    weights = np.full(given.x.shape, problem.likelihood_weight)
    log_lik = np.empty(given.x.shape)
    point, slope = np.empty((2, problem.stage.n_parameters(problem.design)))
    function = ctypes.CDLL(str(library)).gptbayes_log_likelihood
    # Made once: for small problems they take as long as the kernels.
    arguments = (
        ctypes.byref(given.sizes),
        *(each.ctypes.data_as(_INTS) for each in (given.x, given.y)),
        _addresses(given, point, True),
        *(each.ctypes.data_as(_NUMBERS) for each in (weights, log_lik)),
        _addresses(given, slope, False),
    )

    def evaluate(points, _masks=given.masks):  # the kernels read them: they must not be freed
        points = np.asarray(points, dtype=float)
        if points.shape[-1] != point.size:
            raise ValueError(f"points must have {point.size} weights, got {points.shape[-1]}")
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        for i, each in enumerate(points):
            point[:] = each
            values[i] = prior(point, slope)
            if function(*arguments) != 0:  # adds to the slope
                raise MemoryError(NO_MEMORY)
            values[i] += problem.likelihood_weight * log_lik.sum()
            gradients[i] = slope
        return values, gradients

    return evaluate


class KernelData(NamedTuple):
    """The data of a problem as the kernels read them, with matrices by rows.

    Attributes
    ----------
    lengths : tuple of int
        Number of elements of every argument of the stage. Those of parameters, one after the
        other, are the weights as `ravel` orders them.
    masks : tuple of ndarray or None
        The values of arguments that are masks.
    x, y : ndarray of int32, (sequence, position)
        From 0.
    sizes : ctypes.Structure
        ``gptbayes_sizes`` of ``gpt.h``.
    """

    lengths: tuple[int, ...]
    masks: tuple[np.ndarray | None, ...]
    x: np.ndarray
    y: np.ndarray
    sizes: ctypes.Structure


def kernel_data(problem: Problem, length: int | None = None) -> KernelData:
    """The data of a problem for the kernels.

    Parameters
    ----------
    problem : Problem
    length : int, optional
        Of the sequences: their first positions only.

    Returns
    -------
    KernelData
    """
    data, stage, design = stan_data(problem), problem.stage, problem.design
    shapes = {p.name: stage.shape(p, design) for p in stage.parameters}
    masks = [
        np.ravel(np.asarray(data[a.name], dtype=float)) if a.kind == "mask" else None
        for a in stage.arguments
    ]
    lengths = [
        int(np.prod(shapes[a.name])) if mask is None else mask.size
        for a, mask in zip(stage.arguments, masks, strict=True)
    ]
    x, y = (np.array(data[name], dtype=np.int32)[:, :length] - 1 for name in ("x", "y"))
    return KernelData(tuple(lengths), tuple(masks), x, y, _sizes(problem, x.shape))


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
    arguments = problem.stage.arguments
    given = kernel_data(problem, length)
    x, y = given.x, given.y
    function = ctypes.CDLL(str(library)).gptbayes_log_likelihood

    def evaluate(
        parameters: Mapping[str, np.ndarray],
        weights: np.ndarray | None = None,
        with_gradient: bool = True,
    ) -> LogLikelihood:
        values = [
            np.ascontiguousarray(parameters[a.name], dtype=float) if mask is None else mask
            for a, mask in zip(arguments, given.masks, strict=True)
        ]
        gradients = {
            a.name: np.zeros_like(value)
            for a, value in zip(arguments, values, strict=True)
            if a.kind == "parameter"
        }
        weights = np.ones(x.shape) if weights is None else np.ascontiguousarray(weights)
        log_lik = np.empty(x.shape)
        status = function(
            ctypes.byref(given.sizes),
            x.ctypes.data_as(_INTS),
            y.ctypes.data_as(_INTS),
            _pointers(values),
            weights.ctypes.data_as(_NUMBERS),
            log_lik.ctypes.data_as(_NUMBERS),
            _pointers([gradients.get(a.name) for a in arguments]) if with_gradient else None,
        )
        if status != 0:
            raise MemoryError(NO_MEMORY)
        return LogLikelihood(log_lik, gradients if with_gradient else None)

    return evaluate


class _Sizes(ctypes.Structure):
    """`gptbayes_sizes` of gpt.h."""

    _fields_ = [(name, ctypes.c_int) for name in "stage V block_size C H L B T by_rows".split()]


def _sizes(problem, shape):
    sizes = problem.stage.sizes(problem.design)
    names = ("token", "position", "embed", "head", "layer")
    return _Sizes(int(problem.stage.number[:2]), *(sizes[name] for name in names), *shape, 1)


def _addresses(given, row, with_masks):
    """A pointer for each argument of the kernels, those of parameters into a row of numbers."""
    start, found = row.ctypes.data, []
    for length, mask in zip(given.lengths, given.masks, strict=True):
        if mask is None:
            found.append(start)
            start += row.itemsize * length
        else:
            found.append(mask.ctypes.data if with_masks else None)
    return (ctypes.c_void_p * len(found))(*found)


def _log_prior_in_place(problem):
    """The log prior of a point, with its gradient written to a buffer."""
    mean, precision = prior_moments(problem)
    if mean is None or precision is None:  # log-gamma variables, all with the same parameter
        concentration = problem.priors.concentration

        def log_gamma(point, slope):
            np.exp(point, out=slope)
            value = concentration * point.sum() - slope.sum()
            np.subtract(concentration, slope, out=slope)
            return value

        return log_gamma
    apart = np.empty(mean.size)

    def normal(point, slope):
        np.subtract(mean, point, out=apart)
        np.multiply(apart, precision, out=slope)
        return -0.5 * (apart @ slope)

    return normal


def _pointers(arrays):
    addresses: list[Any] = [None if a is None else a.ctypes.data_as(_NUMBERS) for a in arrays]
    return (_NUMBERS * len(arrays))(*addresses)
