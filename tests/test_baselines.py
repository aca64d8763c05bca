"""Baselines of held-out text: exact counts, ensembles of modes, stacked paths."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import xarray as xr
from problems import TEXT
from scipy.special import softmax
from scipy.stats import norm

from gptbayes import predict
from gptbayes.corpus import zen_of_python
from gptbayes.fit import read_draws
from gptbayes.groups import make_groups
from gptbayes.inference import ensemble_of, open_run, problem_of
from gptbayes.model.forward import forward
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.predict.baselines import CONCENTRATIONS, _table, log_evidence
from gptbayes.predict.path_stacking import _path_loo
from gptbayes.validate.conjugate_bigram import predictive, transition_counts


@pytest.fixture(scope="module")
def problem():
    return make_problem(stage("01"), zen_of_python().lower(), block_size=5, batch_size=60)


def by_hand(problem, order, a):
    """Probability of each held-out character, given the text and its own sequence, one by one."""
    n_token = problem.design.vocab_size
    x, y = problem.training
    found = []
    for row, targets in zip(*problem.held_out, strict=True):
        log_prob = 0.0
        for t, target in enumerate(targets):
            k = min(order, t + 1)
            context = tuple(row[t + 1 - k : t + 1])
            counts = np.zeros(n_token)
            for i, s in product(range(len(x)), range(x.shape[1])):
                if s >= k - 1 and tuple(x[i, s + 1 - k : s + 1]) == context:
                    counts[y[i, s]] += 1
            for s in range(t):  # what the sequence itself has shown after contexts of that length
                if min(order, s + 1) == k and tuple(row[s + 1 - k : s + 1]) == context:
                    counts[targets[s]] += 1
            log_prob += np.log((counts[target] + a) / (counts.sum() + a * n_token))
        found.append(log_prob)
    return np.array(found)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_counts_are_those_of_a_reader_with_a_pencil(order):
    problem = make_problem(stage("01"), TEXT * 2, block_size=4, batch_size=23)
    found = predict.dirichlet_multinomial(problem, order, 0.7)
    np.testing.assert_allclose(found.log_density, by_hand(problem, order, 0.7), rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1])
def test_the_joint_density_is_a_ratio_of_evidences(problem, order):
    """p(sequence | text) = p(text, sequence) / p(text), exactly."""
    a, n_token = 0.4, problem.design.vocab_size
    found = predict.dirichlet_multinomial(problem, order, a).log_density.values
    x, y = problem.held_out
    counts = transition_counts(problem.training, n_token)
    for i in range(len(x)):
        more = counts.copy()
        np.add.at(more, (x[i], y[i]), 1)
        before, after = (c if order else c.sum(axis=0, keepdims=True) for c in (counts, more))
        exact = log_evidence(after, a) - log_evidence(before, a)
        assert found[i] == pytest.approx(exact, rel=1e-10)


def test_order_one_is_the_conjugate_bigram(problem):
    found = predict.dirichlet_multinomial(problem, 1, 1.3).probability.values
    counts = transition_counts(problem.training, problem.design.vocab_size)
    np.testing.assert_allclose(found, predictive(counts + 1.3)[problem.held_out.x], rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_concentration_has_the_largest_evidence(problem, order):
    table = _table(problem, order, None)
    best = log_evidence(table.counts, table.concentration)
    others = [log_evidence(table.counts, a) for a in np.geomspace(*CONCENTRATIONS, 60)]
    assert best >= max(others) - 1e-6


def test_more_characters_of_a_markov_text_favour_its_order(rng):
    """Text of a Markov chain of order 1: order 1 wins over 0, and 2 gains nothing."""
    chain = rng.dirichlet(np.full(6, 0.3), size=6)
    tokens = [0]
    for _ in range(6000):
        tokens.append(rng.choice(6, p=chain[tokens[-1]]))
    text = "".join("abcdef"[k] for k in tokens)
    problem = make_problem(stage("01"), text, block_size=8, batch_size=500)
    elpd = [predict.dirichlet_multinomial(problem, k).log_density.sum() for k in range(3)]
    assert elpd[1] > elpd[0] + 100
    assert elpd[1] > elpd[2]


@pytest.mark.parametrize(
    ("order", "concentration", "words"),
    [(-1, None, "order must be between 0 and 5, got -1"), (6, None, "got 6"), (1, 0.0, "positive")],
)
def test_bad_settings_are_named(problem, order, concentration, words):
    with pytest.raises(ValueError, match=words):
        predict.dirichlet_multinomial(problem, order, concentration)


def test_leave_one_out_of_a_path_is_exact_for_a_normal_mean(rng):
    """y ~ N(θ, 1) with a flat prior; a path that is too wide is corrected by its weights."""
    n, n_draw = 12, 4000
    y = rng.normal(size=n)
    scale = 1.5 / np.sqrt(n)
    theta = np.stack([rng.normal(y.mean() + shift, scale, n_draw) for shift in (0.0, 0.1)])
    log_lik = norm.logpdf(y, theta.ravel()[:, None])
    lp_approx = np.concatenate(
        [
            norm.logpdf(each, y.mean() + shift, scale)
            for each, shift in zip(theta, (0, 0.1), strict=True)
        ]
    )
    dims = ("chain", "draw")
    idata = make_groups(
        {
            "posterior": xr.Dataset({"theta": (dims, theta.reshape(1, -1))}),
            "sample_stats": xr.Dataset(
                {
                    "lp": (dims, log_lik.sum(axis=1)[None]),
                    "lp_approx": (dims, lp_approx[None]),
                    "path": (dims, np.repeat([0, 1], n_draw)[None]),
                }
            ),
            "log_likelihood": xr.Dataset(
                {"log_lik": ((*dims, "sequence", "position"), log_lik[None, ..., None])}
            ),
        },
        {"method": "pathfinder"},
    )
    weights = predict.path_weights(idata)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights.attrs["n_bad_k"] == 0
    assert weights.attrs["n_k"] == 2 * n
    found, _ = _path_loo((log_lik.sum(axis=1) - lp_approx)[:n_draw], log_lik[:n_draw])
    others = (y.sum() - y) / (n - 1)
    exact = norm.logpdf(y, others, np.sqrt(1 + 1 / (n - 1)))
    # The relative error of a weighted mean of n_draw draws, here at most some 3 / sqrt(n_draw).
    np.testing.assert_allclose(found, exact, atol=4 * 3 / np.sqrt(n_draw))


def test_paths_are_those_of_pathfinder():
    with pytest.raises(ValueError, match="needs a fit by pathfinder, got one by nuts"):
        predict.path_weights(make_groups({}, {"method": "nuts"}))


def test_the_ensemble_averages_the_modes_of_all_starts(runs):
    idata = open_run(runs["optimize"])
    ensemble, problem = ensemble_of(idata), problem_of(idata)
    p = []
    for unit in read_draws(runs["optimize"]):
        variables = {name: value[None] for name, value in unit.variables.items()}
        parameters = problem.stage.from_stan(variables, problem.design)
        p.append(softmax(forward(problem.stage, parameters, problem.held_out.x).logits, axis=-1))
    mean = np.concatenate(p).mean(axis=(0, 1))
    np.testing.assert_allclose(predict.held_out_predictive(ensemble), mean, rtol=1e-10)
    best = int(np.argmax([unit.method_variables["lp"][0] for unit in read_draws(runs["optimize"])]))
    for name, values in idata.posterior.data_vars.items():
        np.testing.assert_array_equal(values.isel(draw=0), ensemble.posterior[name].isel(draw=best))


@pytest.mark.parametrize("method", ["nuts", "pathfinder", "prior"])
def test_only_an_optimizer_has_an_ensemble(runs, method):
    assert ensemble_of(open_run(runs[method])) is None


def test_held_out_comparison_with_forecasts(runs):
    """Rows of forecasts: sums, and paired differences, by hand."""
    idata = open_run(runs["pathfinder"])
    problem = problem_of(idata)
    density = {f"order {k}": predict.dirichlet_multinomial(problem, k).log_density for k in (0, 1)}
    weights = {"stacked": predict.path_weights(idata)}
    found = predict.compare_held_out(
        {"equal": idata, "stacked": idata}, weights, forecasts=density
    ).table
    assert list(found["fit"].values) == ["equal", "stacked", "order 0", "order 1"]
    row = found.sel(fit="order 1")
    assert float(row["elpd"]) == pytest.approx(float(density["order 1"].sum()))
    own = predict.held_out_log_prob(idata).sum("position").values[0]  # (draw, sequence)
    pairs = density["order 1"].values - np.log(np.exp(own).mean(axis=0))
    assert float(row["difference"]) == pytest.approx(pairs.sum())
    assert float(row["difference_se"]) == pytest.approx(pairs.std(ddof=1) * np.sqrt(len(pairs)))
    assert np.isnan(row["mcse"])
    assert np.isnan(row["ess_weights"])
    assert float(found["ess_weights"].sel(fit="equal")) == 120
