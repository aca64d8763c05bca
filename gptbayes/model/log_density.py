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
from gptbayes.model.forward import Parameters, token_log_prob
from gptbayes.model.problem import Design, Problem, stan_data
from gptbayes.model.simulate import log_prior
from gptbayes.model.stages import Stage

_NUMBERS = ctypes.POINTER(ctypes.c_double)
_INTS = ctypes.POINTER(ctypes.c_int)


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
    stage, design = problem.stage, problem.design
    likelihood = kernel_likelihood(problem, library)
    weights = np.full(problem.training.x.shape, problem.likelihood_weight)

    def evaluate(points):
        parameters = unravel(stage, design, points)
        values = log_prior(problem, parameters)
        gradients = ravel(stage, _prior_gradient(problem, parameters))
        stan = stage.to_stan(parameters, design)
        for i in range(len(points)):
            found = likelihood({name: value[i] for name, value in stan.items()}, weights)
            assert found.gradient is not None
            values[i] += (weights * found.log_lik).sum()
            gradients[i] += ravel(stage, stage.from_stan(found.gradient, design))
        return values, gradients

    return evaluate


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
    """The inverse of `ravel`: each ``(*batch, dims of that parameter)``."""
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
            raise MemoryError("the kernels found no memory for one evaluation of the likelihood")
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


def _prior_gradient(problem, parameters):
    gradient = {}
    for p in problem.stage.parameters:
        value = parameters[p.name]
        if p.prior == "log_gamma":
            gradient[p.name] = problem.priors.concentration - np.exp(value)
        else:
            gradient[p.name] = (p.prior_mean - value) / problem.priors.scale(p) ** 2
    return gradient


def _pointers(arrays):
    addresses: list[Any] = [None if a is None else a.ctypes.data_as(_NUMBERS) for a in arrays]
    return (_NUMBERS * len(arrays))(*addresses)
