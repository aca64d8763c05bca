"""Experiments of simulation-based calibration: which model is simulated, and which is fitted."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptbayes.corpus import Vocabulary, Windows
from gptbayes.fit.checks import check_one_of
from gptbayes.model.design import Design, draw_masks
from gptbayes.model.priors import Priors
from gptbayes.model.problem import Problem
from gptbayes.model.stages import Stage, stage, stan_folder

METHODS = ("nuts", "hmc", "smc")
HMC_THIN = 4
"""Of the iterations of HMC one in so many is a draw."""
SMC_MOVES = 8
"""Draws of a segment of sequential Monte Carlo."""


class RankSettings(NamedTuple):
    """How many draws are ranked, and how long chains are.

    Attributes
    ----------
    n_ranked, iter_warmup, iter_sampling, max_doublings : int
        As in `gptbayes.validate.experiment.Experiment`.
    """

    n_ranked: int
    iter_warmup: int
    iter_sampling: int
    max_doublings: int

    def check(self) -> None:
        """Raise ValueError if a number is out of range."""
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
class Experiment:
    """The model that simulates data, the model that is fitted, and the settings of the fits.

    Attributes
    ----------
    truth : Problem
        The data-generating model. Its windows are not used. See `toy_problem`.
    fitted : Problem, optional
        The model that is fitted to the simulated text, by default ``truth``. With another program
        or other priors the experiment is a test of calibration itself, which must find the error.
    n_ranked : int
        Number of posterior draws among which the true value is ranked, L.
    method : {"nuts", "hmc", "smc"}
        How a text is fitted.
    iter_warmup, iter_sampling : int
        Iterations of the chain of NUTS. HMC has ``iter_sampling`` draws, one in `HMC_THIN`
        iterations. Sequential Monte Carlo has ``iter_sampling`` particles in segments of
        `SMC_MOVES`, rounded up.
    max_doublings : int
        While the effective sample size of any ranked quantity is below ``n_ranked``, the chain is
        run again with twice the draws, at most this many times.
    init, adapt_delta
        As for `gptbayes.fit.nuts`.

    Raises
    ------
    ValueError
        If ``truth`` and ``fitted`` differ in stage or sizes, or a number is out of range.

    Examples
    --------
    >>> Experiment(toy_problem("05"), n_ranked=15).fitted.design.n_head
    2
    """

    truth: Problem
    fitted: Problem = None  # type: ignore[assignment]  # until `__post_init__`
    n_ranked: int = 31
    method: str = "nuts"
    iter_warmup: int = 200
    iter_sampling: int = 160
    max_doublings: int = 3
    init: str = "pathfinder"
    adapt_delta: float = 0.8

    def __post_init__(self):
        if self.fitted is None:
            object.__setattr__(self, "fitted", self.truth)
        fitted, truth = (
            (each.stage.number, *asdict(each.design).values()) for each in (self.fitted, self.truth)
        )
        if fitted != truth:
            raise ValueError(
                f"fitted must have the stage and the sizes of truth, {truth}, got {fitted}"
            )
        check_one_of("method", self.method, METHODS)
        self.rank_settings.check()

    @property
    def rank_settings(self) -> RankSettings:
        """The settings that any program has too."""
        return RankSettings(self.n_ranked, self.iter_warmup, self.iter_sampling, self.max_doublings)


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
    """Make a small problem without a text, as the data-generating model of an experiment.

    Parameters
    ----------
    number : str or int
        Number of the stage.
    vocab_size, block_size, batch_size, n_embed, n_head, n_layer : int
        As in `gptbayes.model.design.Design`; ``vocab_size`` from 2 to 26.
    dropout, mask_seed
        As in `gptbayes.model.problem.make_problem`. All replicates have the same masks.
    scales : mapping of str to float, optional
        Prior scales that replace those of `gptbayes.model.priors.Priors.default`.

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        For an unknown stage, or sizes and scales that are out of range.

    Examples
    --------
    >>> toy_problem("05").stage.n_parameters(toy_problem("05").design)
    100
    """
    if not 2 <= vocab_size <= 26:
        raise ValueError(f"vocab_size must be from 2 to 26, got {vocab_size}")
    design = Design(vocab_size, block_size, batch_size, n_embed, n_head, n_layer)
    model = stage(number)
    if "dropout" in model.features:
        masks = draw_masks(model, design, dropout, np.random.default_rng(mask_seed))
        model = replace(model, masks=masks)
    blank = np.zeros((batch_size, block_size), dtype=np.int64)
    return Problem(
        stage=model,
        design=design,
        priors=Priors.default(model, design).replace(**(scales or {})),
        vocabulary=Vocabulary(tuple("abcdefghijklmnopqrstuvwxyz"[:vocab_size])),
        training=Windows(blank, blank),
        held_out=Windows(blank[:1], blank[:1]),
        source="simulated from the prior predictive distribution",
    )


def change_program(original: Stage, folder: str | Path, file: str, old: str, new: str) -> Stage:
    """Make a stage with an error in its Stan program, to test whether calibration finds it.

    Parameters
    ----------
    original : Stage
    folder : path
        All Stan programs are copied to this folder.
    file : str
        The file to change, for example ``functions/attention.stanfunctions``.
    old, new : str
        Text that occurs exactly once in the file, and its replacement.

    Returns
    -------
    Stage

    Raises
    ------
    ValueError
        If ``old`` does not occur exactly once in the file.
    """
    text = (stan_folder() / file).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(
            f"old must occur in {file} exactly once, got {old!r} {text.count(old)} times"
        )
    shutil.copytree(stan_folder(), folder, dirs_exist_ok=True)
    (Path(folder) / file).write_text(text.replace(old, new), encoding="utf-8")
    return replace(original, folder=Path(folder))


def description_of(experiment: Experiment, seed: int) -> dict:
    """List everything that the results of an experiment depend on.

    Parameters
    ----------
    experiment : Experiment
    seed : int

    Returns
    -------
    dict
        Flat, ready for JSON.
    """
    description = {
        "seed": seed,
        "stage": experiment.truth.stage.number,
        **({} if experiment.method == "nuts" else {"method": experiment.method}),
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
