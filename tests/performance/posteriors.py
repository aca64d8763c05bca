"""The log posterior as a function of JAX: by our kernels, and by JAX itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from samplers import point

from gptbayes.model.jax_density import jax_log_posterior
from gptbayes.model.log_density import log_posterior_gradient, ravel, unravel
from gptbayes.model.stan_data import stan_data


class Posterior(NamedTuple):
    """A density for samplers that are written for JAX.

    Attributes
    ----------
    name : str
    log_density : callable
        Of a point, in nats.
    point : callable
        From a seed to the point where its chain starts.
    stan_shapes : callable
        From many points to a dict of arrays ``(draw, stan_shape)``.
    called : callable
        Makes a function that is called from Python, from a vector to value and gradient.
    as_vector, as_tree : callable
        Between a point and a vector; ``as_tree`` of many vectors.
    """

    name: str
    log_density: Callable
    point: Callable
    stan_shapes: Callable
    called: Callable
    as_vector: Callable
    as_tree: Callable


def posteriors(problem) -> list[Posterior]:
    """Both; raises an `ImportError` without JAX."""
    import jax_gpt  # noqa: F401 - first: it sets the precision

    return [_kernels(problem), _jax(problem)]


def _kernels(problem):
    """Our kernels, of a vector; called from Python without JAX, which is faster."""
    stage, design = problem.stage, problem.design

    def called():
        gradient = log_posterior_gradient(problem)

        def of_vector(q):
            (value,), (slope,) = gradient(q[None])
            return float(value), slope

        return of_vector

    return Posterior(
        "our kernels",
        jax_log_posterior(problem),
        lambda seed: ravel(stage, stage.from_stan(point(problem, seed), design)),
        lambda draws: stage.to_stan(unravel(stage, design, np.asarray(draws)), design),
        called,
        np.array,
        np.array,
    )


def _jax(problem):
    """JAX's own density, of a dict of arrays with Stan's shapes."""
    import jax
    import jax_gpt
    from jax.flatten_util import ravel_pytree

    number, data = int(problem.stage.number[:2]), stan_data(problem)
    first, as_tree = ravel_pytree(point(problem, 0))

    def log_density(p):
        return jax_gpt.log_density(number, p, data)

    def called():
        of_tree = jax.value_and_grad(lambda q: log_density(as_tree(q)))
        function = jax.jit(of_tree).lower(first).compile()

        def of_vector(q):
            value, slope = function(q)
            return float(value), np.asarray(slope)

        return of_vector

    return Posterior(
        "JAX",
        log_density,
        lambda seed: point(problem, seed),
        lambda draws: {name: np.asarray(values) for name, values in draws.items()},
        called,
        lambda p: np.array(ravel_pytree(p)[0]),
        jax.vmap(as_tree),
    )
