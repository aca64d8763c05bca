"""The log posterior of a stage as a function of JAX, computed by the C++ kernels.

Samplers that are written for JAX run on it: `jax.jit`, `jax.grad`, `jax.value_and_grad` and
`jax.vmap` work. The extra ``jax`` installs what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptbayes.model import kernel_sources
from gptbayes.model.log_density import kernel_order, prior_moments
from gptbayes.model.problem import Problem
from gptbayes.model.stages import stan_folder
from gptbayes.toolchain import build_extension

if TYPE_CHECKING:
    import jax

TARGET = "gptbayes_log_posterior"


def jax_log_posterior(problem: Problem) -> Callable[[jax.Array], jax.Array]:
    """Make the log posterior of a problem as a function of JAX.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    callable
        Takes weights ``(weight,)`` in float64, as `gptbayes.model.log_density.ravel` orders them;
        returns the log posterior in nats, up to a constant. It has first derivatives; `jax.vmap`
        evaluates points one after the other in one call.

    Raises
    ------
    ImportError
        Without JAX; the message names the extra.
    ValueError
        If JAX does not compute with 64 bits, or the prior is not normal.
    ToolchainError
        If there is no compiler for the kernels.

    Examples
    --------
    ::

        jax.config.update("jax_enable_x64", True)
        log_posterior = jax_log_posterior(problem)
        value, gradient = jax.jit(jax.value_and_grad(log_posterior))(point)
    """
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        raise ImportError("JAX is not installed: pip install 'gptbayes[jax]'") from None
    if not jax.config.read("jax_enable_x64"):
        raise ValueError('JAX must compute with 64 bits: jax.config.update("jax_enable_x64", True)')
    mean, precision = prior_moments(problem)
    if mean is None or precision is None:
        raise ValueError(f"stage {problem.stage.number} has no normal prior")
    _register(jax)
    order = kernel_order(problem)
    masks = [mask for mask in order.masks if mask is not None]
    places = np.array(_places(order), np.int64)
    first = np.where(places[:, 1] > 0, places[:, 0], 0)  # weights of an argument share a prior
    data = (order.x, order.y, np.concatenate(masks) if masks else np.zeros(1))
    attributes = {
        "sizes": np.array([getattr(order.sizes, n) for n, *_ in order.sizes._fields_], np.int64),
        "places": places.ravel(),
        "priors": np.array([[mean[k], precision[k]] for k in first]).ravel(),
        "weight": np.float64(problem.likelihood_weight),
    }

    def call(point, n_slopes):
        shapes = (
            jax.ShapeDtypeStruct((), np.float64),
            jax.ShapeDtypeStruct((n_slopes,), np.float64),
        )
        function = jax.ffi.ffi_call(TARGET, shapes, vmap_method="expand_dims")
        return function(point, *(jnp.asarray(each) for each in data), **attributes)

    @jax.custom_vjp
    def log_posterior(point):
        return call(point, 0)[0]

    def forward(point):
        return call(point, len(order.weight_index))

    def backward(gradient, cotangent):
        return (cotangent * gradient,)

    log_posterior.defvjp(forward, backward)
    return log_posterior


def _places(order):
    """Where each argument is in a point: its start, and number, rows and columns of its matrices.

    The kernels have matrices by columns, a point has them by rows. A mask, which is in no point,
    has its length and three zeros.
    """
    found, end = [], 0
    for length, mask in zip(order.lengths, order.masks, strict=True):
        if mask is not None:
            found.append((length, 0, 0, 0))
            continue
        index = order.weight_index[end : end + length]
        end += length
        steps = np.diff(index)
        if (steps == 1).all():
            found.append((index[0], 1, 1, length))
            continue
        columns = steps[0]
        rows = 1 + int((steps != columns).argmax())  # a column ends where the step is another one
        matrices = index[0] + np.arange(length).reshape(-1, rows, columns)
        if not np.array_equal(matrices.swapaxes(1, 2).ravel(), index):
            raise RuntimeError("an argument of the kernels is not a stack of matrices by columns")
        found.append((index[0], len(matrices), rows, columns))
    return found


def _register(jax) -> Path:
    """Compile the handler, once, and make it known to JAX, once for a process."""
    import ctypes

    source = stan_folder() / "jax" / "log_posterior.cpp"
    path = build_extension(source, kernel_sources.build(), jax.ffi.include_dir())
    if path not in _REGISTERED:
        symbol = ctypes.CDLL(str(path)).gptbayes_log_posterior_ffi
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(symbol), platform="cpu")
        _REGISTERED.append(path)
    return path


_REGISTERED: list[Path] = []
