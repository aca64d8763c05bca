"""Memory and time of attention with its uncertainty: 50 contexts, 4000 draws of stage 12.

    python tests/performance/attention.py [--draws 4000] [--contexts 50]

Each analysis runs in a process of its own, whose peak memory the system tells. The promise is
2 GiB for the summary of all weights. Draws are the prior's: a cost does not depend on their values.
"""

import argparse
import resource
import subprocess
import sys
import time

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from drawn import drawn, from_prior

from gptbayes.attention import (
    ablate_heads,
    ablate_positions,
    attention_rollout,
    head_order,
    head_roles,
    summarise_attention,
)
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES

LIMIT = 2 * 2**30
SIZES = ((8, 2), (32, 4))  # block_size, n_head
WORK = ("nothing", "matching", "weights", "roles", "rollout", "heads", "positions")
ALSO_LONG = ("nothing", "matching", "weights", "roles", "rollout")
"""Removal at T = 32 takes a quarter of an hour: 31 forward passes of everything."""


def main():
    asked = _arguments()
    if asked.work:
        return _work(asked)
    print(f"{asked.contexts} contexts, {asked.draws} draws of stage 12, C = 16, L = 2")
    for T, H in SIZES:
        for work in WORK if T < 32 else ALSO_LONG:
            settings = ["--block-size", T, "--heads", H, "--work", work]
            same = ["--draws", asked.draws, "--contexts", asked.contexts]
            command = [sys.executable, __file__, *map(str, settings + same)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            print(f"T = {T:>2}, H = {H}, {work:<10}{done.stdout.strip()}", flush=True)


def _work(asked):
    rng = np.random.default_rng(1)
    text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz ,."), size=4000))
    sizes = {"block_size": asked.block_size, "n_embed": 16, "n_head": asked.heads}
    problem = make_problem(STAGES["12"], text, batch_size=16, **sizes, dropout=0.0)
    idata = drawn(problem, from_prior(problem, 4, asked.draws // 4))
    x, y = problem.held_out
    x, y = (np.resize(each, (asked.contexts, each.shape[1])) for each in (x, y))
    begin = time.process_time()
    work = {
        "nothing": lambda: None,
        "matching": lambda: head_order(idata),
        "weights": lambda: summarise_attention(idata, x),
        "roles": lambda: head_roles(idata, contexts=x),
        "rollout": lambda: attention_rollout(idata, x),
        "heads": lambda: ablate_heads(idata, x, y),
        "positions": lambda: ablate_positions(idata, x, y),
    }
    work[asked.work]()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts kilobytes
    late = "" if peak < LIMIT else ", more than 2 GiB"
    print(f"{time.process_time() - begin:7.1f} s, peak {peak / 2**30:.2f} GiB{late}")
    return None


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--contexts", type=int, default=50)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--work", choices=WORK, help="what to do in this process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
