"""One analysis of a fit: everything that a report, a command or an essay asks of it.

Each quantity is computed when it is first asked for, and once, by a function of the module named
after its subject. The report, the commands and the figures format these values and compute
nothing. Nothing here draws or prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np

from gptbayes.diagnostics.examination import SavedExamination, load_examination
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.problem import Problem
from gptbayes.report.analysis import (
    accuracy,
    diagnostic_findings,
    heads,
    mixing,
    posterior_predictive,
    single_draws,
    weights,
)
from gptbayes.report.analysis.methods import METHOD_NAMES

N_CONTEXTS = 50
"""Held-out contexts over which attention patterns and ablations are averaged."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that is asked of a fit, computed lazily and once.

    Parameters
    ----------
    idata : InferenceData
        As of `gptbayes.open_run`.
    name : str
        What the fit is called where several are compared; by default its method.
    beside : tuple of Analysis
        Other fits of the same text, compared with this one on held-out text.
    prob : float
        Mass of the intervals.
    n_contexts : int
        Held-out contexts over which attention patterns and ablations are averaged.
    smc : InferenceData, optional
        A fit of the same posterior by sequential Monte Carlo, for the masses of modes.
    saved : gptbayes.diagnostics.examination.SavedExamination, optional
        Mode connectivity and contraction that were computed before.
    on_step : callable, optional
        Called with a few words before each step that takes time.

    See Also
    --------
    gptbayes.report.write_report : Format an analysis as one HTML page.

    Examples
    --------
    >>> import gptbayes as gb  # doctest: +SKIP
    >>> analysis = gb.Analysis.of_run("runs/05-nuts")  # doctest: +SKIP
    >>> [finding.text for finding in analysis.findings if not finding.ok]  # doctest: +SKIP
    """

    idata: az.InferenceData
    name: str = ""
    beside: tuple[Analysis, ...] = ()
    prob: float = 0.9
    n_contexts: int = N_CONTEXTS
    smc: az.InferenceData | None = None
    saved: SavedExamination | None = None
    on_step: Callable[[str], None] = field(default=lambda step: None, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", METHOD_NAMES[self.idata.attrs["method"]])

    @classmethod
    def of_run(cls, folder: str | Path, beside: tuple[Analysis, ...] = (), **options) -> Analysis:
        """Open a run directory, with what was saved in it.

        Parameters
        ----------
        folder : path
        beside : tuple of Analysis
        **options
            As of `Analysis`.

        Returns
        -------
        Analysis

        Raises
        ------
        ValueError
            If the folder is not a finished run.
        """
        idata, label = open_run(folder), Path(folder).resolve().name
        name = f"{METHOD_NAMES[idata.attrs['method']]} ({label})"
        return cls(idata, name, beside, saved=load_examination(folder), **options)

    # The fit

    @cached_property
    def problem(self) -> Problem:
        """The problem that was fitted."""
        return problem_of(self.idata)

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """Posterior draws of each parameter, ``(chain, draw, dims)``."""
        return parameters_of(self.idata)

    @property
    def method(self) -> str:
        """``nuts``, ``smc``, ``pathfinder``, ``optimize`` or ``prior``."""
        return self.idata.attrs["method"]

    @property
    def n_chain(self) -> int:
        return self.idata.posterior.sizes["chain"]

    @property
    def n_draw(self) -> int:
        return self.idata.posterior.sizes["draw"]

    @property
    def has_attention(self) -> bool:
        return "attention" in self.problem.stage.features

    # Diagnostics

    findings = cached_property(diagnostic_findings.findings)
    target_finding = cached_property(diagnostic_findings.target_finding)
    sampler_health = cached_property(diagnostic_findings.sampler_health)
    tempering = cached_property(diagnostic_findings.tempering)
    exact_marginals = cached_property(diagnostic_findings.exact_marginals)
    loo = cached_property(diagnostic_findings.loo)
    loo_finding = cached_property(diagnostic_findings.loo_finding)
    sensitivity = cached_property(diagnostic_findings.sensitivity)

    # Posterior predictive text

    held_out_log_prob = cached_property(posterior_predictive.held_out_log_prob)
    next_characters = cached_property(posterior_predictive.next_characters)
    because = cached_property(posterior_predictive.because)
    texts = cached_property(posterior_predictive.texts)
    text_checks = cached_property(posterior_predictive.text_checks)

    # Single draws

    shown_draws = cached_property(single_draws.shown_draws)
    drawn_attention = cached_property(single_draws.drawn_attention)
    drawn_next = cached_property(single_draws.drawn_next)
    drawn_texts = cached_property(single_draws.drawn_texts)

    # Predictive accuracy

    own_predictors = cached_property(accuracy.own_predictors)
    predictors = cached_property(accuracy.predictors)
    baselines = cached_property(accuracy.baselines)
    held_out = cached_property(accuracy.held_out)
    calibration = cached_property(accuracy.calibration)

    # Attention

    matching = cached_property(heads.matching)
    prior_matching = cached_property(heads.prior_matching)
    matching_findings = cached_property(heads.matching_findings)
    map_contexts = cached_property(heads.map_contexts)
    attention_weights = heads.attention_weights
    attention_finding = heads.attention_finding
    rollout = heads.rollout
    roles = cached_property(heads.roles)
    roles_finding = cached_property(heads.roles_finding)
    head_ablation = cached_property(heads.head_ablation)
    position_ablation = cached_property(heads.position_ablation)

    # Chains and modes

    quantities = cached_property(mixing.chain_quantities)
    predictions_diagnosed = cached_property(mixing.predictions_diagnosed)
    diagnosed = cached_property(mixing.diagnosed)
    r_hats = cached_property(mixing.r_hats)
    convergence = cached_property(mixing.convergence_table)
    chains_verdict = cached_property(mixing.chains_verdict)
    verdict = cached_property(mixing.verdict)
    masses = cached_property(mixing.masses)
    weighted_by_mass = cached_property(mixing.weighted_by_mass)
    function_space = cached_property(mixing.function_segments)
    weight_space = cached_property(mixing.weight_segments)
    mode_groups = cached_property(mixing.mode_groups)
    modes = cached_property(mixing.modes)
    stacking = cached_property(mixing.stacking)
    per_chain = cached_property(mixing.per_chain)

    # Weights

    symmetries = cached_property(weights.symmetries)
    n_parameters = cached_property(weights.n_parameters)
    n_redundant = cached_property(weights.n_redundant)
    connectivity = cached_property(weights.connectivity)
    contraction = cached_property(weights.contraction)
    save = weights.save

    # Helpers of the modules

    @cached_property
    def _cache(self) -> dict[Any, Any]:
        return {}

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The value of ``compute``, called once for each key."""
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def rng(self, key: int) -> np.random.Generator:
        """A generator of its own for each quantity, so that their order does not matter."""
        return np.random.default_rng([self.idata.attrs["seed"], 2, key])
