"""Evidence and what follows from it, against the conjugate bigram's closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from problems import small_problem
from scipy.special import digamma, polygamma

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.compare.evidence import (
    Evidence,
    compare_evidence,
    counting_evidence,
    evidence_findings,
    model_evidence,
)
from gptbayes.compare.evidence_sensitivity import (
    refit_with_scale,
    scale_sensitivity,
    scale_sentences,
)
from gptbayes.compare.refit_plan import FittedRun
from gptbayes.compare.thermodynamic import discretisation_error, thermodynamic_integration
from gptbayes.findings import Finding
from gptbayes.inference import open_run
from gptbayes.model.forward import token_log_prob
from gptbayes.validate import conjugate_bigram

SETTINGS = {"chains": 16, "moves": 6, "seed": 7}


def bigram(**changes):
    return small_problem("01-log-gamma", n_new_tokens=0, **changes)


def exact_log_z(problem, weight=1.0, concentration=None):
    counts = conjugate_bigram.transition_counts(problem.training, problem.design.vocab_size)
    return conjugate_bigram.log_evidence(
        weight * counts, concentration or problem.priors.concentration
    )


@pytest.fixture(scope="module")
def conjugate(tmp_path_factory, engine):
    folder = tmp_path_factory.mktemp("evidence") / "01-log-gamma"
    return fit.smc(bigram(), folder, replicates=6, **SETTINGS)


@pytest.fixture(scope="module")
def bigram_of_normals(tmp_path_factory, engine):
    folder = tmp_path_factory.mktemp("evidence") / "01"
    return fit.smc(small_problem("01", n_new_tokens=0), folder, replicates=3, **SETTINGS)


def made_up(log_evidence, se=0.1, n_replicate=8, **changes):
    """Numbers with nothing behind them, for what follows from them."""
    nothing = dict.fromkeys(Evidence._fields, 0.0)
    replicates = xr.Dataset({"smc": ("chain", np.full(n_replicate, log_evidence))})
    numbers = {"log_evidence": log_evidence, "se": se, "n_characters": 10, "findings": []}
    numbers["replicates"] = replicates
    return Evidence(**{**nothing, **numbers, **changes})


# One fit


@pytest.mark.slow
def test_evidence_by_both_estimates(conjugate):
    found = model_evidence(open_run(conjugate))
    exact = exact_log_z(bigram())
    assert abs(found.log_evidence - exact) < 4 * found.se
    assert found.se < 0.6
    assert abs(found.thermodynamic - exact) < 4 * found.thermodynamic_se
    assert abs(found.thermodynamic_discretisation) < 0.1 * found.thermodynamic_se
    assert any("thermodynamic integration minus SMC" in f.text and f.ok for f in found.findings)
    assert found.n_characters == bigram().n_targets
    smc = found.replicates["smc"].values
    assert found.log_evidence == pytest.approx(np.log(np.exp(smc + 150).mean()) - 150)


def test_thermodynamic_integration_of_known_means():
    """Cubic means: trapezoids with the correction are exact, without it they are not."""
    weight = np.array([0.0, 0.1, 0.4, 1.0])
    path = xr.Dataset(
        {
            "likelihood_weight": (("chain", "level"), [[*weight, np.nan]]),
            "log_lik_mean": (("chain", "level"), [[*(weight**3 - 5 * weight**2), np.nan]]),
            "log_lik_var": (("chain", "level"), [[*(3 * weight**2 - 10 * weight), np.nan]]),
        }
    )
    assert float(thermodynamic_integration(path)[0]) == pytest.approx(1 / 4 - 5 / 3)
    upto = thermodynamic_integration(path, upto=0.5)
    assert float(upto[0]) == pytest.approx(0.4**4 / 4 - 5 * 0.4**3 / 3)


def exact_path(problem, weight):
    """Mean and variance of the log likelihood of the conjugate bigram, with nothing estimated."""
    counts = conjugate_bigram.transition_counts(problem.training, problem.design.vocab_size)
    n, v = counts.sum(axis=1), problem.design.vocab_size
    mean = [
        (counts * digamma(1 + b * counts)).sum() - (n * digamma(v + b * n)).sum() for b in weight
    ]
    var = [
        (counts**2 * polygamma(1, 1 + b * counts)).sum() - (n**2 * polygamma(1, v + b * n)).sum()
        for b in weight
    ]
    columns = {"likelihood_weight": weight, "log_lik_mean": mean, "log_lik_var": var}
    return xr.Dataset({name: (("chain", "level"), [list(v)]) for name, v in columns.items()})


@pytest.mark.parametrize("n_level", [5, 8, 16])
def test_discretisation_error_of_the_conjugate_bigram(n_level):
    """The integral of exact means and variances: all of its error is that of the levels."""
    weight = np.linspace(0, 1, n_level) ** 2
    path = exact_path(bigram(), weight)
    error = float(thermodynamic_integration(path)[0]) - exact_log_z(bigram())
    assert float(discretisation_error(path)[0]) == pytest.approx(error, rel=0.6)
    mean = path["log_lik_mean"].values[0]
    trapezoids = (np.diff(weight) * (mean[:-1] + mean[1:]) / 2).sum() - exact_log_z(bigram())
    assert abs(error) < 0.05 * abs(trapezoids)
    assert np.isnan(discretisation_error(path.isel(level=[0, -1]))[0])


def test_thermodynamic_integration_at_every_level(conjugate):
    """Against the closed form, within the spread of the replicates and the error of the levels."""
    problem, path = bigram(), open_run(conjugate)["path"]
    weights = path["likelihood_weight"].values[0]
    for weight in weights[2:]:
        found = thermodynamic_integration(path, upto=weight).values
        se = found.std(ddof=1) / np.sqrt(len(found))
        levels = weights[weights <= weight]
        exact = exact_log_z(problem, weight)
        error = float(thermodynamic_integration(exact_path(problem, levels))[0]) - exact
        assert abs(error) < 0.02
        assert abs(found.mean() - exact - error) < 5 * se, weight


def test_wbic_and_learning_coefficient(conjugate):
    """Of the bigram: minus the derivative of log Z at weight 1 / log n, and β² times the second."""
    problem = bigram()
    found = model_evidence(open_run(conjugate))
    beta, step = 1 / math.log(problem.n_targets), 1e-4
    low, here, high = (exact_log_z(problem, beta + k * step) for k in (-1, 0, 1))
    assert abs(found.wbic + (high - low) / (2 * step)) < 5 * found.wbic_se
    exact = beta**2 * (low - 2 * here + high) / step**2
    assert abs(found.learning_coefficient - exact) < 5 * found.learning_coefficient_se
    assert found.learning_coefficient_se < 0.3 * exact


def test_singular_fluctuation(conjugate, rng):
    idata = open_run(conjugate)
    draws = conjugate_bigram.posterior_draws(bigram(), 4000, rng)
    problem = bigram()
    log_lik = token_log_prob(problem.stage, draws, problem.training).sum(axis=-1)
    assert model_evidence(idata).singular_fluctuation == pytest.approx(
        log_lik.var(axis=0).sum() / 2, rel=0.25
    )


def test_scale_sensitivity(conjugate):
    """The derivative in the log of the concentration, and changes that are not too large."""
    problem = bigram()
    found = scale_sensitivity(open_run(conjugate), (0.95, 1.05, 5.0))
    row = found.sel(family="concentration")
    step = 1e-4
    around = [exact_log_z(problem, concentration=1 + k * step) for k in (-1, 1)]
    exact = (around[1] - around[0]) / (2 * step)
    assert abs(row["derivative"] - exact) < 5 * row["derivative_se"]
    assert row["derivative_se"] < 0.3 * abs(exact)
    for factor in (0.95, 1.05):
        change = exact_log_z(problem, concentration=factor) - exact_log_z(problem)
        one = row.sel(factor=factor)
        assert abs(one["change"] - change) < 5 * one["change_se"]
    assert row["pareto_k"].sel(factor=5.0) > 0.7
    (sentence,) = scale_sentences(found)
    assert sentence.startswith("concentration: a scale 10 % larger than 1 changes")
    assert "for 5 times it, Pareto k is above 0.64, the limit for 576 draws: refit" in sentence


@pytest.mark.usefixtures("engine")
@pytest.mark.slow
def test_refit_where_weights_do_not_reach(conjugate, capsys):
    run = FittedRun("it", conjugate, open_run(conjugate))
    idata = refit_with_scale(run, "concentration", 3.0)
    exact = exact_log_z(bigram(), concentration=3.0)
    found = model_evidence(idata)
    assert abs(found.log_evidence - exact) < 4 * found.se
    assert (conjugate / "scales" / "concentration-3" / "config.json").exists()
    assert main(["evidence", str(conjugate), "--no-scales", "--refit", "concentration=3"]) == 0
    said = capsys.readouterr().out
    assert f"3 times concentration: {found.log_evidence:.2f} ± {found.se:.2f} nats" in said
    for bad, message in (("heads=2", "--refit must name one of"), ("offset=x", "FAMILY=FACTOR")):
        assert main(["evidence", str(conjugate), "--refit", bad]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_scale_sensitivity_of_normal_priors(bigram_of_normals):
    """A bigram of normals: against importance weights with a scale a little larger."""
    found = scale_sensitivity(open_run(bigram_of_normals), (1.001,))
    assert found["family"].values.tolist() == ["token_embedding"]
    first_order = found["derivative"][0] * math.log(1.001)
    assert found["change"][0, 0] == pytest.approx(float(first_order), rel=0.1)


# Several fits


def test_compare_evidence():
    found = {"a": made_up(-10.0, 0.3), "b": made_up(-8.0, 0.4), "c": made_up(-30.0, 0.1)}
    table = compare_evidence(found)
    assert table["fit"].values.tolist() == ["b", "a", "c"]
    np.testing.assert_allclose(table["log_bayes_factor"], [0, -2, -22])
    np.testing.assert_allclose(table["log_bayes_factor_se"], [0, 0.5, np.hypot(0.4, 0.1)])
    odds = np.exp([0.0, -2.0, -22.0])
    np.testing.assert_allclose(table["probability"], odds / odds.sum())
    p = float(table["probability"][0])
    assert float(table["probability_se"][0]) == pytest.approx(p * (1 - p) * 0.5, rel=1e-3)
    assert float(table["per_character"][1]) == -1.0
    (said,) = evidence_findings(table, found)
    assert said == Finding(True, "log Bayes factor of b against a: 2.0 ± 0.5 nats")
    few = {name: made_up(each.log_evidence, each.se, 2) for name, each in found.items()}
    (said,) = evidence_findings(compare_evidence(few), few)  # of two replicates an error is rough
    assert not said.ok
    with pytest.raises(ValueError, match="at least one evidence, got none"):
        compare_evidence({})


def test_what_is_not_settled_is_said():
    found = {"a": made_up(-10.0, 0.5), "b": made_up(-10.2, 0.5, findings=[Finding(False, "bad")])}
    said = evidence_findings(compare_evidence(found), found)
    assert said[0] == Finding(False, "b: bad")
    assert not said[1].ok
    assert "which of them the text supports is not settled" in said[1].text
    alone = {"a": made_up(-10.0, np.nan), "b": made_up(-12.0, 0.5)}
    assert "of unknown error" in evidence_findings(compare_evidence(alone), alone)[0].text


def test_counting_is_the_conjugate_bigram_and_exchangeable():
    problem = bigram()
    found = counting_evidence(problem.training, problem.design.vocab_size)
    assert float(found["log_evidence"][1]) == pytest.approx(exact_log_z(problem))
    shuffled = problem.training._replace(x=problem.training.x[::-1], y=problem.training.y[::-1])
    again = counting_evidence(shuffled, problem.design.vocab_size)
    np.testing.assert_allclose(again["log_evidence"], found["log_evidence"])


def test_only_smc_of_a_posterior_has_an_evidence(runs, tmp_path):
    with pytest.raises(ValueError, match="a path is that of smc, got a fit by nuts"):
        model_evidence(open_run(runs["nuts"]))
    power = fit.smc(bigram(likelihood_weight=0.1), tmp_path / "run", replicates=1, **SETTINGS)
    with pytest.raises(ValueError, match=r"needs a fit with likelihood_weight 1, got 0\.1"):
        model_evidence(open_run(power))


# The command


@pytest.mark.slow
def test_evidence_in_a_terminal(conjugate, bigram_of_normals, tmp_path, capsys):
    out = tmp_path / "evidence.csv"
    assert main(["evidence", str(conjugate), str(bigram_of_normals), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = model_evidence(open_run(conjugate))
    assert f"{found.log_evidence:.2f} ± {found.se:.2f}" in said
    assert f"{exact_log_z(bigram()):.2f}" in said  # characters counted, order 1
    assert "Sensitivity of the log evidence of 01 to its prior scales" in said
    assert "log Bayes factor of 01" in said
    assert "LOO and held-out text assess predictions from the posterior" in said.replace("\n", " ")
    lines = out.read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("fit,")


def test_bad_input(runs, conjugate, tmp_path, capsys):
    assert main(["evidence", str(runs["nuts"])]) == 2
    assert "a path is that of smc, got a fit by nuts" in capsys.readouterr().err
    other = fit.smc(
        bigram(text="other letters than those. " * 9), tmp_path / "other", replicates=1, **SETTINGS
    )
    assert main(["evidence", str(conjugate), str(other)]) == 2
    assert "differ in their vocabulary" in capsys.readouterr().err


@pytest.mark.usefixtures("engine")
def test_fit_by_smc_in_a_terminal(tmp_path, capsys):
    arguments = ["--stage", "01-log-gamma", "--batch-size", "5", "--characters", "6", "--lower"]
    smc = ["--method", "smc", "--replicates", "2", "--chains", "6", "--moves", "4"]
    assert main(["fit", *arguments, *smc, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "log evidence of 2 replicates: standard deviation" in said
    assert "first particles" in said
