"""Draws are those of CmdStan 2.35.0, digit for digit.

The files in golden/ were written by this engine on 2026-11-22 (g++ 12.2, x86-64, glibc 2.36),
right after its output had been compared with that of the real CmdStan 2.35.0 on another program:
NUTS with two metrics, Pathfinder, L-BFGS, Laplace, meanfield, generated quantities and log_prob
agreed in every digit. To write them anew: `write_golden` below.

Those of `plain` were written by the engine of Stan 2.35 on 2026-11-26. Stan 2.39 draws the same,
but for what changed between them: the transformation of a simplex, which `known` has; the draws
that Pathfinder takes from several paths; and two columns more, ``converged__`` and ``path__``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gptbayes import toolchain

from .conftest import DATA, PROGRAMS, Program, read

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "nuts": "sample num_samples=20 num_warmup=150 adapt delta=0.9",
    "dense": "sample num_samples=10 num_warmup=100 save_warmup=1 thin=4 algorithm=hmc "
    "metric=dense_e",
    "pathfinder": "pathfinder num_paths=3 num_draws=50 num_psis_draws=15",
    "optimize": "optimize jacobian=1",
    "meanfield": "variational output_samples=10",
}


PLAIN = {
    **{name: COMMANDS[name] for name in ("nuts", "dense", "optimize", "meanfield")},
    "static": "sample num_samples=10 num_warmup=100 algorithm=hmc engine=static int_time=2",
    "path": "pathfinder num_paths=1 num_draws=50 psis_resample=0",
}


def content(path: Path) -> list[str]:
    """Adaptation, names and draws: all but the header and the times."""
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line for line in lines[start:] if "seconds" not in line]


@pytest.fixture(scope="module")
def plain_executable(engine):
    return toolchain.compile_program(PROGRAMS / "plain.stan")


@pytest.fixture
def plain(plain_executable, tmp_path) -> Program:
    (tmp_path / "data.json").write_text(json.dumps({"N": len(DATA.y), "y": DATA.y}))
    return Program(plain_executable, tmp_path)


def write_golden(folder: Path, program: Program, commands: dict[str, str], prefix: str) -> None:
    """Write what the engine that is there draws; the prefix is empty for `known`."""
    for name, words in commands.items():
        program.csv(f"{words} random seed=20261122 id=2", f"{name}.csv")
        text = "\n".join(content(program.path(f"{name}.csv"))) + "\n"
        (folder / f"{prefix}{name}.txt").write_text(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_draws_equal_those_of_cmdstan(known, name):
    version = toolchain.describe().cmdstan
    if version != "2.35.0":
        pytest.skip(f"the digits are those of CmdStan 2.35.0, found {version}")
    known.csv(f"{COMMANDS[name]} random seed=20261122 id=2", f"{name}.csv")
    wanted = (GOLDEN / f"{name}.txt").read_text().splitlines()
    assert content(known.path(f"{name}.csv")) == wanted


@pytest.mark.parametrize("name", PLAIN)
def test_draws_are_those_of_either_version_of_stan(plain, name):
    """Up to the rounding of the log density of a lone path, which 2.39 computes otherwise."""
    found = plain.csv(f"{PLAIN[name]} random seed=20261122 id=2", f"{name}.csv")
    wanted = read(GOLDEN / f"plain-{name}.txt")
    shared = [found.names.index(each) for each in wanted.names]
    assert set(found.names) - set(wanted.names) <= {"converged__", "path__"}
    np.testing.assert_allclose(
        found.rows[:, shared], wanted.rows, rtol=1e-13 if name == "path" else 0
    )
