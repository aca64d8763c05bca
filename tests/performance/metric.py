"""Which metric, which warm-up, which starts? Effective draws per gradient, stage by stage.

    python tests/performance/metric.py [--stages 05 12] [--seeds 3] [--gradients 20000]

Every setting gets the same number of gradients for its four chains after warm-up, not the same
number of draws: trajectories differ by a factor of ten. What counts is what can be identified, the
log probability of every training character and the log posterior; weights sit somewhere on the
orbits of a group. A gradient costs the same with every setting, so that the figures do not depend
on the machine; milliseconds are those of this machine, now. Chains are short, and R-hat stands
beside everything: where it is not near 1 an effective sample size is an upper limit.
"""

import argparse
import re
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from gptbayes import fit
from gptbayes.corpus import read_text, zen_of_python
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES
from gptbayes.stats.summary import ess, r_hat

warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)

CHAINS, PILOT_DRAWS = 4, 30
PRIOR = {"metric": "prior", "init": "random", "iter_warmup": 150}
SETTINGS = {
    "diag_e, warm-up 500, Pathfinder": {
        "metric": "diag_e",
        "init": "pathfinder",
        "iter_warmup": 500,
    },
    "diag_e, warm-up 500": {"metric": "diag_e", "init": "random", "iter_warmup": 500},
    "diag_e, warm-up 150": {"metric": "diag_e", "init": "random", "iter_warmup": 150},
    "dense_e, warm-up 500": {"metric": "dense_e", "init": "random", "iter_warmup": 500},
    "unit_e, warm-up 150": {"metric": "unit_e", "init": "random", "iter_warmup": 150},
    "prior, warm-up 75": {**PRIOR, "iter_warmup": 75},
    "prior, warm-up 150": PRIOR,
    "prior, warm-up 500": {**PRIOR, "iter_warmup": 500},
    "prior, warm-up 100": {**PRIOR, "iter_warmup": 100},
    "prior, warm-up 300": {**PRIOR, "iter_warmup": 300},
    **{
        f"prior, warm-up 100, delta {delta}, depth {depth}": {
            **PRIOR,
            "iter_warmup": 100,
            "adapt_delta": delta,
            "max_treedepth": depth,
        }
        for delta in (0.6, 0.7, 0.8)
        for depth in (5, 6, 7, 8, 10)
    },
    "prior, warm-up 150, Pathfinder": {**PRIOR, "init": "pathfinder"},
    "prior, warm-up 150, delta 0.6": {**PRIOR, "adapt_delta": 0.6},
    "prior, warm-up 150, delta 0.7": {**PRIOR, "adapt_delta": 0.7},
    "prior, warm-up 150, delta 0.9": {**PRIOR, "adapt_delta": 0.9},
    "prior, warm-up 150, depth 6": {**PRIOR, "max_treedepth": 6},
    "prior, warm-up 150, depth 8": {**PRIOR, "max_treedepth": 8},
}


class Result(NamedTuple):
    """Of one fit. Gradients are in thousands, of all chains; effective draws per thousand."""

    steps: float
    warmup_gradients: float
    log_prob_min: float
    log_prob_median: float
    log_posterior: float
    r_hat: float
    r_hat_lp: float
    divergent: int
    lp: float
    milliseconds: float
    pathfinder_seconds: float


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=["02", "05", "08", "09", "12"])
    parser.add_argument("--settings", nargs="+", metavar="WORD", help="only those that begin so")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gradients", type=int, default=20_000, help="of each chain (20000)")
    parser.add_argument("--text", help="a file (default: the Zen of Python)")
    parser.add_argument("--n-embed", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    chosen = parser.parse_args()
    pd.set_option("display.width", 250)
    text = read_text(chosen.text) if chosen.text else zen_of_python()
    for number in chosen.stages:
        problem = make_problem(
            STAGES[number],
            text.lower(),
            batch_size=chosen.batch_size,
            **STAGES[number].applicable(n_embed=chosen.n_embed),
        )
        n = problem.stage.n_parameters(problem.design)
        print(f"\nStage {number}, {n:,} parameters, {problem.n_targets} characters\n", flush=True)
        for name, settings in SETTINGS.items():
            if chosen.settings and not name.startswith(tuple(chosen.settings)):
                continue
            results = [one(problem, settings, chosen, seed) for seed in range(1, chosen.seeds + 1)]
            print(row(name, results), flush=True)


def row(name, results):
    """One line: means over seeds ± their standard error, the worst R-hats."""
    table = pd.DataFrame(results)
    error = table.std() / np.sqrt(len(table))
    mean = table.mean()

    def both(column, digits):
        return f"{mean[column]:.{digits}f} ± {error[column]:.{digits}f}"

    return (
        f"{name:<32} steps {mean['steps']:6.0f}  warm-up {mean['warmup_gradients']:6.0f}k  "
        f"ESS per 1000: median {both('log_prob_median', 2):>14}  "
        f"min {both('log_prob_min', 2):>13}  lp {both('log_posterior', 2):>13}  "
        f"R-hat {table['r_hat'].max():.2f}, lp {table['r_hat_lp'].max():.2f}  "
        f"divergent {table['divergent'].sum():3d}  lp {both('lp', 1):>14}  "
        f"{mean['milliseconds']:.3f} ms  Pathfinder {mean['pathfinder_seconds']:.1f} s"
    )


def one(problem, settings, chosen, seed):
    """A pilot says how long trajectories are, then the fit gets its number of gradients."""
    with tempfile.TemporaryDirectory() as folder:
        pilot = run(problem, settings, Path(folder) / "pilot", 1, PILOT_DRAWS, seed)
        steps = pilot[0].method_variables["n_leapfrog"].mean()
        n_draws = int(np.clip(chosen.gradients / steps, 50, 5000))
        out = Path(folder) / "fit"
        draws = run(problem, settings, out, CHAINS, n_draws, seed)
        warmup, sampling = np.sum([seconds(path) for path in (out / "csv").glob("*.csv")], axis=0)
        paths = [fit.read_csv(path, 1).seconds for path in (out / "init").glob("path*.csv")]
    log_lik = stacked([each.variables["log_lik"].reshape(n_draws, -1) for each in draws])
    lp = stacked([each.method_variables["lp"][:, None] for each in draws])
    gradients = sum(each.method_variables["n_leapfrog"].sum() for each in draws) / 1e3
    of_log_probs = ess(log_lik)["ess_bulk"].values
    return Result(
        steps=1e3 * gradients / (CHAINS * n_draws),
        warmup_gradients=gradients * warmup / sampling,
        log_prob_min=of_log_probs.min() / gradients,
        log_prob_median=np.median(of_log_probs) / gradients,
        log_posterior=float(ess(lp)["ess_bulk"][0]) / gradients,
        r_hat=float(r_hat(log_lik).max()),
        r_hat_lp=float(r_hat(lp)[0]),
        divergent=int(sum(each.method_variables["divergent"].sum() for each in draws)),
        lp=float(lp.mean()),
        milliseconds=sampling / gradients,
        pathfinder_seconds=sum(paths),
    )


def run(problem, settings, out, chains, n_draws, seed):
    with ThreadPoolExecutor(max_workers=1) as executor:  # for times that mean something
        sizes = {"chains": chains, "iter_sampling": n_draws}
        fit.nuts(problem, out, **settings, **sizes, seed=seed, executor=executor)
    return fit.read_draws(out)


def seconds(path):
    """Of warm-up and of sampling, as Stan says at the end of a file."""
    text = path.read_text()[-1000:]
    return [
        float(re.search(rf"([\d.]+) seconds \({k}\)", text)[1]) for k in ("Warm-up", "Sampling")
    ]


def stacked(chains):
    return xr.DataArray(np.stack(chains), dims=("chain", "draw", "scalar"))


if __name__ == "__main__":
    main()
