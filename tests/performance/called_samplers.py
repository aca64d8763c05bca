"""nutpie and oWALNUTS, which are written in Rust and call a gradient that is a Python function.

nutpie adapts a diagonal metric or one of low rank, with the length of warm-up that is its default;
oWALNUTS (Bou-Rabee et al. 2025) halves its steps where the energy's error is large. Their chains
cannot go on: for more draws they are run again, and give the same ones. The seconds of a piece are
what the longer chain takes more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import NamedTuple

import numpy as np
from posteriors import Posterior
from samplers import MAX_DEPTH, TARGET, WARMUP, Piece, Sampler, processor_seconds


class Drawn(NamedTuple):
    """A chain from its beginning: points ``(draw, weight)``, the others ``(draw,)``."""

    points: np.ndarray
    steps: np.ndarray
    diverging: np.ndarray


def kinds() -> dict[str, Callable[[Posterior], Sampler]]:
    """What makes each of them from a density, by name."""
    return {
        "nutpie diagonal": partial(_again, "nutpie", partial(_nutpie, low_rank=False)),
        "nutpie low-rank": partial(_again, "nutpie", partial(_nutpie, low_rank=True)),
        "oWALNUTS": partial(_again, "owalnuts", _owalnuts),
    }


def _nutpie(gradient, position, n, seed, low_rank):
    import nutpie

    model = nutpie.compiled_pyfunc.from_pyfunc(
        ndim=position.size,
        make_logp_fn=lambda: gradient,
        make_expand_fn=lambda *_: lambda q: {"q": q},
        expanded_dtypes=[np.dtype("float64")],
        expanded_shapes=[(position.size,)],
        expanded_names=["q"],
        make_initial_point_fn=lambda _: position,
    )
    drawn = nutpie.sample(
        model,
        draws=n,
        chains=1,
        cores=1,
        seed=seed,
        target_accept=TARGET,
        maxdepth=MAX_DEPTH,
        low_rank_modified_mass_matrix=low_rank,
        save_warmup=False,
        progress_bar=False,
    )
    told = drawn.sample_stats.isel(chain=0)
    return Drawn(drawn.posterior["q"][0].values, told["n_steps"].values, told["diverging"].values)


def _owalnuts(gradient, position, n, seed):
    import owalnuts

    drawn = owalnuts.sample(
        gradient,
        dim=position.size,
        init=position[None],
        chains=1,
        warmup=WARMUP,
        draws=n,
        seed=seed,
    )
    (told,) = drawn.chains
    return Drawn(drawn.samples[0], told["target_evaluations"][-n:], told["divergent"][-n:])


def _again(module, run, target):
    """A sampler of chains that are run from the beginning each time."""
    import_module(module)  # so that no chain waits for it
    before = processor_seconds()
    function = target.called()
    seconds = processor_seconds() - before

    def start(seed):
        done, paid, position = 0, 0.0, target.as_vector(target.point(seed))

        def more(n):
            nonlocal done, paid
            calls = 0

            def gradient(q):
                nonlocal calls
                calls += 1
                return function(q)

            before = processor_seconds()
            drawn = run(gradient, position, done + n, seed)
            draws = target.stan_shapes(target.as_tree(drawn.points[done:]))
            seconds = processor_seconds() - before
            piece = Piece(
                draws,
                float(drawn.steps[done:].sum()),
                0.0 if done else float(calls - drawn.steps.sum()),
                seconds - paid,
                int(drawn.diverging[done:].sum()),
            )
            done, paid = done + n, seconds
            return piece

        return more

    return Sampler("", seconds, 100, start)
