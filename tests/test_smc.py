"""Sequential Monte Carlo against answers that are known, at the end and at every level."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from problems import bigram_of_two_characters, small_problem
from scipy.integrate import dblquad
from scipy.special import log_expit, logsumexp
from scipy.stats import norm
from scipy.stats import t as student_t

from gptbayes import fit, toolchain
from gptbayes.diagnostics.sampler import sampler_health
from gptbayes.diagnostics.tempering_health import path_findings
from gptbayes.findings import warnings_of
from gptbayes.fit import tempering
from gptbayes.fit.directory import write_json
from gptbayes.fit.levels import Level, LevelUnit
from gptbayes.fit.replicate import Replicate
from gptbayes.fit.smc import Settings, sequential_monte_carlo
from gptbayes.fit.transitions import Nuts, metric_of, write_starts
from gptbayes.inference import open_run
from gptbayes.model.forward import token_log_prob
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stan_data import stan_data
from gptbayes.report import Analysis
from gptbayes.stats.summary import r_hat, summarise
from gptbayes.validate import conjugate_bigram
from gptbayes.validate.exact_marginals import ALPHA, check_exact_marginals, family_wise_p

BIGRAM_LEVELS = (0.002, 0.01, 0.03, 0.08, 0.2, 0.4, 0.7, 1.0)
TINY = {"replicates": 2, "chains": 6, "moves": 4, "seed": 3}


def bigram():
    return small_problem("01-log-gamma", n_new_tokens=0)


def agrees(estimates, exact, n_tests=1, alpha=1e-3):
    """Whether the mean over replicates is the exact value, by their own spread."""
    estimates = np.asarray(estimates)
    se = estimates.std(ddof=1) / np.sqrt(len(estimates))
    limit = student_t.isf(alpha / (2 * n_tests), len(estimates) - 1)
    return abs(estimates.mean() - exact) < limit * se


@pytest.fixture(scope="module")
def bigrams(tmp_path_factory, engine):
    """Sixteen replicates of the conjugate bigram at the same levels."""
    folder = tmp_path_factory.mktemp("smc") / "bigram"
    settings = {"chains": 12, "moves": 5, "weights": BIGRAM_LEVELS}
    fit.smc(bigram(), folder, replicates=16, seed=11, **settings)
    return folder


@pytest.fixture(scope="module")
def attention(tmp_path_factory, engine):
    """A fit of stage 05, and what its progress said."""
    said, folder = [], tmp_path_factory.mktemp("smc") / "05"
    settings = {"replicates": 3, "chains": 12, "moves": 6, "seed": 5}
    fit.smc(small_problem("05"), folder, on_progress=said.append, **settings)
    return folder, said


@pytest.fixture(scope="module")
def two_modes(engine):
    program = Path(__file__).parent / "programs" / "two-modes.stan"
    return toolchain.compile_program(program)


def modes_data(place, width, share, n=2, **changes):
    data = {"n": n, "prior_scale": 2.0, "place": place, "width": width, "share": share}
    return {**data, "tempered": 1, "likelihood_weight": 1.0, **changes}


def draw_modes_prior(n, rng):
    return {"x": rng.normal(0, 2.0, size=(n, 2))}


def exact_modes(data):
    """Log evidence, and the mass of the first mode."""
    sd = np.hypot(data["prior_scale"], data["width"])
    log_z = np.log(data["share"]) + data["n"] * norm.logpdf(data["place"], 0, sd)
    return logsumexp(log_z), np.exp(log_z[0] - logsumexp(log_z))


# What is known


@pytest.mark.slow
def test_conjugate_bigram_at_every_level(bigrams):
    """Log Z, and mean and variance of the log likelihood, its first two derivatives."""
    problem = bigram()
    counts = conjugate_bigram.transition_counts(problem.training, problem.design.vocab_size)

    def log_z(weight):
        return conjugate_bigram.log_evidence(weight * counts, problem.priors.concentration)

    replicates = [fit.levels_of(bigrams / "csv", k + 1) for k in range(16)]
    n_tests = 3 * len(BIGRAM_LEVELS)
    for i, weight in enumerate(BIGRAM_LEVELS, start=1):
        levels = [replicate[i] for replicate in replicates]
        assert {level.likelihood_weight for level in levels} == {weight}
        relative = np.exp([level.log_evidence - log_z(weight) for level in levels])
        assert agrees(relative, 1.0, n_tests), weight
        step = 1e-3 * weight
        around = [log_z(weight + k * step) for k in (-1, 0, 1)]
        mean = (around[2] - around[0]) / (2 * step)
        variance = (around[0] - 2 * around[1] + around[2]) / step**2
        assert agrees([level.log_lik.mean() for level in levels], mean, n_tests), weight
        squares = [np.square(level.log_lik - mean).mean() for level in levels]
        assert agrees(squares, variance, n_tests), weight
    spread = np.std([replicate[-1].log_evidence for replicate in replicates], ddof=1)
    assert spread < 2.0  # nats: the comparison above means something


def test_level_0_is_the_prior(bigrams):
    """Independent draws, with the log likelihood that numpy gives them."""
    problem = bigram()
    drawn = conjugate_bigram.posterior_draws(
        small_problem("01-log-gamma", likelihood_weight=0.0), 4000, np.random.default_rng(1)
    )
    exact = token_log_prob(problem.stage, drawn, problem.training).sum(axis=(-2, -1))
    ours = np.concatenate(
        [fit.levels_of(bigrams / "csv", k + 1)[0].log_lik.ravel() for k in range(16)]
    )
    se = np.hypot(exact.std() / np.sqrt(exact.size), ours.std() / np.sqrt(ours.size))
    assert abs(exact.mean() - ours.mean()) < 4 * se


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_two_characters_agree_with_quadrature(tmp_path):
    """The evidence of a bigram of two characters is a two-dimensional integral for each row."""
    problem = bigram_of_two_characters()
    windows = problem.training

    def row(context):
        counts = [((windows.x == context) & (windows.y == k)).sum() for k in (0, 1)]

        def density(v, u):
            log_lik = counts[0] * log_expit(u - v) + counts[1] * log_expit(v - u)
            return np.exp(log_lik) * norm.pdf(u, 0, 1.3) * norm.pdf(v, 0, 1.3)

        return np.log(dblquad(density, -9, 9, -9, 9)[0])

    folder = fit.smc(problem, tmp_path / "run", replicates=8, chains=12, moves=6, seed=2)
    log_z = [fit.levels_of(folder / "csv", k + 1)[-1].log_evidence for k in range(8)]
    value, se = tempering.log_evidence(log_z)
    assert abs(value - row(0) - row(1)) < 4 * se
    assert se < 0.15


@pytest.mark.usefixtures("engine")
def test_the_variances_of_particles_in_the_order_of_the_program(tmp_path):
    """Arrays of matrices are not in the order of the CSV file; a bigram is an array of vectors."""
    problem = small_problem("05", n_new_tokens=0)
    drawn = prior_draws(problem, 40, np.random.default_rng(2))
    particles = problem.stage.to_stan(drawn, problem.design)
    scale = {
        name: np.exp(np.random.default_rng(3).normal(size=v.shape[1:]))
        for name, v in particles.items()
    }
    particles = {name: v * scale[name] for name, v in particles.items()}
    write_json(tmp_path / "data.json", stan_data(problem))
    write_starts(tmp_path, particles, [0])
    executable = fit.executable_of(problem.stage).path
    found = metric_of(Nuts(executable, tmp_path, "it", 1, None, 5, 1), particles)
    expected = []
    for p in problem.stage.parameters:
        variance = particles[p.name].var(axis=0, ddof=1)
        items = variance.reshape(-1, *variance.shape[-2:]) if p.item == "matrix" else [variance]
        if p.item == "matrix":
            expected += [item.ravel(order="F") for item in items]
        else:
            expected += [variance.ravel()]
    expected = np.concatenate(expected)
    np.testing.assert_allclose(found, (40 * expected + 5 * np.median(expected)) / 45)


def test_the_error_of_an_evidence_is_that_of_its_replicates(rng):
    """Also where one replicate is far above the others; the delta method says at most 1 then."""
    log_z = rng.normal(-900, 0.3, (4000, 4))
    values, errors = np.array([tempering.log_evidence(each) for each in log_z]).T
    rms = np.sqrt(np.mean(errors**2))
    assert rms == pytest.approx(values.std(), rel=0.1)
    assert values.mean() == pytest.approx(-900 + 0.3**2 / 2, abs=0.03)
    value, error = tempering.log_evidence([-900.0, -903.0])
    assert value == pytest.approx(-900 + np.log((1 + np.exp(-3)) / 2))
    assert error == pytest.approx(1.5)
    far = [tempering.log_evidence([0.0, -apart, -2 * apart])[1] for apart in (10, 20)]
    assert far == pytest.approx([20 / 3, 40 / 3], rel=0.1)


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_the_metric_of_the_particles_has_the_same_answer(tmp_path):
    problem = bigram()
    settings = {"chains": 12, "moves": 6, "metric": "particles"}
    folder = fit.smc(problem, tmp_path / "run", replicates=6, seed=4, **settings)
    log_z = [fit.levels_of(folder / "csv", k + 1)[-1].log_evidence for k in range(6)]
    value, se = tempering.log_evidence(log_z)
    counts = conjugate_bigram.transition_counts(problem.training, 12)
    assert abs(value - conjugate_bigram.log_evidence(counts, 1.0)) < 4 * se


@pytest.mark.usefixtures("engine")
def test_a_metric_of_particles_needs_parameters_without_constraints(tmp_path):
    executable = toolchain.compile_program(Path(__file__).parent / "programs" / "bounded.stan")

    def draw_prior(n, rng):
        return {"p": rng.random(n)}

    data = {"n": 7, "k": 3, "likelihood_weight": 1.0}
    run = {"replicates": 2, "chains": 6, "moves": 4, "weights": (0.3, 1.0)}
    found = sequential_monte_carlo(executable, data, draw_prior, tmp_path / "a", **run)
    assert abs(found.log_evidence + np.log(8)) < 5 * found.log_evidence_se + 0.3
    with pytest.raises(ValueError, match="needs a program whose parameters have no constraints"):
        sequential_monte_carlo(
            executable, data, draw_prior, tmp_path / "b", metric="particles", **run
        )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_masses_of_two_modes(two_modes, tmp_path, share):
    """Modes that a reflection exchanges have equal masses; others those that were put in."""
    width = [0.3, 0.3] if share == 0.5 else [0.3, 0.5]
    data = modes_data([-2.0, 2.0], width, [share, 1 - share])
    log_z, mass = exact_modes(data)
    assert share != 0.5 or mass == pytest.approx(0.5)
    found = sequential_monte_carlo(
        two_modes, data, draw_modes_prior, tmp_path, replicates=8, chains=32, moves=4, seed=4
    )
    assert abs(found.log_evidence - log_z) < 4 * found.log_evidence_se
    masses = [(draws.variables["x"][:, 0] < 0).mean() for draws in found.draws]
    assert agrees(masses, mass)
    assert np.std(masses, ddof=1) / np.sqrt(8) < 0.1


@pytest.mark.slow
def test_the_evidence_has_no_bias(two_modes, tmp_path):
    """A hundred tiny replicates at fixed levels: the mean of Z, not of log Z, is exact."""
    data = modes_data([-1.0, 1.5], [0.6, 0.8], [0.3, 0.7])
    settings = {"chains": 3, "moves": 2, "weights": (0.2, 1.0), "step_size": 0.8}
    found = sequential_monte_carlo(
        two_modes, data, draw_modes_prior, tmp_path, replicates=100, seed=9, **settings
    )
    exact, _ = exact_modes(data)
    relative = np.exp([levels[-1].log_evidence - exact for levels in found.levels])
    assert agrees(relative, 1.0)
    assert 0.1 < relative.std() < 3  # noisy enough for a bias of log Z to be seen
    assert np.log(relative).mean() < -0.02


def ideal(replicate, sample, log_z):
    """Run a replicate with a kernel that forgets everything; log of its Z over the exact one."""
    while replicate.levels[-1].likelihood_weight < 1:
        unit = replicate.next_unit()
        log_lik = sample(unit.likelihood_weight)
        replicate.levels.append(level(unit.likelihood_weight, log_lik, unit.log_evidence))
    return replicate.levels[-1].log_evidence - log_z


def level(likelihood_weight, log_lik, log_evidence=0.0):
    ancestor = np.arange(log_lik.size).reshape(log_lik.shape)
    start = np.empty(0, dtype=int)
    return Level(
        likelihood_weight, log_evidence, 1.0, 1.0, 0.8, 7, 0, 0, 0, start, ancestor, log_lik
    )


@pytest.mark.slow
def test_levels_that_another_replicate_chooses_leave_the_evidence_unbiased(tmp_path, rng):
    """Few independent particles of the conjugate bigram; the first replicate's Z is too small."""
    counts = conjugate_bigram.transition_counts(bigram().training, 12)
    data = tmp_path / "data.json"
    data.write_text('{"likelihood_weight": 1.0}')

    def sample(weight):
        share = rng.gamma(1.0 + weight * counts, size=(24, *counts.shape))
        log_prob = np.log(share / share.sum(axis=-1, keepdims=True))
        return (counts * log_prob).sum(axis=(1, 2)).reshape(6, 4)

    found = []
    settings = Settings(chains=6, moves=4)
    log_z = conjugate_bigram.log_evidence(counts, 1.0)
    for seed in range(150):
        first = Replicate(tmp_path, data, tmp_path, 1, settings, None, seed)
        other = Replicate(tmp_path, data, tmp_path, 2, settings, None, seed, leader=first)
        first.levels, other.levels = [level(0.0, sample(0.0))], [level(0.0, sample(0.0))]
        found.append([ideal(each, sample, log_z) for each in (first, other)])
        weights = [[each.likelihood_weight for each in r.levels] for r in (first, other)]
        assert weights[0] == weights[1]
    relative = np.exp(np.array(found))
    assert agrees(relative[:, 1], 1.0)
    assert relative[:, 0].mean() < 0.8  # what it is good for
    assert not agrees(relative[:, 0], 1.0)


@pytest.mark.slow
def test_exact_marginals(attention):
    idata = open_run(attention[0])
    assert family_wise_p(check_exact_marginals(idata)) >= ALPHA
    assert any("scalars" in each.text and "exact" in each.text for each in Analysis(idata).findings)


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("GPTBAYES_LONG_TESTS"),
    reason="takes a quarter of an hour: set GPTBAYES_LONG_TESTS=1",
)
@pytest.mark.parametrize("number", ["05", "12"])
def test_same_posterior_as_nuts(number, tmp_path):
    """Log probabilities of training characters, which no symmetry moves, and the log posterior."""
    problem = small_problem(number, n_new_tokens=0)
    tempered = open_run(fit.smc(problem, tmp_path / "smc", replicates=4, chains=32, moves=16))
    nuts = open_run(fit.nuts(problem, tmp_path / "nuts", chains=4, iter_sampling=1500))
    worst = []
    for group, name in (("log_likelihood", "log_lik"), ("sample_stats", "lp")):
        ours, theirs = tempered[group][name], summarise(nuts[group][name])
        assert theirs["r_hat"].max() < 1.02
        mean = ours.mean("draw")
        se = np.hypot(mean.std("chain", ddof=1) / 2, theirs["mcse_mean"])
        worst.append(float((abs(mean.mean("chain") - theirs["mean"]) / se).quantile(0.95)))
    # By the spread of four replicates: 4 standard errors of a t distribution with 3 degrees.
    assert max(worst) < student_t.isf(0.01, 3)
    assert float(r_hat(tempered.sample_stats["lp"])) < 1.1


# InferenceData


@pytest.mark.slow
def test_inference_data_has_a_chain_for_each_replicate_and_the_path(attention):
    folder, _ = attention
    idata = open_run(folder)
    again = open_run(folder)  # from the file
    assert dict(idata.posterior.sizes)["chain"] == 3
    assert idata.posterior.sizes["draw"] == 72
    for one in (idata, again):
        stats, path = one.sample_stats, one["path"]
        assert stats["segment"].values[0].tolist() == np.repeat(np.arange(12), 6).tolist()
        assert stats["ancestor"].dtype.kind == "i"
        assert 0 <= stats["ancestor"].min() <= stats["ancestor"].max() < 72
        for name in ("acceptance_rate", "step_size", "n_steps", "diverging", "lp"):
            assert stats[name].shape == (3, 72)
        for chain in range(3):
            weight = path["likelihood_weight"][chain].dropna("level").values
            assert weight[0] == 0
            assert weight[-1] == 1
            assert (np.diff(weight) > 0).all()
            last = len(weight) - 1
            total = one.log_likelihood["log_lik"][chain].sum(("sequence", "position"))
            np.testing.assert_allclose(path["log_lik"][chain, last], total, atol=1e-9)
            n = len(np.unique(stats["ancestor"][chain]))
            assert path["n_ancestors"][chain, last] == n
    assert idata.attrs["method"] == "smc"
    assert idata.attrs["target"] == "posterior"


@pytest.mark.slow
def test_levels_are_as_far_as_the_effective_sample_size_of_the_first_replicate_allows(attention):
    path = open_run(attention[0])["path"]
    first = path["ess"].values[0]
    np.testing.assert_allclose(first[1:-1], 0.5, atol=1e-6)
    assert first[-1] >= 0.5 - 1e-6
    weight = path["likelihood_weight"].values
    assert (weight == weight[0]).all()


@pytest.mark.slow
def test_energies_of_different_segments_do_not_follow_from_each_other(attention):
    """E-BFMI from the transitions of NUTS alone."""
    idata = open_run(attention[0])
    energy = idata.sample_stats["energy"].values.reshape(3, 12, 6)
    squares = np.square(np.diff(energy, axis=2)).mean(axis=(1, 2))
    expected = squares / energy.reshape(3, 72).var(axis=1, ddof=1)
    np.testing.assert_allclose(sampler_health(idata)["e_bfmi"], expected)


def test_progress_says_where_it_is(attention):
    last = attention[1][-1]
    assert [each.label for each in last] == ["replicate 1", "replicate 2", "replicate 3"]
    assert all(each.done == each.total > 3 for each in last)
    assert all("weight 1, log lik -" in each.note and "log Z -" in each.note for each in last)
    middle = attention[1][len(attention[1]) // 2]
    assert any("left" in each.note for each in middle)


@pytest.mark.slow
def test_the_time_of_a_level_and_what_of_it_is_sampling(attention):
    """The rest is processes, JSON and CSV: a loose bound, for this problem is tiny."""
    path = open_run(attention[0])["path"].isel(level=slice(1, None))
    assert (path["stan_seconds"] <= path["seconds"]).where(path["seconds"].notnull(), True).all()
    assert 0.1 < float(path["stan_seconds"].sum() / path["seconds"].sum()) < 1


# Its health


def healthy(tmp_path, **settings):
    folder = fit.smc(bigram(), tmp_path / "run", **{**TINY, **settings})
    return [finding.text for finding in warnings_of(path_findings(open_run(folder)))]


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_a_kernel_that_does_not_move_is_noticed(tmp_path):
    said = healthy(tmp_path, weights=(0.01, 0.1, 1.0), step_size=1e-6, max_treedepth=1)
    assert any("draws of a segment are nearly copies" in text for text in said)
    assert any("step size was too small" in text for text in said)


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_a_level_that_is_too_far_is_noticed(tmp_path):
    said = healthy(tmp_path, weights=(1.0,))
    assert any("levels are too far apart" in text for text in said)


@pytest.mark.slow
def test_a_step_size_that_is_wrong_by_ten_is_noticed(bigrams, tmp_path):
    right = fit.levels_of(bigrams / "csv", 1)[1].step_size
    weights = (0.01, 0.1, 1.0)
    large = healthy(tmp_path / "large", weights=weights, step_size=10 * right)
    assert any("step size was too large" in text for text in large)
    small = healthy(tmp_path / "small", weights=weights, step_size=right / 10, max_treedepth=6)
    assert any("step size was too small" in text for text in small)


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_one_ancestor_leads_the_warnings(tmp_path):
    folder = fit.smc(
        bigram(), tmp_path / "run", replicates=2, chains=2, moves=4, seed=1, step_size=0.5
    )
    findings = Analysis(open_run(folder)).findings
    assert not findings[0].ok
    assert "descend from one of 8 first particles" in findings[0].text
    assert "every replicate" in findings[0].text


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_one_replicate_has_no_error_and_says_so(tmp_path):
    said = healthy(tmp_path, replicates=1, weights=(0.1, 1.0))
    assert any(
        "one replicate: evidence and masses of modes have no standard error" in t for t in said
    )
    assert np.isnan(tempering.log_evidence([-3.0])[1])


# Going on


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_level_ends_with_the_same_numbers(tmp_path):
    settings = {**TINY, "chains": 8, "moves": 6}
    whole = fit.smc(bigram(), tmp_path / "whole", **settings)
    script = (
        "from problems import small_problem\nfrom gptbayes import fit\n"
        f"fit.smc(small_problem('01-log-gamma', n_new_tokens=0), {str(tmp_path / 'part')!r}, "
        f"**{settings!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, start_new_session=True
    )
    csv = tmp_path / "part" / "csv"
    deadline = time.monotonic() + 60
    while not (csv / "replicate-1" / "level-3.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    while not list((csv / "replicate-1").glob(".level-4-*")):  # now in the middle of level 4
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ProcessLookupError):  # its children hold its lock while they end
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.005)
    assert not (csv / "replicate-1.csv").exists()
    kept = (csv / "replicate-1" / "level-2.npz").stat().st_mtime_ns
    part = fit.smc(bigram(), tmp_path / "part", **settings)
    assert (csv / "replicate-1" / "level-2.npz").stat().st_mtime_ns == kept
    for k, (ours, theirs) in enumerate(
        zip(fit.read_draws(part), fit.read_draws(whole), strict=True)
    ):
        for name, value in ours.variables.items():
            np.testing.assert_array_equal(value, theirs.variables[name])
        levels = [fit.levels_of(folder / "csv", k + 1) for folder in (part, whole)]
        assert [a.log_evidence for a in levels[0]] == [b.log_evidence for b in levels[1]]
    assert not list(csv.glob("**/.level-*"))


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_any_executor_does(tmp_path):
    settings = {**TINY, "replicates": 1, "weights": (0.05, 1.0)}
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        folder = fit.smc(bigram(), tmp_path / "a", executor=pool, **settings)
    own = fit.smc(bigram(), tmp_path / "b", **settings)
    for ours, theirs in zip(fit.read_draws(folder), fit.read_draws(own), strict=True):
        np.testing.assert_array_equal(ours.variables["log_lik"], theirs.variables["log_lik"])


def test_units_can_be_pickled():
    values = ["level", "exe", "data", "folder", 1, False, 0.1, -3.0, 0.5, (1, 2), (0, 5), 4]
    unit = LevelUnit(*values, 0.3, None, False, 10, 7)
    assert pickle.loads(pickle.dumps(unit)) == unit


def test_more_replicates_continue_a_run_of_the_generic_sampler(two_modes, tmp_path):
    data = modes_data([-1.0, 1.0], [0.5, 0.5], [0.5, 0.5])
    settings = {"chains": 4, "moves": 2, "seed": 2, "weights": (0.3, 1.0)}
    one = sequential_monte_carlo(
        two_modes, data, draw_modes_prior, tmp_path, replicates=1, **settings
    )
    assert np.isnan(one.log_evidence_se)
    two = sequential_monte_carlo(
        two_modes, data, draw_modes_prior, tmp_path, replicates=2, **settings
    )
    np.testing.assert_array_equal(one.draws[0].variables["x"], two.draws[0].variables["x"])
    with pytest.raises(ValueError, match="holds levels of another run: moves is 2 there, 3 here"):
        sequential_monte_carlo(
            two_modes, data, draw_modes_prior, tmp_path, **{**settings, "moves": 3}
        )


# Bad input


@pytest.mark.usefixtures("engine")
def test_levels_that_do_not_end(tmp_path):
    with pytest.raises(RuntimeError, match="after 2 levels; try more moves or chains"):
        fit.smc(bigram(), tmp_path / "run", max_levels=2, **TINY)
    # What there is is kept: all levels of the replicate that reached the bound first.
    replicates = range(1, TINY["replicates"] + 1)
    assert max(len(fit.levels_of(tmp_path / "run" / "csv", k)) for k in replicates) == 3


def test_a_program_that_is_not_tempered_is_refused(two_modes, tmp_path):
    data = modes_data([-1.0, 1.0], [0.5, 0.5], [0.5, 0.5], tempered=0)
    with pytest.raises(ValueError, match="must have likelihood_weight in its data and multiply"):
        sequential_monte_carlo(two_modes, data, draw_modes_prior, tmp_path)
    del data["likelihood_weight"]
    with pytest.raises(ValueError, match="data must have likelihood_weight, got n, prior_scale"):
        sequential_monte_carlo(two_modes, data, draw_modes_prior, tmp_path)


@pytest.mark.usefixtures("engine")
def test_a_program_without_log_lik_is_refused(tmp_path):
    executable = toolchain.check().executable

    def draw_prior(n, rng):
        return {"x": rng.normal(size=n)}

    with pytest.raises(ValueError, match="log_lik"):
        sequential_monte_carlo(executable, {"likelihood_weight": 1.0}, draw_prior, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicates": 0}, "replicates must be a positive integer, got 0"),
        ({"chains": 0}, "chains must be a positive integer, got 0"),
        ({"chains": 1, "moves": 2}, "must be at least 4 particles, got 1 chains of 2"),
        ({"ess": 1.0}, "ess must be between 0 and 1, got 1.0"),
        ({"weights": (0.5, 0.2, 1.0)}, "weights must rise from above 0"),
        ({"weights": (0.5,)}, "the last of weights must be the problem's likelihood_weight"),
        ({"step_size": 0.0}, "step_size must be positive, got 0.0"),
        ({"metric": "dense_e"}, "metric must be one of prior, particles, got 'dense_e'"),
    ],
)
def test_unusable_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        fit.smc(bigram(), tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_the_prior_is_not_tempered(tmp_path):
    with pytest.raises(ValueError, match="likelihood_weight must be positive for smc, got 0"):
        fit.smc(small_problem("01", likelihood_weight=0.0), tmp_path / "run")


def test_another_configuration_is_refused(attention):
    with pytest.raises(ValueError, match=r"settings\.moves is 6 there, 7 here"):
        fit.smc(small_problem("05"), attention[0], replicates=3, chains=12, moves=7, seed=5)
    assert json.loads((attention[0] / "config.json").read_text())["method"] == "smc"


# The arithmetic


def test_next_step_keeps_the_effective_sample_size(rng):
    log_lik = rng.normal(-100, 20, size=1000)
    step = tempering.next_step(log_lik, 0.1, 1.0, 0.5)
    assert step.ess == pytest.approx(0.5, abs=1e-6)
    assert step.weights.sum() == pytest.approx(1)
    # Normal log likelihoods: 1 / ess = exp(delta² variance).
    delta = step.likelihood_weight - 0.1
    assert delta == pytest.approx(np.sqrt(np.log(2)) / log_lik.std(), rel=0.15)
    assert tempering.next_step(log_lik, 0.999, 1.0).likelihood_weight == 1.0
    impossible = np.where(np.arange(1000) < 700, -np.inf, log_lik)
    step = tempering.next_step(impossible, 0.0, 1.0)
    assert step.weights[:700].sum() == 0
    assert step.log_mean_weight < np.log(0.31)
    with pytest.raises(RuntimeError, match="the prior excludes the data"):
        tempering.next_step(np.full(5, -np.inf), 0.0, 1.0)
    with pytest.raises(RuntimeError, match="varies by 1e\\+16 nats between particles"):
        tempering.next_step(np.arange(5) * 2.5e15, 0.0, 1.0)


def test_resampling_is_in_proportion(rng):
    weights = np.array([0.1, 0.6, 0.0, 0.3])
    counts = np.bincount(tempering.resample(weights, 10, rng), minlength=4)
    assert counts.tolist() == [1, 6, 0, 3]
    many = [np.bincount(tempering.resample(weights, 3, rng), minlength=4) for _ in range(4000)]
    np.testing.assert_allclose(np.mean(many, axis=0), 3 * weights, atol=0.04)
    assert np.max(many, axis=0).tolist() == [1, 2, 0, 1]


def test_between_share_sees_chains_that_stay(rng):
    moving, still = rng.normal(size=(40, 8)), np.repeat(rng.normal(size=(40, 1)), 8, axis=1)
    assert tempering.between_share(moving) < 0.1
    assert tempering.between_share(still) == 1
    assert tempering.between_share(still + 0.1 * moving) > 0.95


def test_step_sizes_follow_acceptance():
    assert tempering.next_step_size(0.3, 0.8) == pytest.approx(0.3)
    assert tempering.next_step_size(0.3, 0.0) == pytest.approx(0.15)
    assert tempering.next_step_size(0.3, 0.2) == pytest.approx(0.15)
    assert tempering.next_step_size(0.3, 1.0) == pytest.approx(0.6)
