"""The engine built from httpstan, two programs compiled with it, and ways to run them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gptbayes import toolchain

PROGRAMS = Path(__file__).parent / "programs"


class Data(NamedTuple):
    """Data of known.stan, and the posterior of mu that follows from them."""

    y: list[float]
    prior_sd: float

    @property
    def mean(self) -> float:
        """Of mu."""
        return sum(self.y) * self.sd**2

    @property
    def sd(self) -> float:
        """Of mu."""
        return (len(self.y) + self.prior_sd**-2) ** -0.5


DATA = Data([0.3, -1.1, 2.2, 0.7, 1.9], 2.0)


class Table(NamedTuple):
    """A Stan CSV."""

    comments: list[str]
    names: list[str]
    rows: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """One column, by name."""
        return self.rows[:, self.names.index(name)]

    def columns(self, prefix: str) -> np.ndarray:
        """The columns of a variable with indices."""
        wanted = [i for i, name in enumerate(self.names) if name.startswith(prefix + ".")]
        return self.rows[:, wanted]

    @property
    def draws(self) -> np.ndarray:
        """What the program computes, without the algorithm's columns."""
        wanted = [i for i, name in enumerate(self.names) if not name.endswith("__")]
        return self.rows[:, wanted]


def read(path: Path) -> Table:
    """A Stan CSV from its file."""
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    names, *rows = [line for line in lines if line and not line.startswith("#")]
    table = np.array([[float(x) for x in row.split(",")] for row in rows])
    return Table(comments, names.split(","), table)


class Program(NamedTuple):
    """A compiled program, run in a folder that holds its data.json."""

    executable: Path
    folder: Path

    def run(self, words: str, *, data: str = "data.json") -> subprocess.CompletedProcess[str]:
        """Run it with the words of a command line."""
        given = ["data", f"file={data}"] if data else []
        return subprocess.run(
            [self.executable, *words.split(), *given],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def csv(self, words: str, name: str = "output.csv") -> Table:
        """Run it and read a CSV it wrote."""
        done = self.run(f"{words} output file={name} sig_figs=17")
        assert done.returncode == 0, done.stdout + done.stderr
        return read(self.folder / name)

    def path(self, name: str) -> Path:
        """A file in the folder."""
        return self.folder / name


@pytest.fixture(scope="session", autouse=True)
def engine():
    """The CmdStan built from httpstan, from the user's cache if it is there."""
    if importlib.util.find_spec("httpstan") is None or not shutil.which("make"):
        pytest.skip("needs httpstan and make")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMDSTAN", "")
        patch.setenv("GPTBAYES_CMDSTAN", "httpstan")
        yield toolchain.ensure_cmdstan()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Away from the checkout: CmdStan leaves a profile where it is run."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="session")
def known_executable(engine):
    return toolchain.compile_program(PROGRAMS / "known.stan", include_paths=[PROGRAMS])


@pytest.fixture(scope="session")
def external_executable(engine):
    return toolchain.compile_program(PROGRAMS / "external.stan", user_header=PROGRAMS / "twice.hpp")


@pytest.fixture
def known(known_executable, tmp_path) -> Program:
    data = {"N": len(DATA.y), "y": DATA.y, "prior_sd": DATA.prior_sd}
    (tmp_path / "data.json").write_text(json.dumps(data))
    return Program(known_executable, tmp_path)


@pytest.fixture
def external(external_executable, tmp_path) -> Program:
    (tmp_path / "data.json").write_text('{"x": 3.5}')
    return Program(external_executable, tmp_path)
