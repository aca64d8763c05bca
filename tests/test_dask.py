"""Fits on Dask workers that share no folder with the caller."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from problems import small_problem

import gptbayes
from gptbayes import fit
from gptbayes.cli import main
from gptbayes.compare.refits import refit_density
from gptbayes.compare.same_text import open_same_text
from gptbayes.fit.remote import setup_of_this_machine
from gptbayes.fit.smc import sequential_monte_carlo
from gptbayes.toolchain import cache, compile_program, ensure_cmdstan
from gptbayes.validate.experiment import Experiment
from gptbayes.validate.simulated_ranks import calibrate, sbc

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # comes with it
pytestmark = [
    pytest.mark.usefixtures("programs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SETTINGS = {"chains": 3, "iter_warmup": 60, "iter_sampling": 40, "seed": 2}
FIT = ["fit", "--stage", "05", "--batch-size", "11", "--warmup", "100", "--draws", "100"]
FIT += ["--chains", "3"]


class Cluster:
    """``dask scheduler`` and ``dask worker`` as commands, each in a session of its own."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler = self._start("scheduler", folder, {}, "--port", "0")
        self.workers = []
        wait_for(self.file.exists)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in (self.scheduler, *self.workers):
            for each in children(process):
                each.kill()
            process.kill()
            process.wait()

    def add_worker(self, **environment):
        """With a home of its own, and the cache of compiled programs unless it is given another."""
        home = self.folder / f"home-{len(self.workers)}"
        home.mkdir()
        own = {"HOME": str(home), "GPTBAYES_CACHE": str(cache.cache_folder()), **environment}
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(home))
        self.workers.append(self._start("worker", home, own, *options))
        with self.client() as client:
            client.wait_for_workers(len(self.workers), timeout=120)

    def client(self):
        return distributed.Client(scheduler_file=str(self.file), timeout=60)

    def _start(self, what, folder, environment, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard"]
        return subprocess.Popen(
            [*command, "--scheduler-file", str(self.file), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "dask").mkdir()
    with Cluster(tmp_path / "dask") as started:
        yield started


def children(process):
    """Processes below one; none if it has ended."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def samples(process):
    """Whether a worker has a compiled program running."""
    return any("/models/" in program_of(each) for each in children(process))


def program_of(process):
    """The path of its executable; nothing if it has ended since it was listed."""
    try:
        return process.exe()
    except psutil.NoSuchProcess:  # zombies too
        return ""


def wait_for(something, seconds=300):
    deadline = time.monotonic() + seconds
    while not something():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def same_draws(ours, theirs):
    for one, other in zip(fit.read_draws(ours), fit.read_draws(theirs), strict=True):
        for name, value in other.variables.items():
            np.testing.assert_array_equal(one.variables[name], value)


def command(out, *more):
    """The command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "gptbayes", *FIT, "--out", str(out), *map(str, more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("method", fit.MARKOV_CHAINS)
def test_workers_give_the_draws_of_this_machine(tmp_path, cluster, monkeypatch, method):
    """Digit for digit, with starting points by Pathfinder, and recorded as if they had run here."""
    cluster.add_worker()
    cluster.add_worker()
    monkeypatch.chdir(tmp_path)  # relative paths mean nothing to a worker
    run, problem, told = getattr(fit, method), small_problem("05"), []
    settings = {**SETTINGS, "init": "pathfinder", "iter_sampling": 2000}  # seconds, to be seen
    with cluster.client() as client:
        options = {"executor": client.get_executor(), "on_progress": told.append}
        there = run(problem, "a", **options, **settings)
    here = run(problem, "b", **settings)
    same_draws(there, here)
    assert {p.name for p in (there / "csv").iterdir()} == {f"chain-{k}.csv" for k in (1, 2, 3)}
    assert "csv/chain-3.csv" in fit.manifest.read_manifest(there)
    assert "setups" not in fit.read_config(there)
    chains = [each for units in told for each in units if each.label.startswith("chain")]
    assert any(0 < each.done < each.total for each in chains)


@pytest.mark.slow
def test_everything_that_takes_an_executor_takes_this_one(tmp_path, runs):
    """Sequential Monte Carlo, refits and calibration, of stages and of other programs."""
    program = tmp_path / "normal-mean.stan"
    program.write_text(NORMAL_MEAN)
    bigram = small_problem("01-log-gamma", n_new_tokens=0)
    tiny = {"replicates": 2, "chains": 6, "moves": 4, "seed": 3}
    fits = {
        "smc": lambda folder, **pool: fit.smc(bigram, folder / "smc", **tiny, **pool),
        "refit": lambda folder, **pool: refit_density(
            open_same_text([runs["nuts"]])[0]._replace(folder=folder), 2, **pool
        ).exact,
        "levels": lambda folder, **pool: sequential_monte_carlo(
            compile_program(program), DATA, draw_prior, folder / "levels", **tiny, **pool
        ).log_evidence,
        "calibrate": lambda folder, **pool: calibrate(
            Experiment(small_problem("01")), folder / "ranks", replicates=2, **pool
        )["rank"].values,
        "sbc": lambda folder, **pool: sbc(
            program, lambda rng: {"mu": rng.normal(0, 2)}, simulate, only_mu, folder / "sbc",
            replicates=2, **pool,
        )["rank"].values,
    }  # fmt: skip
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as local:
        with distributed.Client(local) as client:
            for run in fits.values():
                there = run(tmp_path / "there", executor=client.get_executor())
                here = run(tmp_path / "here")
                if isinstance(there, Path):
                    same_draws(there, here)
                else:
                    np.testing.assert_array_equal(there, here)


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_of_a_chain(tmp_path, cluster):
    """Its unit runs on the other one, with the same draws."""
    cluster.add_worker()
    cluster.add_worker()
    problem, killed = small_problem("05"), cluster.workers[1]
    settings = {**SETTINGS, "chains": 2, "iter_warmup": 200, "iter_sampling": 200}

    def kill(_):
        if killed.poll() is None and samples(killed):
            programs = children(killed)
            killed.kill()
            killed.wait()
            for each in programs:  # the system would let them run to their end
                each.kill()

    with cluster.client() as client:
        options = {"executor": client.get_executor(), "on_progress": kill}
        there = fit.nuts(problem, tmp_path / "a", **options, **settings)
    assert killed.poll() == -signal.SIGKILL
    same_draws(there, fit.nuts(problem, tmp_path / "b", **settings))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_scheduler_that_is_stopped(tmp_path, cluster, number):
    """One line, finished chains kept; the same command goes on, here on this machine."""
    cluster.add_worker()
    out = tmp_path / "run"
    process = command(out, "--scheduler", cluster.file)
    wait_for((out / "csv" / "chain-1.csv").exists)
    cluster.scheduler.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert told.strip().splitlines()[-1] == (
        "gptbayes: the connection to the Dask scheduler was lost; finished units are saved, the "
        "same command resumes the run"
    )
    assert "Traceback" not in told
    goes_on(out, tmp_path)


@pytest.mark.slow
def test_a_caller_that_is_killed(tmp_path, cluster):
    """The worker ends the chain that nobody waits for; the same command goes on."""
    cluster.add_worker()
    out = tmp_path / "run"
    process = command(out, "--scheduler", cluster.file)
    wait_for((out / "csv" / "chain-1.csv").exists)
    wait_for(lambda: samples(cluster.workers[0]))
    process.kill()
    process.communicate()
    wait_for(lambda: not samples(cluster.workers[0]), seconds=10)
    goes_on(out, tmp_path, "--scheduler", str(cluster.file))


def goes_on(out, tmp_path, *options):
    """The same command finishes the run, without what was finished, and with the same draws."""
    kept = (out / "csv" / "chain-1.csv").stat().st_mtime_ns
    assert not (out / "csv" / "chain-3.csv").exists()
    assert main([*FIT, "--out", str(out), *options]) == 0
    assert (out / "csv" / "chain-1.csv").stat().st_mtime_ns == kept
    assert main([*FIT, "--out", str(tmp_path / "other")]) == 0
    same_draws(out, tmp_path / "other")


def test_a_worker_without_a_compiler(tmp_path, cluster, caplog):
    """It is named, and its units go elsewhere; without another worker the fit fails."""
    nowhere = {"CXX": str(tmp_path / "g++"), "GPTBAYES_CACHE": str(tmp_path / "cache")}
    cluster.add_worker(**nowhere, CMDSTAN=str(ensure_cmdstan()))
    problem = small_problem("02")
    with cluster.client() as client:
        with pytest.raises(RuntimeError, match=r"no worker is able: the worker tcp://.*compiler"):
            fit.nuts(problem, tmp_path / "a", executor=client.get_executor(), **SETTINGS)
        cluster.add_worker()
        caplog.clear()
        there = fit.nuts(problem, tmp_path / "a", executor=client.get_executor(), **SETTINGS)
    (told,) = (each.getMessage() for each in caplog.records if each.name == "gptbayes")
    assert "cannot compile: missing a C++ compiler" in told
    assert told.endswith("its units go to others")
    same_draws(there, fit.nuts(problem, tmp_path / "b", **SETTINGS))


def test_a_worker_with_another_version_is_refused_by_name(tmp_path, cluster):
    package = Path(gptbayes.__file__).parent
    other = tmp_path / "other" / "gptbayes"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    text = (other / "__init__.py").read_text()
    newer = text.replace(f'__version__ = "{gptbayes.__version__}"', '__version__ = "9.9"')
    assert newer != text
    (other / "__init__.py").write_text(newer)
    cluster.add_worker(PYTHONPATH=str(other.parent))
    with cluster.client() as client, pytest.raises(RuntimeError, match=r"tcp://.* gptbayes 9\.9"):
        executor = client.get_executor()
        fit.nuts(small_problem("02"), tmp_path / "a", executor=executor, **SETTINGS)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("GPTBAYES_LONG_TESTS"),
    reason="builds a second command line (minutes): set GPTBAYES_LONG_TESTS=1",
)
def test_workers_of_a_machine_with_nothing_in_its_cache(tmp_path, cluster):
    """They compile once; what they compute with is noted, and draws are the same."""
    empty = tmp_path / "empty"
    empty.mkdir()
    own = {"HOME": str(empty), "XDG_CACHE_HOME": str(empty / "cache"), "CXX": "c++"}
    engine = {"CMDSTAN": str(ensure_cmdstan()), "GPTBAYES_CACHE": ""}
    cluster.add_worker(**own, **engine)
    cluster.add_worker(**own, **engine)
    problem, settings = small_problem("01"), {**SETTINGS, "kernels": "stan"}
    with cluster.client() as client:
        there = fit.nuts(problem, tmp_path / "a", executor=client.get_executor(), **settings)
    models = (empty / "cache" / "gptbayes" / "models").iterdir()
    assert len([folder for folder in models if not folder.name.startswith(".")]) == 1
    noted = fit.read_config(there)["setups"]
    assert set(noted) == {f"csv/chain-{k}.csv" for k in (1, 2, 3)}
    assert "c++ (" in noted["csv/chain-1.csv"]
    assert "c++ (" not in setup_of_this_machine()
    same_draws(there, fit.nuts(problem, tmp_path / "b", **settings))


def test_a_changed_program_travels_as_its_sources(tmp_path, cluster):
    """And what has no source beside it is refused."""
    cluster.add_worker()
    problem = small_problem("01")
    folder = tmp_path / "programs"
    shutil.copytree(problem.stage.program.parent, folder)
    changed = replace(problem, stage=replace(problem.stage, folder=folder))
    with cluster.client() as client:
        executor = client.get_executor()
        there = fit.nuts(changed, tmp_path / "a", executor=executor, **SETTINGS)
    same_draws(there, fit.nuts(changed, tmp_path / "b", **SETTINGS))
    with pytest.raises(ValueError, match=r"has no true\.stan beside it"):
        fit.programs.Program.of(Path("/bin/true"))


def test_no_scheduler_is_told_in_one_line(tmp_path):
    process = command(tmp_path / "run", "--scheduler", "tcp://127.0.0.1:9")
    _, told = process.communicate()
    assert process.returncode == 1
    assert "no Dask scheduler at tcp://127.0.0.1:9" in told
    assert "Traceback" not in told


DATA = {"n": 3, "y": [0.5, 1.0, 2.0], "likelihood_weight": 1.0}
NORMAL_MEAN = """
data {
  int<lower=1> n;
  vector[n] y;
  real<lower=0> likelihood_weight;
}
parameters {
  real mu;
}
model {
  mu ~ normal(0, 2);
  target += likelihood_weight * normal_lpdf(y | mu, 1);
}
generated quantities {
  vector[n] log_lik;
  for (i in 1:n) {
    log_lik[i] = normal_lpdf(y[i] | mu, 1);
  }
}
"""


def draw_prior(n, rng):
    return {"mu": rng.normal(0, 2, size=n)}


def simulate(parameters, rng):
    return {**DATA, "y": rng.normal(parameters["mu"], 1, size=3).tolist()}


def only_mu(parameters, data):
    return {"mu": parameters["mu"]}
