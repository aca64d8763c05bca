"""The conjugate bigram: closed forms against brute force, and everything else against them."""

from __future__ import annotations

import json
from dataclasses import replace

import cmdstanpy
import numpy as np
import pytest
import xarray as xr
from problems import small_problem
from scipy.integrate import quad
from scipy.special import digamma, entr, gammaln, log_softmax, polygamma, rel_entr, softmax
from scipy.stats import beta, multivariate_normal, spearmanr

from gptbayes import cli, fit
from gptbayes.corpus import Windows, keep_frequent, zen_of_python
from gptbayes.diagnostics.sampler import pareto_k
from gptbayes.findings import PARETO_K_LIMIT
from gptbayes.groups import make_groups, pareto_smoothed
from gptbayes.inference import open_run, problem_of
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import log_gamma_draws, prior_draws
from gptbayes.model.stages import STAGES, VARIANTS, stage
from gptbayes.model.stan_data import stan_data
from gptbayes.predict import entropy_split, loo, next_character, score_text
from gptbayes.predict.leave_one_out import psis_loo
from gptbayes.report import write_report
from gptbayes.stats.summary import summarise
from gptbayes.validate import conjugate_bigram as conjugate
from gptbayes.validate.exact_marginals import (
    ALPHA,
    check_exact_marginals,
    family_wise_p,
    known_marginals,
)

A = 0.8  # concentration: of no special meaning, unlike 1


@pytest.fixture(scope="module")
def bigram():
    """Four characters and one for all the others: V=5, T=7, B=23."""
    text = keep_frequent(zen_of_python().lower(), 4)
    scales = {"concentration": A}
    return make_problem(VARIANTS["01-log-gamma"], text, block_size=7, batch_size=23, scales=scales)


@pytest.fixture(scope="module")
def exact(bigram):
    return conjugate.closed_forms(bigram)


@pytest.fixture(scope="module")
def nuts(bigram, programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conjugate") / "nuts"
    return open_run(fit.nuts(bigram, folder, chains=4, iter_sampling=1500, seed=1))


@pytest.fixture(scope="module")
def pathfinder(bigram, programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conjugate") / "pathfinder"
    return open_run(fit.pathfinder(bigram, folder, paths=4, draws=1000, seed=1))


def independent(nuts, bigram, n_draws, rng):
    """Exact draws, dressed as a fit of four chains."""
    draws = conjugate.posterior_draws(bigram, n_draws, rng)
    logits = draws["token_embedding"].reshape(4, -1, *draws["token_embedding"].shape[1:])
    log_lik = token_log_prob(bigram.stage, {"token_embedding": logits}, bigram.training)
    dims = ("chain", "draw")
    groups = {
        "posterior": xr.Dataset({"token_embedding": ((*dims, "token", "embed"), logits)}),
        "sample_stats": xr.Dataset({"lp": (dims, log_lik.sum(axis=(2, 3)))}),
        "log_likelihood": xr.Dataset({"log_lik": ((*dims, "sequence", "position"), log_lik)}),
    }
    return make_groups(groups, nuts.attrs)


# The closed forms against brute force


def test_evidence_is_the_product_of_one_step_predictions(bigram, exact):
    seen = np.full((5, 5), A)
    total = 0.0
    for i, k in zip(bigram.training.x.ravel(), bigram.training.y.ravel(), strict=True):
        total += np.log(seen[i, k] / seen[i].sum())
        seen[i, k] += 1
    assert exact.log_evidence == pytest.approx(total, abs=1e-10)
    np.testing.assert_array_equal(exact.dirichlet, seen)
    assert conjugate.log_evidence(np.zeros((5, 5)), A) == 0


def test_evidence_by_thermodynamic_integration(bigram, exact, rng):
    """d log Z / dw is the posterior mean of the log likelihood at weight w (Neal 1993).

    The nodes are w = t³, as the integrand is steep at the prior. At each of them its exact value,
    and that of independent draws from the power posterior through the forward pass.
    """
    nodes, weights = np.polynomial.legendre.leggauss(24)
    t = (nodes + 1) / 2
    by_formula, by_draws, variance = 0.0, 0.0, 0.0
    counts = conjugate.transition_counts(bigram.training, 5)
    for w, step in zip(t**3, weights / 2 * 3 * t**2, strict=True):
        alpha = A + w * counts
        mean = digamma(alpha) - digamma(alpha.sum(axis=1, keepdims=True))
        by_formula += step * (counts * mean).sum()
        power = replace(bigram, likelihood_weight=w)
        draws = conjugate.posterior_draws(power, 400, rng)
        log_lik = token_log_prob(bigram.stage, draws, bigram.training).sum(axis=(1, 2))
        by_draws += step * log_lik.mean()
        variance += step**2 * log_lik.var(ddof=1) / len(log_lik)
    assert by_formula == pytest.approx(exact.log_evidence, abs=1e-4)
    assert abs(by_draws - exact.log_evidence) < 4 * np.sqrt(variance)
    assert np.sqrt(variance) < 0.3


def test_entropy_split_against_quadrature():
    """Two characters: a beta distribution."""
    a, b = 1.7, 0.6
    split = conjugate.entropy_split(np.array([a, b]))
    expected, _ = quad(lambda p: (entr(p) + entr(1 - p)) * beta.pdf(p, a, b), 0, 1)
    assert split.expected == pytest.approx(expected, abs=1e-8)
    assert split.total == pytest.approx(entr(a / (a + b)) + entr(b / (a + b)))
    assert split.mutual_information == pytest.approx(split.total - expected)


def test_entropy_split_against_draws(bigram, exact, rng):
    p = softmax(conjugate.posterior_draws(bigram, 20_000, rng)["token_embedding"], axis=-1)
    entropies = entr(p).sum(axis=-1)
    se = entropies.std(axis=0) / np.sqrt(len(p))
    assert (abs(entropies.mean(axis=0) - exact.entropy.expected) < 4 * se).all()
    assert (exact.entropy.mutual_information > 0).all()


def test_loo_characters_by_counting_again(bigram, exact):
    x, y = (part.ravel() for part in bigram.training)
    for at in (0, 40, 160):
        rest = Windows(np.delete(x, at), np.delete(y, at))
        again = conjugate.predictive(A + conjugate.transition_counts(rest, 5))
        left_out = exact.loo_characters.log_prob.ravel()[at]
        assert left_out == pytest.approx(np.log(again[x[at], y[at]]), abs=1e-12)


def test_loo_sequences_are_two_evidences(bigram, exact):
    counts = conjugate.transition_counts(bigram.training, 5)
    for b in (0, 11, 22):
        own = conjugate.transition_counts(Windows(*(part[b] for part in bigram.training)), 5)
        ratio = exact.log_evidence - conjugate.log_evidence(counts - own, A)
        assert exact.loo_sequences.log_prob[b] == pytest.approx(ratio, abs=1e-10)
        seen = own > 0
        k = (own[seen] / (A + counts[seen])).max()
        assert exact.loo_sequences.pareto_k[b] == pytest.approx(k)


def test_a_sequence_of_one_character_is_a_character():
    windows = Windows(np.array([[0], [0], [1]]), np.array([[1], [1], [0]]))
    one, other = (
        each(windows, 3, A)
        for each in (conjugate.leave_one_character_out, conjugate.leave_one_sequence_out)
    )
    np.testing.assert_allclose(one.log_prob.ravel(), other.log_prob)
    np.testing.assert_allclose(one.pareto_k.ravel(), other.pareto_k)


def test_exact_draws_have_the_exact_moments(bigram, exact, rng):
    logits = conjugate.posterior_draws(bigram, 20_000, rng)["token_embedding"]
    p = softmax(logits, axis=-1)
    size = exact.dirichlet.sum(axis=1, keepdims=True)
    sd = np.sqrt(exact.predictive * (1 - exact.predictive) / (size + 1))
    assert (abs(p.mean(axis=0) - exact.predictive) < 5 * sd / np.sqrt(len(p))).all()
    np.testing.assert_allclose(p.std(axis=0), sd, rtol=0.05)
    total = (logits - log_softmax(logits, axis=-1))[..., 0]
    error = total.mean(axis=0) - digamma(5 * A)
    assert (abs(error) < 5 * np.sqrt(polygamma(1, 5 * A) / len(p))).all()
    correlation = np.corrcoef(total[:, 0], p[:, 0, 0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(p))


def test_closed_forms_are_of_one_stage_only(bigram):
    with pytest.raises(ValueError, match="need the stage 01-log-gamma, got stage 01"):
        conjugate.closed_forms(small_problem("01"))
    with pytest.raises(ValueError, match=r"likelihood_weight must be 1 for closed forms, got 0\.5"):
        conjugate.closed_forms(replace(bigram, likelihood_weight=0.5))


# The variant in the house


def test_variant_is_found_by_name():
    variant = stage("01-log-gamma")
    assert variant is stage("01-bigram-log-gamma") is VARIANTS["01-log-gamma"]
    assert variant not in STAGES.values()
    assert variant.program.name == "01-bigram-log-gamma.stan"
    assert variant.program.is_file()
    with pytest.raises(ValueError, match="12, 01-log-gamma"):
        stage("01-log-gama")


@pytest.mark.parametrize("concentration", [0.05, 1.0, 7.0])
def test_prior_draws_are_logs_of_gamma_variables(bigram, rng, concentration):
    """First two moments, and those of the probabilities: Dirichlet(a, ..., a)."""
    priors = bigram.priors.replace(concentration=concentration)
    problem = replace(bigram, priors=priors)
    (parameter,) = problem.stage.parameters
    draws = prior_draws(problem, 4000, rng)["token_embedding"]
    n = draws.size
    assert np.isfinite(draws).all()
    assert abs(draws.mean() - priors.mean(parameter)) < 5 * priors.scale(parameter) / np.sqrt(n)
    kurtosis = polygamma(3, concentration) / polygamma(1, concentration) ** 2 + 3
    variance = draws.var() / priors.scale(parameter) ** 2
    assert abs(variance - 1) < 5 * np.sqrt((kurtosis - 1) / n)
    squares = (softmax(draws, axis=-1) ** 2).mean()
    assert squares == pytest.approx((concentration + 1) / (5 * (5 * concentration + 1)), rel=0.05)
    wide = prior_draws(problem, 4000, rng, overdispersion=2.0)["token_embedding"]
    assert wide.std() == pytest.approx(2 * priors.scale(parameter), rel=0.1)


def test_log_gamma_draws_do_not_underflow(rng):
    """Of gamma(0.001, 1) variables half are below 1e-300, and numpy's are 0."""
    draws = log_gamma_draws(0.001, (1000,), rng)
    assert np.isfinite(draws).all()
    assert draws.min() < -745  # the log of the smallest positive double


@pytest.mark.parametrize("kernels", ["stan", "c++"])
def test_program_and_numpy_define_the_same_posterior(
    kernels, bigram, programs, rng, tmp_path, monkeypatch
):
    """Value, and gradient in closed form: a - exp(theta) + w (n - N p)."""
    monkeypatch.chdir(tmp_path)  # CmdStan leaves a profile where it is run
    problem, w = replace(bigram, likelihood_weight=0.7), 0.7
    exe = fit.executable_of(problem.stage, kernels).path
    model = cmdstanpy.CmdStanModel(exe_file=str(exe))
    counts = conjugate.transition_counts(problem.training, 5)
    for theta in prior_draws(problem, 3, rng)["token_embedding"]:
        inits = {"token_embedding": theta}
        table = model.log_prob(inits, data=stan_data(problem), sig_figs=17)
        log_p = log_softmax(theta, axis=-1)
        value = (A * theta - np.exp(theta) + w * counts * log_p).sum()
        assert table["lp__"][0] == pytest.approx(value, rel=1e-12, abs=1e-10)
        expected = counts - counts.sum(axis=1, keepdims=True) * np.exp(log_p)
        gradient = table.filter(like="g_").to_numpy().reshape(5, 5)
        np.testing.assert_allclose(gradient, A - np.exp(theta) + w * expected, atol=1e-9)


def test_variant_survives_files_and_report(nuts, bigram, tmp_path):
    back = problem_of(nuts)
    assert (back.stage, back.priors, back.design) == (bigram.stage, bigram.priors, bigram.design)
    assert nuts.constant_data["concentration"] == A
    assert nuts.attrs["stage_name"] == "01-bigram-log-gamma"
    ours = token_log_prob(
        bigram.stage, {"token_embedding": nuts.posterior["token_embedding"].values}, bigram.training
    )
    np.testing.assert_allclose(nuts.log_likelihood["log_lik"].values, ours, atol=1e-10)
    small = fit.optimize(bigram, tmp_path / "run", starts=1)
    assert fit.read_problem(small).priors == bigram.priors
    config = json.loads((small / "config.json").read_text())
    assert config["priors"]["concentration"] == A
    words = write_report(small).read_text(encoding="utf-8")
    assert "logs of independent gamma(0.8, 1) variables" in words


def test_command_fits_the_variant(programs, tmp_path):
    arguments = ["--stage", "01-log-gamma", "--prior", "concentration=0.5", "--characters", "4"]
    method = ["--method", "pathfinder", "--paths", "1", "--draws", "10", "--batch-size", "5"]
    assert cli.main(["fit", *arguments, *method, "--out", str(tmp_path / "run")]) == 0
    config = fit.read_config(tmp_path / "run")
    assert config["stage"] == "01-log-gamma"
    assert config["priors"]["concentration"] == 0.5


def test_runs_without_concentration_are_read(nuts):
    older = nuts.copy()
    data = json.loads(nuts.attrs["stan_data"])
    del data["concentration"]
    older.attrs = {**nuts.attrs, "stage": "01", "stan_data": json.dumps(data)}
    assert problem_of(older).priors.concentration == 1


# NUTS against the closed forms


def test_nuts_predicts_exactly(nuts, bigram, exact):
    for i, character in enumerate(bigram.vocabulary.characters):
        summary = next_character(nuts, character)
        z = (summary["mean"] - exact.predictive[i]) / summary["mcse_mean"]
        assert abs(z).max() < 4


def test_nuts_splits_entropy_exactly(nuts, bigram, exact):
    split = entropy_split(nuts, bigram.vocabulary.characters)
    assert split["context"].values.tolist() == list(bigram.vocabulary.characters)
    for name, value in exact.entropy._asdict().items():
        z = (split[name] - value) / split[f"{name}_mcse"]
        assert abs(z).max() < 4, name
    assert (split["bias"] < 0.1 * split["mutual_information"]).all()
    assert (split["ess_bulk"] > 400).all()


def test_nuts_scores_every_character_exactly(nuts, bigram, exact):
    """A text through all pairs of characters: the row is that of the one before."""
    tokens = np.indices((5, 5)).reshape(2, -1).T.ravel()
    text = bigram.vocabulary.decode(tokens)
    scored = score_text(nuts, text[0], text[1:])
    before, after = tokens[:-1], tokens[1:]
    assert len(set(zip(before, after, strict=True))) == 25
    z = (scored["mean"] - exact.predictive[before, after]) / scored["mcse_mean"]
    assert abs(z).max() < 4
    for name, value in exact.entropy._asdict().items():
        z = (scored[name] - value[before]) / scored[f"{name}_mcse"]
        assert abs(z).max() < 4, name


def test_nuts_agrees_with_exact_marginals(nuts):
    names = list(known_marginals(problem_of(nuts), nuts.posterior))
    assert names == ["logsumexp of each row of logits"]
    closed_forms = check_exact_marginals(nuts)
    assert family_wise_p(closed_forms) >= ALPHA
    assert float(closed_forms["exact_sd"][0]) == pytest.approx(np.sqrt(polygamma(1, 5 * A)))
    wrong = nuts.copy()
    wrong.posterior["token_embedding"] = nuts.posterior["token_embedding"] + 0.1
    assert family_wise_p(check_exact_marginals(wrong)) < ALPHA


def test_a_character_that_is_never_read_keeps_its_prior(nuts, bigram):
    """The same draws, told of a text without the first character: known, and found wrong."""
    x = np.where(bigram.training.x == 0, 1, bigram.training.x)
    other = replace(bigram, training=Windows(x, bigram.training.y))
    known = known_marginals(other, nuts.posterior)["embeddings of unseen characters"]
    assert known.mean == pytest.approx(digamma(A))
    assert known.sd == pytest.approx(np.sqrt(polygamma(1, A)))
    assert known.draws.sizes["scalar"] == 5
    told = nuts.copy()
    told.attrs = {**nuts.attrs, "stan_data": json.dumps(stan_data(other))}
    table = check_exact_marginals(told)
    assert table["p_value"].sel(direction="embeddings of unseen characters") < 1e-6


def test_evidence_by_bridge_sampling_of_nuts(nuts, bigram, exact):
    """Stan's log posterior integrates to the evidence (Meng & Wong 1996, optimal bridge).

    One half of the draws makes a normal proposal, the other half is bridged to it. Stan's target
    lacks the constant of the prior, V² log Γ(a).
    """
    theta = nuts.posterior["token_embedding"].values.reshape(4, -1, 25)
    lp = nuts.sample_stats["lp"].values
    half = theta.shape[1] // 2
    fitted, kept, lp_kept = theta[:, :half].reshape(-1, 25), theta[:, half:], lp[:, half:]
    normal = multivariate_normal(fitted.mean(axis=0), np.cov(fitted.T))
    proposed = normal.rvs(lp_kept.size, random_state=1).reshape(-1, 5, 5)
    counts = conjugate.transition_counts(bigram.training, 5)
    target = (A * proposed - np.exp(proposed) + counts * log_softmax(proposed, -1)).sum((1, 2))
    from_normal = target - normal.logpdf(proposed.reshape(-1, 25))
    from_nuts = lp_kept - normal.logpdf(kept)
    log_z = from_normal.max()
    for _ in range(200):  # equal numbers of draws: both halves of the bridge are logistic
        top = 1 / (1 + np.exp(log_z - from_normal))
        bottom = 1 / (1 + np.exp(from_nuts - log_z))
        log_z += np.log(top.mean() / bottom.mean())
    error = summarise(xr.DataArray(bottom, dims=("chain", "draw")))["mcse_mean"] / bottom.mean()
    mcse = np.hypot(top.std() / np.sqrt(top.size) / top.mean(), float(error))
    assert abs(log_z - 25 * gammaln(A) - exact.log_evidence) < 4 * mcse
    assert mcse < 0.1


# Leave-one-out


def relative_mcse(log_lik):
    """Monte Carlo error of the log of the mean of the importance ratios (delta method)."""
    ratios = np.exp(-log_lik - (-log_lik).max(("chain", "draw")))
    summary = summarise(ratios)
    return summary["mcse_mean"] / summary["mean"]


def total_mcse(log_lik):
    """The same of the sum over all units, which keeps their dependence."""
    ratios = np.exp(-log_lik - (-log_lik).max(("chain", "draw")))
    units = [dim for dim in log_lik.dims if dim not in ("chain", "draw")]
    return float(summarise((ratios / ratios.mean(("chain", "draw"))).sum(units))["mcse_mean"])


@pytest.mark.parametrize("unit", ["character", "sequence"])
def test_psis_loo_of_nuts_against_exact_leave_one_out(nuts, exact, unit):
    """`arviz.loo` leaves out characters, `predict.loo` sequences; every k here is below 0.7."""
    log_lik = nuts.log_likelihood["log_lik"]
    if unit == "character":
        result, left_out = psis_loo(log_lik), exact.loo_characters
    else:
        result, left_out = loo(nuts), exact.loo_sequences
        log_lik = log_lik.sum("position")
    assert left_out.pareto_k.max() < PARETO_K_LIMIT
    assert result.pareto_k.max() < PARETO_K_LIMIT + 0.2  # of single estimates, see below
    z = (result.loo_i.values - left_out.log_prob) / relative_mcse(log_lik)
    assert abs(z).max() < 4.5  # of up to 161, many of them equal
    error = result.elpd_loo - left_out.log_prob.sum()
    assert abs(error) < 4 * total_mcse(log_lik)
    assert total_mcse(log_lik) < 0.5


def test_pareto_k_of_nuts_follows_theory(nuts, bigram, exact):
    """k-hat of the M largest ratios has standard error (1 + k) / √M (Zhang & Stephens 2009)."""
    _, first = np.unique(bigram.training.x * 5 + bigram.training.y, return_index=True)
    k = exact.loo_characters.pareto_k.ravel()[first]
    estimated = psis_loo(nuts.log_likelihood["log_lik"]).pareto_k.values.ravel()[first]
    largest = 3 * np.sqrt(nuts.posterior.sizes["chain"] * nuts.posterior.sizes["draw"])
    se = (1 + k) / np.sqrt(largest)
    assert (abs(estimated - k) < 4 * se).all()
    assert abs((estimated - k).mean()) < 0.03 + 4 * se.mean() / np.sqrt(len(k))
    assert spearmanr(estimated, k).statistic > 0.6


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_pareto_k_of_independent_draws_is_that_of_theory(n, rng):
    """Forty times 20,000 draws; arviz shrinks k-hat towards 1/2 by ten observations.

    What is left is the bias of a tail that is no Pareto's yet where it is cut: below 0.03.
    """
    y = np.repeat(np.arange(5), [n, 4, 6, 9, 11])[None]
    left_out = conjugate.leave_one_character_out(Windows(np.zeros_like(y), y), 5, A)
    k = left_out.pareto_k[0, 0]
    draws = rng.dirichlet(A + np.bincount(y[0]), size=(40, 20_000))[..., 0]
    k_hat = np.array([pareto_smoothed(each)[1] for each in -np.log(draws)])
    largest = np.ceil(3 * np.sqrt(20_000))
    shrunken = (largest * k + 10 * 0.5) / (largest + 10)
    se = (1 + k) / np.sqrt(largest)
    assert k_hat.std() == pytest.approx(se, rel=0.45)  # 4 standard errors of an sd of forty
    assert abs(k_hat.mean() - shrunken) < 0.03 + 4 * se / np.sqrt(40)


def test_a_bigram_of_one_sequence_only_gets_its_pareto_k(rng):
    """m times in one sequence and nowhere else: k is m / (a + m), and PSIS is in trouble.

    The larger m, the further out the tail becomes a Pareto's; k-hat comes to it from above.
    """
    for m, k, bias in ((1, 1 / 1.8, 0.03), (3, 3 / 3.8, 0.05), (6, 6 / 6.8, 0.3)):
        x = np.zeros((12, 8), dtype=int)
        y = np.ones((12, 8), dtype=int)
        y[0, :m] = 2
        left_out = conjugate.leave_one_sequence_out(Windows(x, y), 3, A)
        assert left_out.pareto_k[0] == pytest.approx(k)
        dirichlet = A + conjugate.transition_counts(Windows(x, y), 3)[0]
        p = rng.dirichlet(dirichlet, size=(40, 20_000))
        ratios = -np.log(p)[..., y[0]].sum(axis=-1)
        k_hat = np.array([pareto_smoothed(each)[1] for each in ratios])
        se = (1 + k) / np.sqrt(3 * np.sqrt(20_000))
        assert -4 * se / np.sqrt(40) < k_hat.mean() - k < bias + 4 * se / np.sqrt(40)


# Pathfinder against the closed forms


def test_pathfinder_misses_and_says_so(pathfinder, nuts, bigram, exact):
    """Predictions are near, 0.04 to 0.06 at six seeds; spread and tails are not the posterior's."""
    assert pareto_k(pathfinder)[0] > PARETO_K_LIMIT
    assert family_wise_p(check_exact_marginals(pathfinder)) < 1e-6
    errors = {
        name: abs(softmax(idata.posterior["token_embedding"].values, -1).mean((0, 1)) - wanted)
        for name, idata, wanted in (
            ("pathfinder", pathfinder, exact.predictive),
            ("nuts", nuts, exact.predictive),
        )
    }
    assert 5 * errors["nuts"].max() < errors["pathfinder"].max() < 0.1
    frequencies = np.bincount(bigram.training.x.ravel(), minlength=5) / bigram.n_targets
    q = softmax(pathfinder.posterior["token_embedding"].values, -1).mean((0, 1))
    assert frequencies @ rel_entr(exact.predictive, q).sum(axis=1) < 0.01  # nats per character
    split = entropy_split(pathfinder, bigram.vocabulary.characters)
    assert (abs(split["total"] / exact.entropy.total - 1) < 0.2).all()


def test_a_small_pareto_k_is_no_certificate_for_pathfinder(pathfinder, exact):
    """PSIS-LOO takes draws for the posterior's: too light a tail has a good k and a wrong elpd."""
    result = psis_loo(pathfinder.log_likelihood["log_lik"])
    assert result.pareto_k.max() < PARETO_K_LIMIT
    error = result.elpd_loo - exact.loo_characters.log_prob.sum()
    assert error < -3  # 5 to 8 nats too low at six seeds


# The entropy split's own arithmetic


def test_a_single_point_has_no_mutual_information(nuts, bigram):
    point = nuts.isel(chain=[0], draw=[7])
    point.attrs = nuts.attrs
    split = entropy_split(point, bigram.vocabulary.characters)
    assert (split["mutual_information"] == 0).all()
    assert (split["bias"] == 0).all()
    logits = point.posterior["token_embedding"].values[0, 0]
    np.testing.assert_allclose(split["total"], entr(softmax(logits, axis=-1)).sum(axis=-1))
    np.testing.assert_array_equal(split["total"], split["expected"])


def test_total_is_the_sum_of_its_parts_also_where_probabilities_vanish(nuts):
    idata = nuts.copy()
    logits = nuts.posterior["token_embedding"].copy()
    logits[..., 2] = -1e5  # exp underflows in every draw
    logits[:, ::2, :, 3] = -720.0  # and to a denormal number in half of them
    idata.posterior["token_embedding"] = logits
    split = entropy_split(idata, "e")
    assert np.isfinite(split.to_array()).all()
    parts = split["expected"] + split["mutual_information"]
    np.testing.assert_allclose(split["total"], parts, rtol=1e-12)
    assert split["mutual_information"].item() > 0.01


def test_bias_of_few_draws_is_corrected(nuts, bigram, exact, rng):
    """A hundred draws, sixty times: without what is added, mutual information is too low.

    Beside the divergence from the exact mean, whose expectation is the exact mutual information,
    only the error of the mean is left of the noise.
    """
    corrected, raw = [], []
    for _ in range(60):
        idata = independent(nuts, bigram, 100, rng)
        split = entropy_split(idata, bigram.vocabulary.characters[0])
        p = softmax(idata.posterior["token_embedding"].values[:, :, 0], axis=-1)
        divergence = rel_entr(p, exact.predictive[0]).sum(axis=-1).mean()
        corrected.append(split["mutual_information"].item() - divergence)
        raw.append((split["mutual_information"] - split["bias"]).item() - divergence)
    corrected, raw = np.array(corrected), np.array(raw)
    assert abs(corrected.mean()) < 4 * corrected.std(ddof=1) / np.sqrt(60)
    assert raw.mean() < -6 * raw.std(ddof=1) / np.sqrt(60)


def test_contexts_are_read_from_their_end(nuts):
    both = entropy_split(nuts, ["xe"[1:], "tte"])
    np.testing.assert_allclose(both["total"][0], both["total"][1])
    xr.testing.assert_allclose(
        entropy_split(nuts, "e").drop_vars("context"),
        both.isel(context=[0]).drop_vars("context"),
    )
    with pytest.raises(ValueError, match="at least one character"):
        entropy_split(nuts, ["e", ""])


def test_the_split_serves_stages_with_attention(runs):
    """Total against the entropy of the mean, expected against a loop over draws."""
    idata = open_run(runs["nuts"])
    split = entropy_split(idata, ["the c", "t sat"], group="posterior").isel(context=0)
    mean = next_character(idata, "the c")["mean"].values
    assert (split["total"] - split["bias"]).item() == pytest.approx(entr(mean).sum())
    assert 0 < split["mutual_information"] < split["total"] < np.log(len(mean)) + split["bias"]
    prior = entropy_split(idata, "the c", group="prior")
    assert prior["mutual_information"].item() > split["mutual_information"].item()
