"""Statistics of HMC that Stan's CSV files do not have as columns, as NUTS has them.

Stan's HMC takes as many steps in each trajectory as steps of the nominal size fit into the wanted
length. It reports the step size of each trajectory, which is random, and no divergences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

JITTER = 0.2
"""Step sizes, and with them lengths, are uniform within a fifth of the nominal ones."""


def nominal_step_size(path: Path) -> float:
    """The mean step size of a chain: the one that it was given.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    float
        In the digits of the CSV file.

    Raises
    ------
    ValueError
        If the file has none.
    """
    found = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("#"):
                break
            if said := re.match(r"#\s+stepsize = ([\d.e+-]+)", line):
                found = float(said[1])
    if not found or not np.isfinite(found):
        raise ValueError(f"{path} has no step size")
    return found


def n_leapfrog(step_size: float, trajectory_length: float) -> int:
    """Leapfrog steps of each trajectory, as Stan computes them.

    Parameters
    ----------
    step_size : float
        The nominal one.
    trajectory_length : float
        In prior standard deviations.

    Returns
    -------
    int
    """
    return max(1, int(trajectory_length / step_size))


def hmc_statistics(
    path: Path, statistics: Mapping[str, np.ndarray], trajectory_length: float
) -> dict[str, np.ndarray]:
    """Columns that NUTS has: how many steps each trajectory took, and whether it diverged.

    Parameters
    ----------
    path : pathlib.Path
        The CSV file.
    statistics : mapping of str to ndarray
        Its columns of the algorithm.
    trajectory_length : float
        As for `gptbayes.fit.hmc`.

    Returns
    -------
    dict of str to ndarray
        ``n_leapfrog`` and ``divergent``, each ``(draw,)``. Divergent are trajectories whose
        acceptance probability is 0 in double precision, because the energy error is above 745 nats
        or not finite; NUTS calls those above 1,000 divergent.
    """
    accepted = statistics["accept_stat"]
    steps = n_leapfrog(nominal_step_size(path), trajectory_length)
    return {"n_leapfrog": np.full(accepted.shape, float(steps)), "divergent": accepted == 0.0}
