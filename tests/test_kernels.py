"""The C++ body of the likelihood is the Stan body, many times faster, at every stage and size."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import cmdstanpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from densities import compiled, stan_density
from jax_gpt import gpt
from problems import UNEQUAL_PRIORS, small_problem
from scipy.stats import norm

from gptbayes import fit
from gptbayes.inference import open_run
from gptbayes.model import kernel_sources
from gptbayes.model.forward import token_log_prob
from gptbayes.model.log_density import kernel_likelihood, log_posterior
from gptbayes.model.problem import make_problem
from gptbayes.model.simulate import prior_draws
from gptbayes.model.stages import STAGES, VARIANTS, stan_folder
from gptbayes.model.stan_data import stan_data
from gptbayes.report import write_report
from gptbayes.toolchain import ToolchainError, compile_program, machine_flags
from gptbayes.validate.experiment import change_program

HERE = Path(__file__).parent
SIZES = {  # block_size T, batch_size B, n_embed C, n_head H, n_layer L
    "one sequence": (5, 1, 6, 3, 2),
    "one position": (1, 5, 6, 2, 2),
    "heads of one": (3, 2, 3, 3, 1),
    "primes": (7, 11, 10, 5, 3),
    "a full register": (4, 8, 8, 2, 2),
    "one too many for a register": (3, 17, 4, 1, 2),
    "longer than a block of sums": (13, 3, 14, 2, 1),
    "wider than the sequences are many": (2, 3, 20, 2, 1),
}


@pytest.fixture(scope="module")
def library():
    return kernel_sources.build().library


# ---- the same numbers ----


@pytest.mark.parametrize("number", [*STAGES, *VARIANTS])
def test_both_bodies_define_the_same_posterior(number, programs, rng):
    """Prime sizes, masks with zeros, scales that all differ, a weight that is not 1."""
    problem = replace(small_problem(number), likelihood_weight=0.7)
    if number in STAGES:
        problem = replace(problem, priors=UNEQUAL_PRIORS)
    for draw in each_draw(problem, 3, rng):
        agree(problem, draw)


def test_a_density_with_its_constants(programs):
    """Pathfinder wants those of the prior too, which NUTS leaves out."""
    problem = replace(small_problem("12", n_new_tokens=0), priors=UNEQUAL_PRIORS)
    stage, design = problem.stage, problem.design
    fit = compiled(problem, "kernels").pathfinder(
        data=stan_data(problem), num_paths=1, draws=5, psis_resample=False, seed=3, sig_figs=17
    )
    names = [p.name for p in stage.parameters]
    draws = stage.from_stan({name: fit.stan_variable(name) for name in names}, design)
    constants = sum(
        norm(scale=problem.priors.scale(p)).logpdf(0) * np.prod(stage.shape(p, design))
        for p in stage.parameters
    )
    lp = fit.draws()[:, fit.column_names.index("lp__")]
    np.testing.assert_allclose(lp, log_posterior(problem, draws) + constants, rtol=1e-10)


def test_weights_outside_the_priors_range(programs, rng):
    """Scores of a thousand, which a naive softmax cannot exponentiate."""
    problem = small_problem("12")
    for draw in each_draw(problem, 2, rng):
        draw["key"] = 300 * draw["key"]
        draw["query"] = 300 * draw["query"]
        log_lik = agree(problem, draw)
        assert np.isfinite(log_lik)


@pytest.mark.parametrize("number", ["06", "08", "12"])
def test_a_hidden_unit_at_exactly_zero(number, programs, rng):
    """Stan's fmax(x, 0) has slope 1 there, and so has the kernel; units below stay silent."""
    problem = small_problem(number)
    for draw in each_draw(problem, 1, rng):
        draw["feed_forward_multiplier"][..., ::2, :] = 0
        draw["feed_forward_offset"][..., ::2] = 0
        model = compiled(problem, "kernels")
        gradient = stan_density(model, problem, draw).gradient["feed_forward_offset"]
        prior = -draw["feed_forward_offset"] / problem.priors.offset**2
        assert (gradient - prior)[..., ::2].any()  # or this test would not see the kink
        agree(problem, draw)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("number", STAGES)
def test_any_size_without_stan(number, sizes, library, rng):
    """Values against numpy, gradients of a weighted sum against central differences and JAX."""
    problem = of_sizes(number, *sizes)
    (draw,) = each_draw(problem, 1, rng)
    weights = rng.normal(size=problem.training.x.shape)
    log_lik, gradient = call(library, problem, draw, weights)
    ours = {name: value[None] for name, value in draw.items()}
    ours = problem.stage.from_stan(ours, problem.design)
    np.testing.assert_allclose(
        log_lik, token_log_prob(problem.stage, ours, problem.training)[0], rtol=1e-12, atol=1e-13
    )
    along = {name: rng.normal(size=np.shape(value)) for name, value in draw.items()}
    ends = [
        (weights * call(library, problem, moved(draw, along, step), None, False).log_lik).sum()
        for step in (1e-6, -1e-6)
    ]
    slope = sum((gradient[name] * along[name]).sum() for name in draw)
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-5)
    if number in ("05", "12") or sizes == SIZES["primes"]:
        for name, theirs in jax_gradient(problem, draw, weights).items():
            noise = 1e-12 * max(1.0, np.abs(theirs).max())
            np.testing.assert_allclose(gradient[name], theirs, rtol=1e-10, atol=noise, err_msg=name)


def test_a_context_that_is_shorter_than_the_model_can_read(library, rng):
    problem = of_sizes("12", 7, 5, 6, 3, 2)
    (draw,) = each_draw(problem, 1, rng)
    short = call(library, problem, draw, length=4).log_lik
    whole = call(library, problem, draw).log_lik
    np.testing.assert_allclose(short, whole[:, :4], rtol=1e-12)


@pytest.mark.parametrize("flags", [(), ("-mavx2", "-mfma")], ids=["2 lanes", "4 lanes"])
def test_a_rounding_error_is_all_that_instructions_change(flags, library, rng):
    if flags and not have_avx2():
        pytest.skip("this machine has no AVX2")
    portable = kernel_sources.build(flags).library
    if machine_flags():
        assert portable != library
    problem = of_sizes("12", *SIZES["primes"])
    (draw,) = each_draw(problem, 1, rng)
    ours, theirs = call(library, problem, draw), call(portable, problem, draw)
    np.testing.assert_allclose(ours.log_lik, theirs.log_lik, rtol=1e-12)
    for name, gradient in theirs.gradient.items():
        noise = 1e-13 * np.abs(gradient).max()
        np.testing.assert_allclose(ours.gradient[name], gradient, rtol=1e-10, atol=noise)


def test_threads_do_not_disturb_each_other(library, rng):
    problems = [of_sizes("12", *sizes) for sizes in (SIZES["primes"], SIZES["one position"])] * 20
    draws = [next(iter(each_draw(problem, 1, rng))) for problem in problems]
    alone = [call(library, *each) for each in zip(problems, draws, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(call, [library] * len(draws), problems, draws))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.log_lik, b.log_lik)
        np.testing.assert_array_equal(a.gradient["key"], b.gradient["key"])


def test_the_sampler_makes_the_same_draws(programs, tmp_path):
    """Ten draws from the same point with the same random numbers; later ones diverge, by chaos."""
    problem = small_problem("12", n_new_tokens=0)
    draws = {}
    for bricks in ("kernels", "functions"):
        sample = compiled(problem, bricks).sample(
            data=stan_data(problem),
            chains=1,
            seed=5,
            inits=0.2,
            iter_warmup=0,
            iter_sampling=10,
            adapt_engaged=False,
            step_size=0.02,
            max_treedepth=5,
            sig_figs=17,
            output_dir=tmp_path,
            show_progress=False,
        )
        draws[bricks] = sample.draws()[:, 0]
    ours, theirs = draws["kernels"], draws["functions"]
    assert np.ptp(theirs[:, 0]) > 1  # of the log posterior: they move
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


# ---- robust ----


@pytest.fixture(scope="module")
def misused(programs):
    """A program that weights tokens, and can leave out a row of an argument."""
    built = kernel_sources.build()
    exe = compile_program(
        HERE / "kernels" / "misused.stan",
        [built.headers],
        user_header=built.headers / "02.hpp",
        object_files=[built.object_file],
    )
    return cmdstanpy.CmdStanModel(exe_file=str(exe))


def test_any_weights_of_tokens_have_the_right_gradient(misused, rng, tmp_path):
    problem = small_problem("02")
    (draw,) = each_draw(problem, 1, rng)
    weights = rng.normal(size=problem.training.x.shape)
    with chdir(tmp_path):
        table = misused.log_prob(draw, data=misuse(problem, weights=weights), sig_figs=17)
    theirs = jax_gradient(problem, draw, weights)
    columns = [c for c in table.columns if c.startswith("g_lm_head_offset")]
    np.testing.assert_allclose(
        table[columns].to_numpy()[0], theirs["lm_head_offset"], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows_left_out": 1}, r"lm_head_multiplier must be 1 of \(\d+, 6\), got one of"),
        ({"items_left_out": 2}, r"lm_head_multiplier must be 1 of \(\d+, 6\), got"),
        ({"y": 99}, r"y must be between 1 and \d+, got 99"),
        ({"sequences_left_out": 1}, r"sequences of y"),
    ],
)
def test_sizes_that_do_not_match_are_reported_by_the_sampler(
    change, message, misused, rng, tmp_path
):
    problem = small_problem("02")
    data = misuse(problem, **change)
    with pytest.raises(RuntimeError):
        misused.sample(data=data, chains=1, iter_sampling=1, output_dir=tmp_path, refresh=1)
    said = "".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert re.search(message, said), said


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), machine_flags()], ids=["portable", "this machine's"])
def test_no_memory_error_and_no_undefined_behaviour(flags, tmp_path):
    """All stages and odd sizes, every array as long as it must be, under two sanitizers."""
    if flags == () and not machine_flags():
        pytest.skip("this compiler knows no flags for this machine")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    folder = kernel_sources.build().headers
    sources = [str(HERE / "kernels" / "sanitized.cpp"), str(folder / "gpt.cpp")]
    command = ["g++", "-std=c++17", "-O1", "-g", "-w", *flags, *sanitizers, f"-I{folder}"]
    exe = tmp_path / "sanitized"
    subprocess.run([*command, *sources, "-o", str(exe)], check=True)
    done = subprocess.run([str(exe)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 stages" in done.stdout


# ---- which one runs ----


def test_a_run_says_which_it_used_and_goes_on_with_it(programs, tmp_path):
    problem = small_problem("02")
    options = {"paths": 1, "draws": 5}
    run = fit.pathfinder(problem, tmp_path / "run", kernels="stan", **options)
    assert fit.read_config(run)["kernels"] == "stan"
    assert fit.pathfinder(problem, run, **options) == run  # "auto" is what it began with
    assert fit.read_config(run)["kernels"] == "stan"
    with pytest.raises(ValueError, match=r"kernels is 'stan' there, 'c\+\+' here"):
        fit.pathfinder(problem, run, kernels="c++", **options)
    other = fit.pathfinder(problem, tmp_path / "other", **options)
    assert open_run(other).attrs["kernels"] == "c++"
    assert "analytic gradient" in write_report(other).read_text()


def test_a_changed_program_is_never_replaced_by_the_kernel(tmp_path):
    changed = change_program(
        STAGES["04"], tmp_path, "functions/attention.stanfunctions", "/ sqrt(cols(q))", ""
    )
    with pytest.raises(ValueError, match="kernels must be stan for a changed program"):
        fit.executable_of(changed, "c++")
    with pytest.raises(ValueError, match=r"kernels must be one of auto, stan, c\+\+, got 'fast'"):
        fit.executable_of(STAGES["04"], "fast")


def test_without_a_compiled_kernel_plain_stan_runs(programs, tmp_path, monkeypatch, caplog):
    broken = tmp_path / "stan"
    shutil.copytree(stan_folder(), broken)
    (broken / "kernels" / "gpt.cpp").write_text("this is no C++")
    monkeypatch.setattr(kernel_sources, "stan_folder", lambda: broken)
    assert fit.executable_of(STAGES["02"]).kernels == "stan"
    assert "computed by plain Stan instead" in caplog.text
    with pytest.raises(ToolchainError, match=r"compiling the kernels failed: .*gpt\.cpp.*error"):
        fit.executable_of(STAGES["02"], "c++")


def test_instructions_of_the_machine_can_be_switched_off(monkeypatch):
    flags = machine_flags()
    monkeypatch.setenv("GPTBAYES_NATIVE", "0")
    assert machine_flags() == ()
    if flags:
        assert kernel_sources.build() != kernel_sources.build(flags)


# ---- helpers ----


def call(library, problem, draw, weights=None, with_gradient=True, length=None):
    likelihood = kernel_likelihood(problem, library, length=length)
    return likelihood(draw, weights, with_gradient)


def have_avx2():
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and {"avx2", "fma"} <= set(cpu.read_text().split())


def each_draw(problem, count, rng):
    stan = problem.stage.to_stan(prior_draws(problem, count, rng), problem.design)
    for i in range(count):
        yield {name: draws[i].copy() for name, draws in stan.items()}


def agree(problem, draw):
    """Compare both programs at one draw; the value, to which they agree."""
    ours = stan_density(compiled(problem, "kernels"), problem, draw)
    theirs = stan_density(compiled(problem), problem, draw)
    assert ours.value == pytest.approx(theirs.value, rel=1e-12, abs=1e-12)
    for name, gradient in theirs.gradient.items():
        noise = 1e-13 * np.abs(gradient).max()
        np.testing.assert_allclose(
            ours.gradient[name], gradient, rtol=1e-10, atol=noise, err_msg=name
        )
    return theirs.value


def of_sizes(number, block_size, batch_size, n_embed, n_head, n_layer):
    return make_problem(
        STAGES[number],
        "the cat sat on the mat, that cat. " * 20,
        block_size=block_size,
        batch_size=batch_size,
        **STAGES[number].applicable(n_embed=n_embed, n_head=n_head, n_layer=n_layer, dropout=0.3),
    )


def moved(draw, along, step):
    return {name: value + step * along[name] for name, value in draw.items()}


def jax_gradient(problem, draw, weights):
    """Of the weighted sum of log likelihoods, by another program and another way."""
    data, number = stan_data(problem), int(problem.stage.number)
    x, y = (jnp.asarray(data[name]) - 1 for name in ("x", "y"))
    names = ("attention_mask", "attention_output_mask", "feed_forward_mask")
    masks = [jnp.asarray(data[name]) for name in names] if number >= 11 else None

    def weighted(parameters):
        logits = jax.vmap(lambda tokens: gpt(number, parameters, masks, tokens))(x)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], axis=-1)
        return (weights * log_p[..., 0]).sum()

    found = jax.grad(weighted)(draw)
    return {name: np.asarray(value) for name, value in found.items()}


def misuse(problem, weights=None, **changes):
    data = stan_data(problem)
    y = np.array(data["y"])
    if "y" in changes:
        y[0, 0] = changes.pop("y")
    none = {"rows_left_out": 0, "items_left_out": 0, "sequences_left_out": 0}
    names = ("vocab_size", "block_size", "batch_size", "n_embed", "x")
    weights = np.ones_like(y, float) if weights is None else weights
    return {**{n: data[n] for n in names}, "y": y, "weights": weights, **none, **changes}
