"""Alignment of many draws of one network, each at a random point of its orbit, with some noise.

    python tests/performance/alignment.py --noise 0.4
    python tests/performance/alignment.py --run runs/demo/05-nuts

Of a run: what a tolerance buys, in R-hat and ESS of the aligned weights.
"""

from __future__ import annotations

import argparse
import time

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from measure import machine
from posed import Size, posed

from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.simulate import prior_draws
from gptbayes.stats import mcmc
from gptbayes.symmetry import align
from gptbayes.symmetry.elements import random_element, transform
from gptbayes.symmetry.group.axes import sizes_of
from gptbayes.symmetry.group.compact import stage_layout

TOLERANCES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


def main() -> None:
    """Print seconds, iterations and the objective, which depends on the seed alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="12")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--noise", type=float, default=0.4, help="in prior standard deviations")
    parser.add_argument("--run", help="a fit whose draws are aligned instead")
    settings = parser.parse_args()
    print(machine())
    if settings.run:
        of_a_run(settings.run)
    else:
        of_one_network(settings)


def of_one_network(settings: argparse.Namespace) -> None:
    """Draws around one network."""
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
        f"{settings.draws} draws of {stage.n_parameters(problem.design):,} weights: "
        f"{cpu:.1f} s of processor time, {wall:.1f} s, {len(found.objective) - 1} iterations\n"
        f"mean distance to the reference {found.objective[-1]:.6f}, "
        f"of the draws before they were moved {unmoved.objective[-1]:.6f}"
    )


def of_a_run(folder: str) -> None:
    """Draws of a fit, by several tolerances."""
    idata = open_run(folder)
    stage, parameters = problem_of(idata).stage, parameters_of(idata)
    first = None
    for tolerance in TOLERANCES:
        before = time.process_time()
        found = align(stage, parameters, tolerance=tolerance)
        seconds = time.process_time() - before
        weights = [v.reshape(*v.shape[:2], -1) for v in found.parameters.values()]
        told = mcmc.statistics(np.concatenate(weights, axis=-1), ["r_hat", "ess_bulk"])
        r_hat, ess = told["r_hat"], told["ess_bulk"]
        first = r_hat if first is None else first
        print(
            f"tolerance {tolerance:.0e}: {seconds:5.1f} s, {len(found.objective) - 1:2} passes, "
            f"distance {found.objective[-1]:.4f}; R-hat: largest {r_hat.max():.4f}, "
            f"95 % {np.quantile(r_hat, 0.95):.4f}, median {np.median(r_hat):.4f}, "
            f"largest change {abs(r_hat - first).max():.4f}; "
            f"ESS: smallest {ess.min():.0f}, median {np.median(ess):.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
