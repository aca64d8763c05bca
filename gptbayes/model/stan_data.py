"""A problem as data of the Stan programs, and back.

This is the only place where tokens become 1-based.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import numpy as np

from gptbayes.corpus import Vocabulary, Windows
from gptbayes.model.design import Design
from gptbayes.model.priors import Priors
from gptbayes.model.problem import Problem
from gptbayes.model.stages import Masks, stage


def stan_data(problem: Problem) -> dict:
    """Convert a problem to data of the Stan programs, ready for JSON, with 1-based tokens.

    All stages get the same entries. Stan reads those that a program declares and ignores the
    others, such as the held-out windows, which are stored for the analysis.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    dict

    See Also
    --------
    from_stan_data : The inverse.

    Examples
    --------
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> data = stan_data(make_problem(stage("01"), "abracadabra", block_size=3))
    >>> data["x"], data["y"]
    ([[1, 2, 5], [1, 3, 1]], [[2, 5, 1], [3, 1, 4]])
    """
    windows = {"x": problem.training.x, "y": problem.training.y}
    held_out = {"held_out_x": problem.held_out.x, "held_out_y": problem.held_out.y}
    tokens = {**windows, **held_out, "prompt": problem.prompt}
    masks = problem.stage.masks._asdict() if problem.stage.masks else {}
    return {
        **{f"{name}_mask": np.asarray(mask).tolist() for name, mask in masks.items()},
        **{name: int(size) for name, size in asdict(problem.design).items()},
        **{data_name(family): value for family, value in asdict(problem.priors).items()},
        **{name: (np.asarray(value) + 1).tolist() for name, value in tokens.items()},
        "prompt_size": len(problem.prompt),
        "n_new_tokens": int(problem.n_new_tokens),
        "likelihood_weight": float(problem.likelihood_weight),
    }


def data_name(family: str) -> str:
    """The name of a prior scale in the data of the Stan programs.

    Parameters
    ----------
    family : str
        A field of `gptbayes.model.priors.Priors`.

    Returns
    -------
    str
    """
    return family if family == "concentration" else f"{family}_scale"


def from_stan_data(
    data: dict, *, stage_number: str, characters: tuple[str, ...], source: str
) -> Problem:
    """Convert data of the Stan programs to a problem, the inverse of `stan_data`.

    Parameters
    ----------
    data : dict
        As `stan_data` returns it.
    stage_number : str
    characters : tuple of str
        The vocabulary.
    source : str

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        For an unknown stage, or values that `Problem` refuses.
    """

    def tokens(name, ndim):
        value = np.asarray(data[name], dtype=np.int64) - 1
        return value if value.size else value.reshape((0,) * (ndim - 1) + (data["block_size"],))

    model = stage(stage_number)
    if "dropout" in model.features:
        masks = Masks(*(np.asarray(data[f"{name}_mask"]) for name in Masks._fields))
        model = replace(model, masks=masks)
    return Problem(
        stage=model,
        design=Design(**{each.name: data[each.name] for each in fields(Design)}),
        priors=_priors(data),
        vocabulary=Vocabulary(tuple(characters)),
        training=Windows(tokens("x", 2), tokens("y", 2)),
        held_out=Windows(tokens("held_out_x", 2), tokens("held_out_y", 2)),
        likelihood_weight=data["likelihood_weight"],
        prompt=tokens("prompt", 1),
        n_new_tokens=data["n_new_tokens"],
        source=source,
    )


def _priors(data):
    names = {each.name: data_name(each.name) for each in fields(Priors)}
    if "concentration" not in data:  # data of an older version, without the log-gamma variant
        del names["concentration"]
    return Priors(**{family: data[name] for family, name in names.items()})
