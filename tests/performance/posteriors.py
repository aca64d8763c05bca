"""The log posterior as a function of JAX: by our kernels, and by JAX itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from samplers import point

from gptbayes.model.jax_density import jax_log_posterior
from gptbayes.model.log_density import ravel, unravel
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
    """

    name: str
    log_density: Callable
    point: Callable
    stan_shapes: Callable


def posteriors(problem) -> list[Posterior]:
    """Both; raises an `ImportError` without JAX."""
    import jax_gpt  # noqa: F401 - first: it sets the precision

    return [_kernels(problem), _jax(problem)]


def _kernels(problem):
    """Our kernels, of a vector."""
    stage, design = problem.stage, problem.design
    return Posterior(
        "our kernels",
        jax_log_posterior(problem),
        lambda seed: ravel(stage, stage.from_stan(point(problem, seed), design)),
        lambda draws: stage.to_stan(unravel(stage, design, np.asarray(draws)), design),
    )


def _jax(problem):
    """JAX's own density, of a dict of arrays with Stan's shapes."""
    import jax_gpt

    number, data = int(problem.stage.number[:2]), stan_data(problem)
    return Posterior(
        "JAX",
        lambda p: jax_gpt.log_density(number, p, data),
        lambda seed: point(problem, seed),
        lambda draws: {name: np.asarray(values) for name, values in draws.items()},
    )
