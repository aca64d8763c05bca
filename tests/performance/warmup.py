"""Where warm-up goes: gradients, step size and log posterior of the first iterations of a chain.

    python tests/performance/warmup.py [--stages 05 12] [--chains 3]

Chains start as `gptbayes.fit.nuts` starts them, at a draw from the prior with twice its standard
deviation, with its metric and its adaptation of the step size.
"""

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from gptbayes import fit
from gptbayes.corpus import zen_of_python
from gptbayes.fit.chains import prior_variances
from gptbayes.fit.directory import write_json
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import stage
from gptbayes.model.stan_data import stan_data
from gptbayes.toolchain import interface

WARMUP, DRAWS = 300, 100
EDGES = (0, 5, 10, 20, 50, 100, 200, 300, 400)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=["05", "12"])
    parser.add_argument("--chains", type=int, default=3)
    asked = parser.parse_args()
    print("Means over iterations; warm-up ends at 300")
    print(f"{'':<24}" + "".join(f"{f'{a}-{b}':>10}" for a, b in pairwise(EDGES)))
    for number in asked.stages:
        sizes = stage(number).applicable(n_embed=8, n_head=2)
        problem = make_problem(stage(number), zen_of_python().lower(), batch_size=32, **sizes)
        for chain in range(1, asked.chains + 1):
            told = run(problem, chain)
            for name, digits in (("n_leapfrog__", 0), ("stepsize__", 4), ("lp__", 0)):
                means = [told[name][a:b].mean() for a, b in pairwise(EDGES)]
                label = f"{number}, {chain}: {name.strip('_')}"
                print(f"{label:<24}" + "".join(f"{mean:>10.{digits}f}" for mean in means))


def run(problem, chain):
    """All iterations of one chain, those of warm-up first."""
    start = prior_draws(problem, 1, np.random.default_rng(chain), overdispersion=2.0)
    inits = problem.stage.to_stan({name: v[0] for name, v in start.items()}, problem.design)
    with tempfile.TemporaryDirectory() as folder:
        written = {
            "data": stan_data(problem),
            "inv_metric": {"inv_metric": prior_variances(problem)},
            "inits": inits,
        }
        for name, values in written.items():
            plain = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in values.items()}
            write_json(Path(folder) / f"{name}.json", plain)
        done = interface.run(
            fit.executable_of(problem.stage, "c++").path,
            "sample",
            **{name: f"{folder}/{name}.json" for name in written},
            output_dir=folder,
            chains=1,
            seed=chain,
            iter_warmup=WARMUP,
            iter_sampling=DRAWS,
            save_warmup=True,
            metric="diag_e",
            adapt_init_phase=0,
            adapt_metric_window=0,
            adapt_step_size=WARMUP,
            show_progress=False,
        )
        return {name: v[:, 0] for name, v in done.method_variables().items()}


if __name__ == "__main__":
    main()
