"""Draws are those of CmdStan 2.35.0, digit for digit.

The files in golden/ were written by this engine on 2026-11-22 (g++ 12.2, x86-64, glibc 2.36),
right after its output had been compared with that of the real CmdStan 2.35.0 on another program:
NUTS with two metrics, Pathfinder, L-BFGS, Laplace, meanfield, generated quantities and log_prob
agreed in every digit. To write them anew: `write_golden(folder, known)` below.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gptbayes import toolchain

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "nuts": "sample num_samples=20 num_warmup=150 adapt delta=0.9",
    "dense": "sample num_samples=10 num_warmup=100 save_warmup=1 thin=4 algorithm=hmc "
    "metric=dense_e",
    "pathfinder": "pathfinder num_paths=3 num_draws=50 num_psis_draws=15",
    "optimize": "optimize jacobian=1",
    "meanfield": "variational output_samples=10",
}


def content(path: Path) -> list[str]:
    """Adaptation, names and draws: all but the header and the times."""
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line for line in lines[start:] if "seconds" not in line]


def write_golden(folder: Path, known) -> None:
    """Write what the engine that is there draws."""
    for name, words in COMMANDS.items():
        known.csv(f"{words} random seed=20261122 id=2", f"{name}.csv")
        (folder / f"{name}.txt").write_text("\n".join(content(known.path(f"{name}.csv"))) + "\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_draws_equal_those_of_cmdstan(known, name):
    version = toolchain.describe().cmdstan
    if version != "2.35.0":
        pytest.skip(f"the digits are those of CmdStan 2.35.0, found {version}")
    known.csv(f"{COMMANDS[name]} random seed=20261122 id=2", f"{name}.csv")
    wanted = (GOLDEN / f"{name}.txt").read_text().splitlines()
    assert content(known.path(f"{name}.csv")) == wanted
