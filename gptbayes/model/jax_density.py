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
from gptbayes.model.log_density import kernel_data, prior_moments
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
    Value and gradient at a point::

        jax.config.update("jax_enable_x64", True)
        log_posterior = jax_log_posterior(problem)
        value, gradient = jax.jit(jax.value_and_grad(log_posterior))(point)

    HMC of BlackJAX with trajectories of random lengths, from the last draw of a run of NUTS, with
    its step size and the prior variances as inverse metric (`gptbayes.open_run`; the others are
    functions of `gptbayes.model.log_density`)::

        last = open_run(folder).isel(chain=0, draw=-1)
        position = {p.name: last.posterior[p.name].values for p in problem.stage.parameters}
        step_size = float(last.sample_stats["step_size"])
        longest = round(np.pi / step_size)
        hmc = blackjax.dynamic_hmc(
            log_posterior,
            step_size,
            1 / prior_moments(problem)[1],
            integration_steps_fn=lambda key: jax.random.randint(key, (), 1, longest + 1),
        )

        def draw(state, key):
            state, _ = hmc.step(key, state)
            return state, state.position

        state = hmc.init(ravel(problem.stage, position), jax.random.key(1))
        _, points = jax.lax.scan(draw, state, jax.random.split(jax.random.key(2), 1000))
        draws = unravel(problem.stage, problem.design, np.asarray(points))
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
    given = kernel_data(problem)
    masks = [mask for mask in given.masks if mask is not None]
    first = _first_weights(given)  # weights of an argument share a prior
    data = (given.x, given.y, np.concatenate(masks) if masks else np.zeros(1))
    attributes = {
        "sizes": np.array([getattr(given.sizes, n) for n, *_ in given.sizes._fields_], np.int64),
        "lengths": np.array(given.lengths, np.int64),
        "means": np.where(first < 0, 0.0, mean[first]),
        "precisions": np.where(first < 0, -1.0, precision[first]),
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
        return call(point, len(mean))

    def backward(gradient, cotangent):
        return (cotangent * gradient,)

    log_posterior.defvjp(forward, backward)
    return log_posterior


def _first_weights(given):
    """The index of the first weight of each argument; -1 for a mask, which has none."""
    found, end = [], 0
    for length, mask in zip(given.lengths, given.masks, strict=True):
        found.append(end if mask is None else -1)
        end += length if mask is None else 0
    return np.array(found)


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
