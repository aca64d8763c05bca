"""Run directories with draws from the prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from gptbayes.fit import manifest
from gptbayes.fit.checks import positive
from gptbayes.fit.directory import checked_seed, run_directory
from gptbayes.fit.draws import write_csv
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import Problem
from gptbayes.model.simulate import generate_text, log_prior, prior_draws


def prior(problem: Problem, out: str | Path, *, draws: int = 1000, seed: int = 1) -> Path:
    """Draw independently from the prior and its predictive distribution.

    Parameters, ``log_lik`` and ``new_tokens`` are computed in numpy, without Stan.

    Parameters
    ----------
    problem : Problem
        Its likelihood weight is replaced by 0.
    out : path
        The run directory. It is created if it does not exist, and unchanged if it is complete.
    draws : int
    seed : int

    Returns
    -------
    pathlib.Path
        The run directory, for `gptbayes.inference.open_run`.

    Raises
    ------
    ValueError, RuntimeError
        As `nuts`.

    See Also
    --------
    gptbayes.model.simulate.prior_draws : The draws as arrays, without a run directory.

    Examples
    --------
    >>> import tempfile
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.inference import open_run
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("02"), zen_of_python(), batch_size=11)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = open_run(prior(problem, folder, draws=20))
    >>> idata.posterior["lm_head_offset"].sizes
    Frozen({'chain': 1, 'draw': 20, 'token': 45})
    """
    (draws,), seed = positive(draws=draws), checked_seed(seed)
    problem = replace(problem, likelihood_weight=0.0)
    with run_directory(problem, out, "prior", {"draws": draws}, seed, draws, stan=False) as run:
        csv = run.folder / "csv" / "prior-1.csv"
        if not csv.exists():
            write_csv(csv, _stan_variables(problem, draws, np.random.default_rng(seed)))
            manifest.record(run.folder, [csv])
    return Path(out)


def _stan_variables(problem, n_draws, rng):
    """Parameters and generated quantities of prior draws, in the layout of Stan's CSV files."""
    stage, design = problem.stage, problem.design
    draws = prior_draws(problem, n_draws, rng)
    text = generate_text(stage, draws, problem.prompt, problem.n_new_tokens, design.block_size, rng)
    return {
        "lp__": log_prior(problem, draws),
        **stage.to_stan(draws, design),
        "log_lik": token_log_prob(stage, draws, problem.training),
        "new_tokens": text + 1,
    }
