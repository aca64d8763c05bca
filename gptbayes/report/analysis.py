"""One analysis of a fit: everything that a report, a command or an essay asks of it.

Each quantity is computed when it is first asked for, and once. The report, the commands and the
figures format these values and compute nothing. This module draws and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes import attention, predict
from gptbayes.compare.evidence_summary import TemperingSummary, summarise_tempering
from gptbayes.diagnostics import sampler
from gptbayes.diagnostics.contraction import Contraction, posterior_contraction
from gptbayes.diagnostics.convergence import convergence, mixing_table
from gptbayes.diagnostics.examination import (
    SavedExamination,
    load_examination,
    save_examination,
)
from gptbayes.diagnostics.mode_connectivity import connect_chains
from gptbayes.diagnostics.mode_masses import (
    ModeMasses,
    masses_of_modes,
    weigh_by_mass,
    with_masses,
)
from gptbayes.diagnostics.modes import (
    Modes,
    Space,
    context_log_prob,
    find_modes,
    function_space,
    weight_space,
)
from gptbayes.diagnostics.quantities import predicted_quantities, quantities
from gptbayes.diagnostics.sensitivity import prior_sensitivity
from gptbayes.diagnostics.verdict import Verdict, mixing_verdict
from gptbayes.findings import Finding, convergence_finding, few_sequences_finding
from gptbayes.inference import open_run, parameters_of, problem_of, superchains_of
from gptbayes.model.problem import Problem
from gptbayes.predict.text_statistics import GAP, join_windows
from gptbayes.stats import mcmc
from gptbayes.stats.summary import r_hat, summarise
from gptbayes.symmetry import generators, symmetry_dimension
from gptbayes.validate.exact_marginals import check_exact_marginals

METHOD_NAMES = {
    "nuts": "NUTS",
    "pathfinder": "Pathfinder",
    "optimize": "posterior mode",
    "prior": "prior draws",
    "smc": "sequential Monte Carlo",
}
CHAINS = ("nuts", "smc")
"""Methods whose draws are chains; those of sequential Monte Carlo are its replicates."""
N_CONTEXTS = 50
"""Held-out contexts over which attention patterns and ablations are averaged."""
N_MAPS = 2
"""Contexts whose attention weights are shown."""
N_NEXT = 3
"""Contexts after which the next character is shown."""
TEXT_LENGTH = 120
"""Characters of each generated text."""
MAX_TANGENTS = 20_000_000
"""Numbers in the tangents of one draw, beyond which the dimension of its orbit is not computed."""


class WeightedFit(NamedTuple):
    """A fit whose draws are weighted, as a row of the held-out comparison.

    Attributes
    ----------
    name : str
    weights : DataArray (chain, draw)
    warning : str or None
        Why the weights are unreliable.
    """

    name: str
    weights: xr.DataArray
    warning: str | None


class ScoredText(NamedTuple):
    """A text with the posterior's numbers for each of its characters.

    Attributes
    ----------
    title : str
    scored : Dataset (new_position)
        As of `gptbayes.predict.score_text`.
    """

    title: str
    scored: xr.Dataset


class HeldOut(NamedTuple):
    """Held-out predictive density of a fit, its weighted draws and the fits beside it.

    Attributes
    ----------
    table : Dataset (fit)
        As of `gptbayes.predict.compare_held_out`.
    unigram, unigram_se : float
        Log density of smoothed character frequencies, nats per character, and its standard error.
    uniform : float
        Log density of a uniform guess, nats per character.
    findings : list of Finding
        Warnings about weights and about the number of sequences.
    """

    table: xr.Dataset
    unigram: float
    unigram_se: float
    uniform: float
    findings: list[Finding]


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

    @cached_property
    def findings(self) -> list[Finding]:
        """Whether the draws can be relied on: one sentence for each diagnostic.

        Computed in a few seconds for a fit of any method, without alignment of weights.
        """
        found = [] if self.target_finding is None else [self.target_finding]
        infinite = sampler.log_lik_finding(self.idata)
        found += [] if infinite is None else [infinite]
        if self.method in sampler.METHOD_FINDINGS:
            found.append(sampler.METHOD_FINDINGS[self.method])
        elif self.sampler_health is None:
            found.append(sampler.pareto_finding(self.idata))
        else:
            found += self.tempering.findings if self.tempering else []
            found += sampler.sampler_findings(self.idata, self.sampler_health)
            found += self._mixing_findings
        if self.exact_marginals is not None:
            found.append(sampler.exact_marginals_finding(self.exact_marginals))
        return found

    @cached_property
    def _mixing_findings(self):
        if self.n_chain < 2:
            return [sampler.ONE_CHAIN]
        table = convergence(predicted_quantities(self.idata))
        return [sampler.mixing_finding(table, name) for name in table["quantity"].values]

    @cached_property
    def target_finding(self) -> Finding | None:
        """A warning if the target of the fit is not the posterior."""
        target = self.idata.attrs["target"]
        if target == "posterior":
            return None
        read = ", and what is called posterior here is the prior" if target == "prior" else ""
        return Finding(False, f"the target is not the posterior: {target}{read}")

    @cached_property
    def sampler_health(self) -> xr.Dataset | None:
        """What NUTS reports of itself, chain by chain; None for methods without chains.

        Of sequential Monte Carlo it is that of the last level.
        """
        return sampler.sampler_health(self.idata) if self.method in CHAINS else None

    @cached_property
    def tempering(self) -> TemperingSummary | None:
        """The path, the evidence and the modes of sequential Monte Carlo; None for others."""
        return summarise_tempering(self.idata) if self.method == "smc" else None

    @cached_property
    def exact_marginals(self) -> xr.Dataset | None:
        """Tests against exact marginals of the posterior; None for a mode."""
        return None if self.method == "optimize" else check_exact_marginals(self.idata)

    @cached_property
    def loo(self) -> xr.Dataset | None:
        """PSIS leave-one-sequence-out; None unless the draws are chains."""
        return predict.loo(self.idata) if self.method in CHAINS else None

    @cached_property
    def loo_finding(self) -> Finding | None:
        """The estimate of `loo`, a warning where Pareto k is large."""
        return None if self.loo is None else predict.loo_finding(self.loo)

    # Posterior predictive text

    @cached_property
    def held_out_log_prob(self) -> xr.DataArray:
        """Log probability of every held-out character, ``(chain, draw, sequence, position)``."""
        return predict.held_out_log_prob(self.idata)

    @cached_property
    def next_characters(self) -> list[tuple[str, str, xr.Dataset, xr.Dataset]]:
        """Context, the character that follows it, and next-character probabilities.

        The probabilities are those of the posterior and of the prior, at a few held-out contexts.
        """
        held_out, decode = self.problem.held_out, self.problem.vocabulary.decode
        found = []
        for i in evenly_spaced(len(held_out.x), N_NEXT):
            context, character = decode(held_out.x[i]), decode(held_out.y[i, -1:])
            posterior, prior = (
                predict.next_character(self.idata, context, prob=self.prob, group=group)
                for group in ("posterior", "prior")
            )
            found.append((context, character, posterior, prior))
        return found

    @cached_property
    def because(self) -> xr.Dataset | None:
        """Influences of the training sequences on the first of `next_characters`.

        None for a single draw, and for methods whose draws have no log likelihood or are not from
        the posterior.
        """
        if self.method not in CHAINS or self.idata.posterior.sizes["draw"] < mcmc.MIN_DRAWS:
            return None
        held_out, decode = self.problem.held_out, self.problem.vocabulary.decode
        i = evenly_spaced(len(held_out.x), N_NEXT)[0]
        return predict.because(self.idata, decode(held_out.x[i]), decode(held_out.y[i, -1:]))

    @cached_property
    def texts(self) -> list[ScoredText]:
        """Generated texts and the held-out text, with the numbers of each character."""
        rng, decode = self._rng(1), self.problem.vocabulary.decode
        prompt = decode(self.problem.held_out.x[0])
        wanted = [
            ("Coherent, one posterior draw", "coherent", "posterior"),
            ("Coherent, another posterior draw", "coherent", "posterior"),
            ("Marginal, the posterior mean", "marginal", "posterior"),
            ("For comparison, one draw from the prior", "coherent", "prior"),
        ]
        if self.method == "optimize":
            wanted = [("The mode", "coherent", "posterior"), wanted[-1]]
        self.on_step("generating text")
        found = [
            ScoredText(
                title,
                predict.generate(self.idata, prompt, TEXT_LENGTH, rng, kind=kind, group=group),
            )
            for title, kind, group in wanted
        ]
        held_out = join_windows(self.problem.held_out, decode).split(GAP)[0]
        rest = held_out[len(prompt) :][:TEXT_LENGTH]
        if rest:
            title = "For comparison, the held-out text, scored by the posterior"
            found.append(ScoredText(title, predict.score_text(self.idata, prompt, rest)))
        return found

    @cached_property
    def text_checks(self) -> predict.TextChecks:
        """Posterior predictive checks of the held-out text."""
        self.on_step("checking generated text")
        return predict.check_text(self.idata, self._rng(2), prob=self.prob)

    @cached_property
    def weighted(self) -> WeightedFit | None:
        """The same draws weighted: by importance for Pathfinder, by stacking for NUTS."""
        if self.method == "pathfinder":
            try:
                weights = predict.psis_weights(self.idata)
            except ValueError:  # ratios that are not finite, which `findings` reports
                return None
            name = f"{self.name}, importance weighted"
        elif self.stacking is not None:
            per_chain = self.stacking.chains["weight"].values
            weights = predict.chain_weights(self.idata, per_chain)
            name = f"{self.name}, chains stacked"
        else:
            return None
        return WeightedFit(name, weights, predict.weights_warning(weights))

    @cached_property
    def held_out(self) -> HeldOut:
        """Held-out predictive density of this fit and of those beside it."""
        fits: dict[str, az.InferenceData] = {}
        weights, log_density, findings = {}, {}, []
        for each in (self, *self.beside):
            density = each.held_out_log_prob.sum("position")
            fits[each.name], log_density[each.name] = each.idata, density
            other = each.weighted
            if other is not None:
                fits[other.name], log_density[other.name] = each.idata, density
                weights[other.name] = other.weights
                if other.warning:
                    findings.append(Finding(False, f"{other.name}: {other.warning}"))
        table = predict.compare_held_out(fits, weights, log_density=log_density).table
        few = few_sequences_finding(table.attrs["n_sequence"])
        return HeldOut(
            table,
            *predict.unigram_log_density(self.idata),
            uniform=-float(np.log(self.problem.design.vocab_size)),
            findings=[*findings, few] if few else findings,
        )

    @cached_property
    def calibration(self) -> predict.Reliability:
        """Calibration of next-character probabilities on held-out text."""
        fits = {each.name: each.idata for each in (self, *self.beside)}
        return predict.held_out_reliability(fits, self._rng(3), prob=self.prob)

    # Attention

    @cached_property
    def matching(self) -> attention.Matching:
        """The heads of all draws, matched by what they do on held-out contexts."""
        self.on_step("matching heads")
        return attention.head_order(self.idata)

    @cached_property
    def prior_matching(self) -> attention.Matching:
        """The heads of prior draws, matched to those of the posterior."""
        return attention.head_order(self.idata, group="prior", reference=self.matching)

    @cached_property
    def matching_findings(self) -> list[Finding]:
        """How unambiguous the matching is, layer by layer."""
        return list(attention.matching_findings(self.matching))

    def attention_weights(
        self, contexts: np.ndarray | None = None, *, group: str = "posterior"
    ) -> xr.Dataset:
        """Attention weights with their uncertainty, heads matched.

        Parameters
        ----------
        contexts : ndarray of int, (sequence, position), optional
            A few held-out contexts by default.
        group : {"posterior", "prior"}

        Returns
        -------
        Dataset (layer, head, sequence, query_position, key_position)
        """
        if contexts is None:
            contexts = self.map_contexts
        key = ("weights", group, np.asarray(contexts).tobytes())
        matching = self.matching if group == "posterior" else self.prior_matching
        return self._once(
            key,
            lambda: attention.summarise_attention(
                self.idata, contexts, matching=matching, prob=self.prob, group=group
            ),
        )

    def attention_finding(self, contexts: np.ndarray | None = None) -> Finding | None:
        """Convergence of the attention weights at some contexts; None for a single draw."""
        summary = self.attention_weights(contexts)
        if not summary["ess_bulk"].notnull().any():
            return None
        return _finding_of("attention weights, heads matched", summary)

    def rollout(self, contexts: np.ndarray | None = None) -> xr.Dataset | None:
        """Attention rollout through the layers; None for a single layer."""
        if self.idata.posterior.sizes["layer"] < 2:
            return None
        if contexts is None:
            contexts = self.map_contexts[:1]
        key = ("rollout", np.asarray(contexts).tobytes())
        return self._once(
            key, lambda: attention.attention_rollout(self.idata, contexts, prob=self.prob)
        )

    @property
    def map_contexts(self) -> np.ndarray:
        """The held-out contexts whose attention weights are shown, ``(sequence, position)``."""
        x = self.problem.held_out.x
        return x[evenly_spaced(len(x), N_MAPS)]

    @cached_property
    def roles(self) -> attention.Roles | None:
        """What each head attends to, posterior beside prior; None for contexts of one position."""
        x = self.problem.held_out.x[: self.n_contexts]
        if x.shape[1] < 2:
            return None
        self.on_step("attention by detection pattern")
        return attention.head_roles(self.idata, self.matching, x, prob=self.prob)

    @cached_property
    def roles_finding(self) -> Finding | None:
        """Convergence of attention by detection pattern; None for a single draw or no patterns."""
        if self.roles is None:
            return None
        summary = self.roles.ranks.sel(source="posterior")
        if not summary["ess_bulk"].notnull().any():
            return None
        return _finding_of("attention by detection pattern", summary)

    @cached_property
    def head_ablation(self) -> attention.HeadAblation:
        """What predictions lose without a head."""
        self.on_step("ablating heads")
        x, y = (part[: self.n_contexts] for part in self.problem.held_out)
        return attention.ablate_heads(self.idata, x, y, matching=self.matching, prob=self.prob)

    @cached_property
    def position_ablation(self) -> attention.PositionAblation | None:
        """What the next character loses without a position; None for contexts of one position."""
        x, y = (part[: self.n_contexts] for part in self.problem.held_out)
        if x.shape[1] < 2:
            return None
        self.on_step("ablating positions")
        n = attention.max_contexts(*x.shape)
        return attention.ablate_positions(self.idata, x[:n], y[:n], prob=self.prob)

    # Chains

    @cached_property
    def quantities(self) -> dict[str, xr.DataArray]:
        """Raw and aligned weights, invariants and predictions, each ``(chain, draw, scalar)``."""
        self.on_step("aligning weights")
        return quantities(self.idata)

    @cached_property
    def r_hats(self) -> dict[str, xr.DataArray]:
        """R-hat of every scalar of each kind of quantity, each ``(scalar,)``."""
        return {name: r_hat(draws) for name, draws in self.quantities.items()}

    @cached_property
    def convergence(self) -> xr.Dataset:
        """R-hat and ESS of each kind of quantity, one row each."""
        return convergence(self.quantities, self.r_hats)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the chains have mixed, and if not, in what way; in words.

        Raises
        ------
        ValueError
            If the draws are not chains, or these are too short.
        """
        return with_masses(self._chains_verdict, self.masses)

    @cached_property
    def _chains_verdict(self):
        """What the chains alone say."""
        if self.method not in CHAINS:
            raise ValueError(f"chains must be those of nuts or smc, got a fit by {self.method}")
        superchains, seed = superchains_of(self.idata), self.idata.attrs["seed"]
        kinds, r_hats = self.quantities, self.r_hats
        self.on_step("diagnosing mixing")
        table = mixing_table(kinds, superchains, r_hats=r_hats, seed=seed)
        return mixing_verdict(kinds, superchains, r_hats=r_hats, table=table)

    @cached_property
    def masses(self) -> ModeMasses | None:
        """Posterior masses of the modes; None without a fit by sequential Monte Carlo."""
        if self.tempering is not None:
            return self.tempering.masses
        if self.smc is None:
            return None
        return masses_of_modes(self.idata, self.modes.label, self.smc)

    @cached_property
    def weighted_by_mass(self) -> xr.Dataset | None:
        """Held-out density of chains in several modes, weighted by the masses of these."""
        masses = self.masses
        if self.smc is None or self.stacking is None or masses is None:
            return None
        if masses.table.sizes["mode"] < 2 or float(masses.table["mass"].sum()) == 0:
            return None
        per_chain = self.stacking.chains["weight"].values
        return weigh_by_mass(self.idata, self.modes.label, masses, per_chain)

    @cached_property
    def function_space(self) -> Space:
        """Segments of the chains by what they predict."""
        return function_space(context_log_prob(self.idata))

    @cached_property
    def weight_space(self) -> Space:
        """Segments of the chains by their aligned weights."""
        kinds = self.quantities
        return weight_space(kinds.get("aligned weights", kinds["raw weights"]))

    @cached_property
    def modes(self) -> Modes:
        """The modes of the verdict, or the one that there is, described."""
        groups = self._chains_verdict.groups
        self.on_step("describing modes")
        label = None if groups is None else groups.label
        return find_modes(self.idata, label, seed=self.idata.attrs["seed"])

    @cached_property
    def stacking(self) -> predict.ChainStacking | None:
        """Chains weighted for prediction; None for other methods, one chain or too few draws."""
        if self.method not in CHAINS or self.n_chain < 2 or self.n_draw < 20:
            return None
        return predict.stack_chains(self.idata)

    @cached_property
    def per_chain(self) -> dict[str, xr.Dataset]:
        """Log posterior and held-out log likelihood of each chain, in nats."""
        draws = {
            "log posterior": self.idata.sample_stats["lp"],
            "held-out log likelihood": self.held_out_log_prob.sum(
                ("held_out_sequence", "position")
            ),
        }
        chains = range(self.n_chain)
        return {
            name: xr.concat([summarise(each.isel(chain=[k])) for k in chains], "chain")
            for name, each in draws.items()
        }

    @cached_property
    def symmetries(self) -> tuple[tuple[str, bool, bool], ...]:
        """Name of each symmetry, whether it is continuous, whether the prior keeps it."""
        return tuple(
            (each.name, each.continuous, each.keeps_prior)
            for each in generators(self.problem.stage)
        )

    @cached_property
    def n_parameters(self) -> int:
        return self.problem.stage.n_parameters(self.problem.design)

    @cached_property
    def n_redundant(self) -> int | None:
        """The number of directions of weight space that change no prediction.

        It is the dimension of the orbit of the last draw; None for models too large to compute it.
        """
        if self.n_parameters**2 > MAX_TANGENTS:
            return None
        self.on_step("counting redundant directions")
        last = {name: values[-1, -1] for name, values in self.parameters.items()}
        return symmetry_dimension(self.problem.stage, last)

    @cached_property
    def connectivity(self) -> xr.Dataset | None:
        """The log posterior along paths between chains; None for a single chain.

        It takes minutes, unless it was saved.
        """
        if self.saved is not None and self.saved.connections is not None:
            return self.saved.connections
        if self.n_chain < 2:
            return None
        self.on_step("paths between chains")
        rng = np.random.default_rng(self.idata.attrs["seed"])
        return connect_chains(self.problem, self.parameters, rng=rng)

    @cached_property
    def contraction(self) -> Contraction:
        """What the text taught about each kind of weight; it takes minutes."""
        self.on_step("comparing posterior and prior")
        n_local = 6 if self.n_parameters <= 500 else 2 if self.n_parameters <= 1500 else 1
        return posterior_contraction(self.idata, n_local=n_local)

    def save(self, folder: str | Path) -> None:
        """Save in a run directory what took minutes and has been computed.

        Parameters
        ----------
        folder : path
        """
        connectivity, learned = (self.__dict__.get(n) for n in ("connectivity", "contraction"))
        if connectivity is not None or learned is not None:
            save_examination(folder, connectivity, learned)

    # Sensitivity

    @cached_property
    def sensitivity(self) -> xr.Dataset | None:
        """Power-scaling sensitivity to prior and likelihood; None unless the draws are chains."""
        if self.method not in CHAINS or self.n_draw < 4:
            return None
        return prior_sensitivity(self.idata)

    # Helpers

    @cached_property
    def _cache(self) -> dict[Any, Any]:
        return {}

    def _once(self, key, compute):
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def _rng(self, key: int) -> np.random.Generator:
        """A generator of its own for each quantity, so that their order does not matter."""
        return np.random.default_rng([self.idata.attrs["seed"], 2, key])


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Indices of at most ``count`` items evenly spaced among ``n``."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))


def _finding_of(name, summary):
    """Convergence of what a summary is of, by the worst of it."""
    return convergence_finding(
        name,
        r_hat=float(summary["r_hat"].max()),
        ess_bulk=float(summary["ess_bulk"].min()),
        ess_tail=float(summary["ess_tail"].min()),
    )
