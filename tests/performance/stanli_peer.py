"""stanli: an interpreter of Stan programs, on ours with whole matrices.

Import this before JAX or PyTorch: its compiler must set up its signal stack before they make the
processor's state larger.
"""

from __future__ import annotations

import numpy as np
import stanli
from densities import Density
from measure import Peer, processor_seconds

from gptbayes.model.stages import stan_folder
from gptbayes.model.stan_data import stan_data

stanli.stan_to_mir("parameters { real x; } model { x ~ std_normal(); }")


def model(problem) -> stanli.Model:
    """Of the stage's program and the problem's data."""
    return stanli.Model(
        stan_file=str(problem.stage.program),
        data=stan_data(problem),
        include_paths=[str(stan_folder() / "functions")],
    )


def flat(problem, parameters) -> np.ndarray:
    """One draw as the vector that Stan's samplers see: matrices by columns."""
    parts = [_by_columns(p, parameters[p.name]).ravel() for p in problem.stage.parameters]
    return np.concatenate(parts)


def split(problem, vectors) -> dict[str, np.ndarray]:
    """The inverse of `flat`, for vectors with any leading dims."""
    found, start = {}, 0
    for p in problem.stage.parameters:
        shape = problem.stage.stan_shape(p, problem.design)
        if p.item == "matrix":
            shape = (*shape[:-2], shape[-1], shape[-2])
        end = start + int(np.prod(shape))
        value = vectors[..., start:end].reshape(*vectors.shape[:-1], *shape)
        found[p.name] = _by_columns(p, value)
        start = end
    return found


def peers(problem, parameters) -> list[Peer]:
    """One."""
    interpreted, point = model(problem), flat(problem, parameters)

    def density():
        value, slope = interpreted.log_prob_grad(point)
        return Density(value, split(problem, slope))

    def seconds(n):
        def gradients():
            for _ in range(n):
                interpreted.log_prob_grad(point)

        return processor_seconds(gradients) / n

    return [Peer("stanli", density, seconds)]


def _by_columns(parameter, value):
    return np.swapaxes(value, -1, -2) if parameter.item == "matrix" else value
