"""R-hat and ESS of many scalars at once, beside ArviZ's on a sample of them in the same run.

python tests/performance/diagnostics.py --scalars 200000
"""

from __future__ import annotations

import argparse
import time

import arviz as az
import numpy as np

from gptbayes.stats import mcmc

NAMES = ("r_hat", "ess_bulk", "ess_tail", "ess_mean")
BATCH = 20_000


def by_arviz(draws: np.ndarray) -> np.ndarray:
    """The four diagnostics, ArviZ's functions on an array of a few scalars."""
    data = az.convert_to_dataset(draws)
    found = [az.rhat(data), *(az.ess(data, method=name) for name in ("bulk", "tail", "mean"))]
    return np.stack([each["x"].values for each in found])


def ours(draws: np.ndarray) -> np.ndarray:
    """The same four."""
    return np.stack(list(mcmc.statistics(draws, NAMES).values()))


def timed(function, draws):
    """Result, seconds, and seconds of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function(draws)
    return found, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print seconds per 1000 scalars and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scalars", type=int, default=200_000)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--draws", type=int, default=500)
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    wall = cpu = 0.0
    theirs, worst = np.zeros(2), 0.0
    batches = range(0, settings.scalars, BATCH)
    for start in batches:
        n = min(BATCH, settings.scalars - start)
        draws = rng.normal(size=(settings.chains, settings.draws, n)).cumsum(axis=1)
        draws[:, 10:] -= 0.9 * draws[:, :-10]
        found, *spent = timed(ours, draws)
        wall, cpu = wall + spent[0], cpu + spent[1]
        some = rng.choice(n, max(1, settings.sample // len(batches)), replace=False)
        expected, *spent = timed(by_arviz, draws[..., some])
        theirs += np.array(spent) / len(some) / len(batches)
        worst = max(worst, float(abs(found[:, some] / expected - 1).max()))
    print(f"{settings.scalars} scalars of {settings.chains} x {settings.draws} draws: {wall:.1f} s")
    for name, each, arviz in (("wall", wall, theirs[0]), ("processor", cpu, theirs[1])):
        each /= settings.scalars
        print(
            f"{name}: {1e6 * each:.0f} µs per scalar, ArviZ {1e6 * arviz:.0f} µs, "
            f"ratio {arviz / each:.1f}"
        )
    print(f"largest relative difference {worst:.1e}")


if __name__ == "__main__":
    main()
