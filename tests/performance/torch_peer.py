"""The gradient in PyTorch, eager and compiled."""

from __future__ import annotations

import numpy as np
import torch
import torch_gpt
from densities import Density
from jax_gpt import MASKS, SCALE_OF
from measure import Peer, processor_seconds

from gptbayes.model.stan_data import stan_data

torch.set_num_threads(1)


def peers(problem, parameters) -> list[Peer]:
    """Eager."""
    return [_peer("PyTorch, eager", *_density_of(problem, parameters))]


def compiled_peer(problem, parameters) -> Peer:
    """What `torch.compile` makes of it, in a quarter of a minute."""
    torch._dynamo.reset()
    function, leaves = _density_of(problem, parameters)
    return _peer("PyTorch, compiled", torch.compile(function), leaves)


def _density_of(problem, parameters):
    number, data = int(problem.stage.number[:2]), stan_data(problem)
    x, y = (torch.tensor(data[name]) - 1 for name in ("x", "y"))
    masks = [torch.tensor(data[name], dtype=torch.double) for name in MASKS if name in data]
    leaves = {
        name: torch.tensor(value, dtype=torch.double, requires_grad=True)
        for name, value in parameters.items()
    }
    scales = {name: data[SCALE_OF[name]] for name in leaves}
    weight = data["likelihood_weight"]
    return lambda p: torch_gpt.log_density(number, p, x, y, masks, scales, weight), leaves


def _peer(name, function, leaves):
    wanted = list(leaves.values())

    def gradient():
        value = function(leaves)
        return value, torch.autograd.grad(value, wanted)

    def checked():
        value, slopes = gradient()
        named = zip(leaves, slopes, strict=True)
        return Density(value.item(), {name: np.asarray(slope) for name, slope in named})

    def seconds(n):
        def gradients():
            for _ in range(n):
                gradient()

        return processor_seconds(gradients) / n

    return Peer(name, checked, seconds)
