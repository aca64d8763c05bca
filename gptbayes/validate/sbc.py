"""Simulation-based calibration of the whole way from a prior to a posterior.

Weights are drawn from the prior and write a text, the text is fitted by `gptbayes.fit`, and the
weights that wrote it are ranked among the posterior's draws. If programs, sampler and conversion
are all right, every rank is equally likely (Talts et al. 2018), and also that of quantities which
depend on the text, such as its likelihood (Modrák et al. 2023). Weights themselves are not ranked:
a sampler need not visit all of their orbits. What they predict, and directions without data, are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Executor, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.special import log_softmax

from gptbayes import fit
from gptbayes.corpus import Vocabulary, Windows
from gptbayes.fit.directory import write_json
from gptbayes.inference import convert
from gptbayes.model.forward import forward, token_log_prob
from gptbayes.model.problem import Design, Priors, Problem, draw_masks
from gptbayes.model.simulate import generate_windows, log_prior, prior_draws
from gptbayes.model.stages import Stage, stage, stan_folder
from gptbayes.stats.summary import ess
from gptbayes.validate.exact_marginals import exact_directions

TIE = 1e-9
"""Values that are relatively closer than that are the same but for rounding."""
N_CONTEXTS = 2
MAX_TREEDEPTH = 10


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is simulated, what is fitted to it, and how.

    Attributes
    ----------
    truth : Problem
        Draws the weights and writes the text; its own windows are not looked at. See
        `toy_problem`.
    fitted : Problem, optional
        What Stan is told, the text apart; the truth by default. Another program or other priors
        are an error that calibration has to find.
    n_ranked : int
        Posterior draws that each true value is ranked among, L.
    iter_warmup, iter_sampling : int
        Of one chain of NUTS.
    max_doublings : int
        A chain whose effective sample size is below ``n_ranked``, for any of the quantities, is
        made twice as long, at most so many times.
    init, adapt_delta
        As for `gptbayes.fit.nuts`.

    Raises
    ------
    ValueError
        If truth and fitted are not of the same stage and sizes, or a number is unusable.
    """

    truth: Problem
    fitted: Problem | None = None
    n_ranked: int = 31
    iter_warmup: int = 200
    iter_sampling: int = 160
    max_doublings: int = 3
    init: str = "pathfinder"
    adapt_delta: float = 0.8

    def __post_init__(self):
        if self.fitted is None:
            object.__setattr__(self, "fitted", self.truth)
        there, wanted = (
            (each.stage.number, *asdict(each.design).values()) for each in (self.fitted, self.truth)
        )
        if there != wanted:
            raise ValueError(
                f"fitted must have the stage and the sizes of truth, {wanted}, got {there}"
            )
        if self.n_ranked < 1 or self.max_doublings < 0:
            raise ValueError(
                "n_ranked must be at least 1 and max_doublings at least 0, "
                f"got {self.n_ranked} and {self.max_doublings}"
            )
        if self.iter_sampling < self.n_ranked:
            raise ValueError(
                f"iter_sampling must be at least n_ranked = {self.n_ranked}, "
                f"got {self.iter_sampling}"
            )


@dataclass(frozen=True, eq=False)
class Replicate:
    """The unit of work: one text, one fit, one rank for each quantity.

    Attributes
    ----------
    experiment : Experiment
    index : int
        Which replicate; with ``seed`` it decides everything that is random.
    seed : int
    result : str
        Path of the JSON file that is made.
    """

    experiment: Experiment
    index: int
    seed: int
    result: str


def toy_problem(
    number: str | int,
    *,
    vocab_size: int = 4,
    block_size: int = 4,
    batch_size: int = 8,
    n_embed: int = 4,
    n_head: int = 2,
    n_layer: int = 2,
    dropout: float = 0.2,
    mask_seed: int = 1,
    scales: Mapping[str, float] | None = None,
) -> Problem:
    """A problem of toy size without a text, to be calibrated.

    Parameters
    ----------
    number : str or int
        Of the stage.
    vocab_size, block_size, batch_size, n_embed, n_head, n_layer : int
        As in `gptbayes.model.problem.Design`.
    dropout, mask_seed
        Of the masks of stages 11 and 12: every replicate has the same.
    scales : mapping of str to float, optional
        Prior scales that differ from the default.

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        For an unknown stage or unusable sizes and scales.
    """
    if not 2 <= vocab_size <= 26:
        raise ValueError(f"vocab_size must be from 2 to 26, got {vocab_size}")
    design = Design(vocab_size, block_size, batch_size, n_embed, n_head, n_layer)
    climbed = stage(number)
    if "dropout" in climbed.features:
        masks = draw_masks(climbed, design, dropout, np.random.default_rng(mask_seed))
        climbed = replace(climbed, masks=masks)
    blank = np.zeros((batch_size, block_size), dtype=np.int64)
    return Problem(
        stage=climbed,
        design=design,
        priors=Priors.default(climbed, design).replace(**(scales or {})),
        vocabulary=Vocabulary(tuple("abcdefghijklmnopqrstuvwxyz"[:vocab_size])),
        training=Windows(blank, blank),
        held_out=Windows(blank[:1], blank[:1]),
        source="written by a draw from the prior",
    )


def change_program(original: Stage, folder: str | Path, file: str, old: str, new: str) -> Stage:
    """A stage whose Stan program is wrong on purpose, to see whether calibration finds it.

    Parameters
    ----------
    original : Stage
    folder : path
        Gets a copy of all Stan programs.
    file : str
        The file to change, such as ``functions/attention.stanfunctions``.
    old, new : str
        What is in the file exactly once, and what to write there instead.

    Returns
    -------
    Stage

    Raises
    ------
    ValueError
        If ``old`` is not in the file, or more than once.
    """
    text = (stan_folder() / file).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{old!r} must be in {file} exactly once, got {text.count(old)} times")
    shutil.copytree(stan_folder(), folder, dirs_exist_ok=True)
    (Path(folder) / file).write_text(text.replace(old, new), encoding="utf-8")
    return replace(original, folder=Path(folder))


def calibrate(
    experiment: Experiment,
    out: str | Path,
    *,
    replicates: int,
    seed: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[list[fit.Progress]], None] | None = None,
) -> xr.Dataset:
    """Run the replicates of an experiment that are missing, and collect the ranks of all.

    Parameters
    ----------
    experiment : Experiment
    out : path
        A folder with one small JSON file for each replicate; those that are there are not run
        again, and more can be added later.
    replicates : int
    seed : int
        Two experiments with one seed and one truth see the same weights and texts.
    executor : concurrent.futures.Executor, optional
        Runs the replicates; a pool of processes, one for each core, by default.
    on_progress : callable, optional
        Called now and then with how many are done.

    Returns
    -------
    Dataset (replicate, quantity)
        ``rank`` and ``ess`` (replicate, quantity); ``n_draws``, ``divergences``,
        ``max_treedepth_hits``, ``seconds`` and ``init`` (replicate), which is "random" where
        Pathfinder failed to find a start. For `gptbayes.stats.uniformity.uniformity_test`.

    Raises
    ------
    ValueError
        If ``out`` holds another experiment or a corrupted result, or a setting is unusable.
    RuntimeError
        If a fit fails. Finished replicates are kept.
    """
    if not isinstance(replicates, int) or replicates < 1:
        raise ValueError(f"replicates must be a positive integer, got {replicates!r}")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer between 0 and 2**32 - 1, got {seed!r}")
    out = Path(out)
    _same_experiment(out, _description(experiment, seed))
    units = [
        Replicate(experiment, k, seed, str(out / f"replicate-{k:04d}.json"))
        for k in range(1, replicates + 1)
    ]
    missing = [unit for unit in units if not Path(unit.result).exists()]
    if missing:
        fit.executable_of(experiment.fitted.stage)  # compiled once here, and not by each of them
        if executor is not None:
            _run(missing, len(units), executor, on_progress, out.name)
        else:
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                _run(missing, len(units), pool, on_progress, out.name)
    return _collected([_read(Path(unit.result)) for unit in units], experiment.n_ranked)


def run_replicate(unit: Replicate) -> None:
    """Draw weights, let them write a text, fit it, and write the ranks to a file."""
    began = time.perf_counter()
    experiment = unit.experiment
    rng = np.random.default_rng([unit.seed, int(experiment.truth.stage.number), unit.index])
    weights = {name: draw[0] for name, draw in prior_draws(experiment.truth, 1, rng).items()}
    text = generate_windows(experiment.truth, weights, rng)
    truth = replace(experiment.truth, training=text)
    fitted = replace(experiment.fitted, training=text)
    idata = _long_enough(experiment, truth, fitted, int(rng.integers(2**32)))
    stats = idata.sample_stats
    draws = ranked_quantities(truth, idata.posterior)
    true_value = ranked_quantities(truth, _as_posterior(truth, weights))
    names = [str(name) for name in draws["quantity"].values]
    ranks = _ranks(true_value.values[0, 0], draws.values[0], experiment.n_ranked, rng)
    sizes = ess(draws)["ess_bulk"].values
    result = {
        "rank": dict(zip(names, ranks.tolist(), strict=True)),
        "ess": dict(zip(names, np.round(sizes, 1).tolist(), strict=True)),
        "n_draws": draws.sizes["draw"],
        "divergences": int(stats["diverging"].sum()),
        "max_treedepth_hits": int((stats["tree_depth"] >= MAX_TREEDEPTH).sum()),
        "init": json.loads(idata.attrs["settings"])["init"],
        "seconds": round(time.perf_counter() - began, 3),
    }
    write_json(Path(unit.result), result)


def ranked_quantities(problem: Problem, posterior: xr.Dataset) -> xr.DataArray:
    """Functions of the weights whose ranks calibration looks at.

    Parameters
    ----------
    problem : Problem
        With the text that was fitted.
    posterior : Dataset (chain, draw, ...)
        Every parameter, with the dims of `gptbayes.model.stages.Parameter`.

    Returns
    -------
    DataArray (chain, draw, quantity)
        Log likelihood of the text, log prior (less a constant) and log probabilities of the
        next character at two fixed contexts, in nats; at the first context, attention of the last
        position to itself and the sum of its squared weights, both means over heads and layers;
        and the first scalar of each kind that has a known prior marginal or a uniform
        orientation, see `gptbayes.validate.exact_marginals`.
    """
    dims = ("chain", "draw")
    weights = {name: v.transpose(*dims, ...).values for name, v in posterior.data_vars.items()}
    log_lik = token_log_prob(problem.stage, weights, problem.training).sum(axis=(-2, -1))
    found = {"log likelihood": log_lik, "log prior": log_prior(problem, weights)}
    found |= _predictions(problem, weights)
    for name, known in exact_directions(problem, posterior).items():
        if np.isfinite(known.sd) and "unseen" not in name:  # those are not the same in every text
            found[name] = known.draws.values[..., 0]
    columns = np.stack([found[name] for name in found], axis=-1)
    return xr.DataArray(columns, dims=(*dims, "quantity"), coords={"quantity": list(found)})


def _predictions(problem, weights):
    n_token, n_position = problem.design.vocab_size, problem.design.block_size
    contexts = (np.arange(n_position) + np.arange(N_CONTEXTS)[:, None]) % n_token
    logits, attention = forward(problem.stage, weights, contexts)
    log_probs = log_softmax(logits[..., -1, :], axis=-1)  # (chain, draw, sequence, token)
    characters = problem.vocabulary.characters
    found = {
        f"log p({characters[0]} | {problem.vocabulary.decode(context)})": log_probs[..., k, 0]
        for k, context in enumerate(contexts)
    }
    if attention is not None:
        last = attention[..., 0, -1, :]  # (chain, draw, layer, head, key_position)
        found["attention to itself"] = last[..., -1].mean(axis=(-2, -1))
        found["sum of squared attention"] = (last**2).sum(axis=-1).mean(axis=(-2, -1))
    return found


def _long_enough(experiment, truth, fitted, seed):
    """A posterior whose every ranked quantity has enough effective draws, or the last try."""
    for doubling in range(experiment.max_doublings + 1):
        idata = _fitted(experiment, fitted, experiment.iter_sampling * 2**doubling, seed)
        sizes = ess(ranked_quantities(truth, idata.posterior))["ess_bulk"].values
        if np.nanmin(sizes) >= experiment.n_ranked:  # nan: a constant
            break
    return idata


def _fitted(experiment, problem, iter_sampling, seed):
    """One text in very many may be one where Pathfinder finds no start; any start will do."""
    try:
        return _fitted_from(experiment.init, experiment, problem, iter_sampling, seed)
    except RuntimeError:
        if experiment.init == "random":
            raise
        return _fitted_from("random", experiment, problem, iter_sampling, seed)


def _fitted_from(init, experiment, problem, iter_sampling, seed):
    with tempfile.TemporaryDirectory(prefix="gptbayes-calibration-") as folder:
        run = fit.nuts(
            problem,
            Path(folder) / "run",
            chains=1,
            iter_warmup=experiment.iter_warmup,
            iter_sampling=iter_sampling,
            init=init,
            adapt_delta=experiment.adapt_delta,
            max_treedepth=MAX_TREEDEPTH,
            seed=seed,
        )
        return convert(fit.read_config(run), problem, fit.read_draws(run))


def _ranks(true_value, draws, n_ranked, rng):
    """Ranks among evenly spaced draws; ties are broken at random."""
    at = np.arange(n_ranked) * len(draws) // n_ranked
    kept = draws[at]  # (n_ranked, quantity)
    tied = np.isclose(kept, true_value, rtol=TIE, atol=TIE)
    below = ((kept < true_value) & ~tied).sum(axis=0)
    return below + rng.integers(tied.sum(axis=0) + 1)


def _as_posterior(problem, weights):
    dims = {p.name: ("chain", "draw", *p.dims) for p in problem.stage.parameters}
    return xr.Dataset({name: (dims[name], value[None, None]) for name, value in weights.items()})


def _run(missing, total, executor, on_progress, label):
    """Run them all; after the first failure or Ctrl-C, start none that has not begun."""
    futures = [executor.submit(run_replicate, unit) for unit in missing]
    pending = set(futures)
    try:
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            if on_progress:
                done = total - sum(not future.done() for future in futures)
                on_progress([fit.Progress(label, done, total, True)])
    finally:
        for future in pending:
            future.cancel()


def _description(experiment, seed):
    """All that the results depend on, JSON-ready and flat."""
    description = {
        "seed": seed,
        "stage": experiment.truth.stage.number,
        **asdict(experiment.truth.design),
        **{
            name: getattr(experiment, name)
            for name in (
                "n_ranked",
                "iter_warmup",
                "iter_sampling",
                "max_doublings",
                "init",
                "adapt_delta",
            )
        },
        "program": _program_hash(experiment.fitted.stage),
    }
    for role, problem in (("truth", experiment.truth), ("fitted", experiment.fitted)):
        masks = problem.stage.masks or ()
        description |= {f"{role} {name}": scale for name, scale in asdict(problem.priors).items()}
        description[f"{role} masks"] = [np.asarray(mask).tolist() for mask in masks]
        description[f"{role} likelihood_weight"] = problem.likelihood_weight
    return description


def _program_hash(fitted):
    bricks = sorted((fitted.program.parent / "functions").rglob("*.stanfunctions"))
    text = "".join(path.read_text(encoding="utf-8") for path in (fitted.program, *bricks))
    return hashlib.sha256(text.encode()).hexdigest()


def _same_experiment(out, wanted):
    path = out / "experiment.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    there = _read(path)
    for name in wanted:
        if wanted[name] != there.get(name):
            raise ValueError(
                f"{out} holds another experiment: {name} is {there.get(name)!r} there, "
                f"{wanted[name]!r} here; choose another folder"
            )


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is corrupted ({error}); delete it and it is made again") from None


def _collected(results, n_ranked):
    names = list(results[0]["rank"])
    tables = {
        name: (
            ("replicate", "quantity"),
            np.array([[result[name][quantity] for quantity in names] for result in results]),
        )
        for name in ("rank", "ess")
    }
    columns = {
        name: ("replicate", np.array([result[name] for result in results]))
        for name in ("n_draws", "divergences", "max_treedepth_hits", "seconds", "init")
    }
    coords = {"replicate": np.arange(1, len(results) + 1), "quantity": names}
    return xr.Dataset({**tables, **columns}, coords, attrs={"n_ranked": n_ranked})
