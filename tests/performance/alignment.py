"""Alignment of many draws of one network, each at a random point of its orbit, with some noise.

python tests/performance/alignment.py --noise 0.4
"""

from __future__ import annotations

import argparse
import time

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from measure import machine
from posed import Size, posed

from gptbayes.model.simulate import prior_draws
from gptbayes.symmetry import align
from gptbayes.symmetry.elements import random_element, transform
from gptbayes.symmetry.group.axes import sizes_of
from gptbayes.symmetry.group.compact import stage_layout


def main() -> None:
    """Print seconds, iterations and the objective, which depends on the seed alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", default="12")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--noise", type=float, default=0.4, help="in prior standard deviations")
    settings = parser.parse_args()
    problem = posed(settings.stage, Size(V=28, C=8))
    stage, rng = problem.stage, np.random.default_rng(1)
    noise = prior_draws(problem, settings.draws + 1, rng)
    draws = {n: v[0] + settings.noise * (v[1:] - v[1:].mean(axis=0)) for n, v in noise.items()}
    layout = stage_layout(stage, sizes_of(stage, draws))
    moved = transform(layout, draws, random_element(layout, (settings.draws,), rng))
    wall, cpu = time.perf_counter(), time.process_time()
    found = align(stage, moved)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    unmoved = align(stage, draws)
    print(
        f"{machine()}\n{settings.draws} draws of {stage.n_parameters(problem.design):,} weights: "
        f"{cpu:.1f} s of processor time, {wall:.1f} s, {len(found.objective) - 1} iterations\n"
        f"mean distance to the reference {found.objective[-1]:.6f}, "
        f"of the draws before they were moved {unmoved.objective[-1]:.6f}"
    )


if __name__ == "__main__":
    main()
