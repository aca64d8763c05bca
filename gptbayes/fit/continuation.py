"""More draws of a finished run of NUTS or HMC: each chain goes on from its last state.

A chain of fixed step size and metric is a Markov chain, so that a chain which is continued with
these from its last draw, and with new random numbers, has the same law as one that was never
interrupted. Its draws are in several files; nothing of the earlier ones is changed.

Of a thinned chain, Stan keeps the first of every ``thin`` iterations. The last draw that was kept
is followed by ``thin - 1`` iterations that are not, as everywhere else in the chain.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gptbayes.fit.directory import Run, write_json
from gptbayes.fit.draws import read_csv
from gptbayes.fit.hmc_statistics import nominal_step_size
from gptbayes.fit.parts import File, Part
from gptbayes.model.problem import Problem


def continued_arguments(
    run: Run, problem: Problem, chain: int, before: File, part: Part, metric: str, thin: int
) -> dict:
    """Arguments of `cmdstanpy.CmdStanModel.sample` that continue a chain.

    Parameters
    ----------
    run : Run
    problem : Problem
    chain : int
        Counted from 1.
    before : File
        The last draws that are there.
    part : Part
        The one that follows.
    metric : str
    thin : int
        As for `gptbayes.fit.nuts`.

    Returns
    -------
    dict
    """
    draws = read_csv(*before)
    last = {p.name: draws.variables[p.name][-1].tolist() for p in problem.stage.parameters}
    init = run.folder / "init" / f"chain-{chain}-after-{part.after}.json"
    write_json(init, last)
    step_size = float(draws.method_variables["stepsize"][-1])
    if "int_time" in draws.method_variables:  # HMC: that of the last trajectory only
        step_size = nominal_step_size(before.path)
    elif not part.after:  # HMC after its warm-up: in the digits that Stan writes
        step_size = float(f"{step_size:.6g}")
    seeds = np.random.SeedSequence([run.seed, part.after])
    arguments = {
        "inits": str(init),
        "seed": int(seeds.generate_state(1)[0] >> 1),
        "iter_warmup": thin - 1 if part.after else 0,  # without adaptation: those not kept
        "iter_sampling": part.n_iterations,
        "thin": thin,
        "adapt_engaged": False,
        "step_size": step_size,
        "metric": "diag_e" if metric == "prior" else metric,
    }
    if metric == "prior":
        return {**arguments, "inv_metric": str(run.folder / "init" / "metric.json")}
    if metric == "unit_e":
        return arguments
    adapted = run.folder / "init" / f"metric-{chain}.json"
    first = run.folder / "csv" / f"chain-{chain}.csv"
    write_json(adapted, {"inv_metric": adapted_metric(first).tolist()})
    return {**arguments, "inv_metric": str(adapted)}


def adapted_metric(path: Path) -> np.ndarray:
    """The inverse metric that Stan's adaptation ended with, in the digits of its CSV file.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    ndarray, (weight,) or (weight, weight)
        Of a diagonal or a dense metric.

    Raises
    ------
    ValueError
        If the file has none.
    """
    rows: list[list[float]] = []
    kind = None
    with path.open(encoding="utf-8") as file:
        for line in file:
            if kind and not line.startswith("#"):
                break
            if found := re.match(r"# (Diagonal elements|Elements) of inverse mass matrix", line):
                kind = found[1]
            elif kind and re.fullmatch(r"# [-+\d.,e ]+\n", line):
                rows.append([float(each) for each in line.removeprefix("# ").split(",")])
    if not rows:
        raise ValueError(f"{path} has no inverse metric: its chain cannot be continued")
    return np.array(rows[0] if kind == "Diagonal elements" else rows)
