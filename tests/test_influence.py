"""Influence against exact answers: a normal mean, a conjugate bigram, importance sampling."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from drawn import attrs_of
from problems import small_problem

from gptbayes import fit
from gptbayes.attention.roles import role_draws
from gptbayes.cli import main
from gptbayes.compare.refits import without_sequence
from gptbayes.corpus import keep_frequent, zen_of_python
from gptbayes.diagnostics.sensitivity import prior_sensitivity
from gptbayes.groups import make_groups
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.forward import attention_of, token_log_prob
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import VARIANTS
from gptbayes.predict import (
    because,
    because_sentences,
    compare_with_refits,
    influence,
    influence_finding,
)
from gptbayes.predict.context_probabilities import next_probabilities
from gptbayes.validate import conjugate_bigram as conjugate

Y = np.array([-2.0, 0.1, 0.4, 1.5, 3.0, -0.7])
PRIOR_PRECISION = 0.25


@pytest.fixture(scope="module")
def bigram():
    """A problem of the conjugate bigram and exact draws of its posterior: V=7, T=7, B=23."""
    text = keep_frequent(zen_of_python().lower(), 6)
    stage, scales = VARIANTS["01-log-gamma"], {"concentration": 0.8}
    problem = make_problem(stage, text, block_size=7, batch_size=23, scales=scales)
    draws = conjugate.posterior_draws(problem, 8000, np.random.default_rng(1))
    logits = draws["token_embedding"].reshape(4, -1, *draws["token_embedding"].shape[1:])
    log_lik = token_log_prob(stage, {"token_embedding": logits}, problem.training)
    dims = ("chain", "draw")
    groups = {
        "posterior": xr.Dataset({"token_embedding": ((*dims, "token", "embed"), logits)}),
        "log_likelihood": xr.Dataset({"log_lik": ((*dims, "sequence", "position"), log_lik)}),
    }
    return problem, make_groups(groups, attrs_of(problem))


def exact_changes(problem, context, character):
    """The posterior mean of a probability without each sequence, less that with all."""
    row, column = (int(problem.vocabulary.encode(c)[0]) for c in (context, character))
    n, a = problem.design.vocab_size, problem.priors.concentration
    counts = np.zeros((len(problem.training.x), n, n))
    for i, (x, y) in enumerate(zip(problem.training.x, problem.training.y, strict=True)):
        np.add.at(counts[i], (x, y), 1)
    whole = a + counts.sum(axis=0)
    without = whole - counts
    return (
        without[:, row, column] / without[:, row].sum(axis=1)
        - whole[row, column] / whole[row].sum()
    )


def normal_mean(rng, chains=4, draws=4000):
    """Independent draws of the mean of a normal distribution, precision 1, prior precision 1/4."""
    precision = len(Y) + PRIOR_PRECISION
    theta = rng.normal(Y.sum() / precision, precision**-0.5, size=(chains, draws))
    theta = xr.DataArray(theta, dims=("chain", "draw"))
    log_lik = -0.5 * (xr.DataArray(Y, dims="observation") - theta) ** 2
    groups = {"posterior": {"theta": theta}, "log_likelihood": {"y": log_lik}}
    return make_groups({name: xr.Dataset(each) for name, each in groups.items()})


def test_a_normal_mean(rng):
    """dE/dw_i = (y_i - E) / precision, and the mean without i, both in closed form."""
    precision = len(Y) + PRIOR_PRECISION
    mean = Y.sum() / precision
    found = influence(normal_mean(rng), lambda posterior: posterior["theta"])
    z = (found["influence"] - (Y - mean) / precision) / found["mcse"]
    assert abs(z).max() < 4 and found["mcse"].max() < 0.01
    without = (Y.sum() - Y) / (precision - 1) - mean
    np.testing.assert_allclose(found["left_out"], without, atol=0.02)
    total = Y.sum() / precision - Y.sum() * len(Y) / precision**2
    assert abs(found.attrs["total"] - total) < 4 * found.attrs["total_mcse"]
    assert found.attrs["total"] == pytest.approx(float(found["influence"].sum()))
    assert influence_finding(found).ok


def test_the_sum_is_the_slope_of_power_scaling(rng):
    """By importance weights for powers 0.99 and 1.01 of the whole likelihood."""
    idata = normal_mean(rng)
    found = influence(idata, idata.posterior["theta"])
    theta = idata.posterior["theta"].values.ravel()
    log_lik = idata.log_likelihood["y"].sum("observation").values.ravel()
    means = []
    for change in (-0.01, 0.01):
        weights = np.exp(change * (log_lik - log_lik.max()))
        means.append((weights * theta).sum() / weights.sum())
    slope = (means[1] - means[0]) / 0.02
    assert slope == pytest.approx(found.attrs["total"], rel=1e-3)


def test_exact_refits_of_a_bigram(bigram):
    """Leaving out each training sequence of a conjugate bigram, in closed form."""
    problem, idata = bigram
    context, character = "t", " "
    found = because(idata, context, character)
    refitted = xr.DataArray(exact_changes(problem, context, character), dims="sequence")
    table = compare_with_refits(found, refitted)
    first = table.sel(estimate="first order")
    assert abs(float(first["slope"]) - 1) < 4 * float(first["slope_se"]) + 0.2
    assert float(first["rank_correlation"]) > 0.7
    assert 0 < float(first["slope_se"]) < 0.3
    moved = abs(refitted.values) > 0.3 * abs(refitted.values).max()
    signs = np.sign(-found["influence"].values[moved]) == np.sign(refitted.values[moved])
    assert signs.all()
    second = table.sel(estimate="importance sampling")
    assert float(second["rank_correlation"]) > 0.7
    top = because_sentences(found)[0]
    assert top.startswith("raised by “") and "t␣" in top.split("”")[0]
    assert len(found["text"].values[0]) == problem.design.block_size + 1


def test_refits_of_several_quantities(rng):
    """Mean and square of a normal mean: one slope for both, errors by resampled observations."""
    precision = len(Y) + PRIOR_PRECISION
    mean, without = Y.sum() / precision, (Y.sum() - Y) / (precision - 1)
    change = without**2 - mean**2 + 1 / (precision - 1) - 1 / precision
    exact = xr.DataArray([without - mean, change], dims=("quantity", "observation")).T
    idata = normal_mean(rng)
    theta = idata.posterior["theta"]
    found = xr.concat([influence(idata, q) for q in (theta, theta**2)], "quantity")
    table = compare_with_refits(found, exact)
    second = table.sel(estimate="importance sampling")
    assert float(second["slope"]) == pytest.approx(1, abs=0.1)
    assert float(second["rank_correlation"]) > 0.95
    x = -found["influence"].values.T
    slope = float(table["slope"].sel(estimate="first order"))
    assert slope == pytest.approx((x * exact.values).sum() / (x**2).sum())
    left = [np.delete(np.arange(len(Y)), i) for i in range(len(Y))]
    each = [(x[i] * exact.values[i]).sum() / (x[i] ** 2).sum() for i in left]
    jackknife = np.sqrt((len(Y) - 1) * np.var(each))
    assert 0.3 * jackknife < float(table["slope_se"].sel(estimate="first order")) < 3 * jackknife


@pytest.fixture(scope="module")
def fitted(programs, tmp_path_factory):
    """A fit of stage 02, and the folder for refits."""
    problem = small_problem("02")
    folder = tmp_path_factory.mktemp("influence")
    settings = {"chains": 4, "iter_warmup": 500, "iter_sampling": 1000}
    return (
        problem,
        open_run(fit.nuts(problem, folder / "all", seed=1, **settings)),
        folder,
        settings,
    )


def test_exact_refits_of_a_stage(fitted):
    """Six of eleven sequences left out by NUTS; errors of the refits are in the tolerance."""
    problem, idata, folder, settings = fitted
    found = because(idata, "the c", "a")
    token = int(problem.vocabulary.encode("a")[0])
    context = [problem.vocabulary.encode("the c")]
    changes = np.full(len(problem.training.x), np.nan)
    for i in range(0, 11, 2):
        reduced = without_sequence(problem, i)
        refit = open_run(fit.nuts(reduced, folder / str(i), seed=i + 2, **settings))
        p = next_probabilities(reduced, parameters_of(refit), context)
        changes[i] = float(p.isel(context=0, token=token).mean()) - found.attrs["mean"]
    table = compare_with_refits(found, xr.DataArray(changes, dims="sequence"))
    for estimate in ("first order", "importance sampling"):
        row = table.sel(estimate=estimate)
        assert float(row["rank_correlation"]) > 0.5
        assert 0.3 < float(row["slope"]) < 2.5


def test_the_sum_is_the_shift_of_prior_sensitivity(fitted):
    """The same covariance, in other units, as power-scaling reports it."""
    _, idata, _, _ = fitted
    quantity = idata.log_likelihood["log_lik"].mean(("sequence", "position"))
    found = influence(idata, quantity)
    shift = prior_sensitivity(idata, {"log probability": quantity})["shift"]
    wanted = float(shift.sel(component="likelihood", quantity="log probability"))
    assert np.log(2) * found.attrs["total"] / float(quantity.std(ddof=1)) == pytest.approx(
        wanted, rel=2e-3
    )


def test_of_attention_weights_and_of_the_role_of_a_head(nuts):
    """Which sequences they rest on: the derivative, by importance weights for one sequence."""
    problem, parameters = problem_of(nuts), parameters_of(nuts)
    contexts = problem.held_out.x[:4]
    weights = attention_of(problem.stage, parameters, contexts[:1])
    to_itself = weights[:, :, 0, :, 0, -1, -1].max(axis=2)  # of the head with most, in any order
    role = role_draws(nuts, contexts).sel(role="current token").max(("layer", "head"))
    log_lik = nuts.log_likelihood["log_lik"].sum("position").values
    for quantity in (
        xr.DataArray(to_itself, dims=("chain", "draw")),
        role.drop_vars("role"),
    ):
        found = influence(nuts, quantity)
        for i in (0, 5):
            change = 0.01 * log_lik[..., i]
            means = [
                (np.exp(sign * change) * quantity.values).sum() / np.exp(sign * change).sum()
                for sign in (-1, 1)
            ]
            slope = (means[1] - means[0]) / 0.02
            assert slope == pytest.approx(float(found["influence"][i]), rel=0.01, abs=1e-5)


def test_the_command_says_why(fitted, capsys):
    _, _, folder, _ = fitted
    arguments = ["text", str(folder / "all"), "--prompt", "the c", "--because", "a", "--texts", "1"]
    assert main([*arguments, "--length", "5"]) == 0
    printed = capsys.readouterr().out
    assert "Why “a” after “the␣c”?" in printed
    assert "raised by “" in printed and "per unit of weight" in printed
    assert main([*arguments[:4], "--because", "xy"]) == 2
    assert "because needs one character, got 'xy'" in capsys.readouterr().err


def test_bad_input_is_named(rng):
    idata = normal_mean(rng, 2, 20)
    theta = idata.posterior["theta"]
    with pytest.raises(ValueError, match="needs a group log_likelihood"):
        influence(make_groups({"posterior": theta.to_dataset()}), theta)
    with pytest.raises(ValueError, match="log_likelihood must be one of y, got 'z'"):
        influence(idata, theta, log_likelihood="z")
    with pytest.raises(ValueError, match="unit must be one of observation, got 'x'"):
        influence(idata, theta, unit="x")
    with pytest.raises(ValueError, match="dims chain and draw, got"):
        influence(idata, theta.mean("draw"))
    with pytest.raises(ValueError, match="quantity must be finite"):
        influence(idata, theta.where(theta > 100))
    few = {n: idata[n].isel(draw=slice(3)) for n in ("posterior", "log_likelihood")}
    few = make_groups({n: xr.Dataset(dict(each)) for n, each in few.items()})
    with pytest.raises(ValueError, match="at least 4 draws, got 3"):
        influence(few, few.posterior["theta"])
    with pytest.raises(ValueError, match="at least three refits, got 0"):
        found = influence(idata, theta)
        compare_with_refits(found, xr.full_like(found["influence"], np.nan))


def test_a_character_must_be_one_of_the_vocabulary(bigram):
    _, idata = bigram
    with pytest.raises(ValueError, match="because needs one character, got 'th'"):
        because(idata, "t", "th")
    with pytest.raises(ValueError, match="☃"):
        because(idata, "t", "☃")
