"""A verdict on mixing: mixed, mixed up to symmetry, trapped in modes, or too short to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import f as f_distribution

from gptbayes.diagnostics import segments
from gptbayes.diagnostics.convergence import (
    ALPHA,
    check_kinds,
    check_superchains,
    diagnose_scalars,
    mixing_table,
    rhat_nested,
)
from gptbayes.findings import ESS_LIMIT, R_HAT_LIMIT
from gptbayes.stats.summary import ess
from gptbayes.stats.thinning import evenly_spaced

MIXED = "mixed"
UP_TO_SYMMETRY = "mixed up to symmetry"
EQUAL_PREDICTIONS = "trapped in modes with equal predictions"
DIFFERENT_PREDICTIONS = "trapped in modes with different predictions"
TOO_SHORT = "too short to tell"
STUCK = "a chain is stuck"
VERDICTS = (MIXED, UP_TO_SYMMETRY, EQUAL_PREDICTIONS, DIFFERENT_PREDICTIONS, TOO_SHORT, STUCK)

WRONG_IF = {
    MIXED: "a chain from a distant starting point settled in another mode, which chains that agree "
    "cannot exclude",
    UP_TO_SYMMETRY: "another chain settled in another mode, or chains disagreed on an invariant "
    "that is not among these",
    EQUAL_PREDICTIONS: "the modes were connected by a path without a barrier (a symmetry that the "
    "alignment missed, or a region that is slow to cross), chains of ten times the length moved "
    "between the modes often, or the modes differed in predictions at other contexts",
    DIFFERENT_PREDICTIONS: "chains of ten times the length moved between the modes often, as in a "
    "single region that is slow to cross",
    TOO_SHORT: "longer or more chains gave another verdict, which this one does not exclude",
    STUCK: "the chain moved in a quantity that is not among these",
}
"""Observations that would refute each verdict, after "this would be wrong if"."""

SMALL_DIFFERENCE = 0.2
"""Negligible difference in posterior sd. Two modes of equal mass at this distance have an R-hat of
1.005."""
MAX_SCALARS = 50
"""Maximum number of scalars, those of largest R-hat, by which segments are grouped."""
ESS_PER_HALF = 5
"""Effective draws of a half chain below which an R-hat is not tested: with fewer, chance alone
gives R-hats as large as those of chains that disagree."""
TYPICAL_ESS_PER_HALF = 10
"""The same, of the median scalar of a kind: the sizes of single ones are uncertain estimates."""
PREDICTIONS = ("log probabilities", "functions")
"""Kinds of quantities that are predictions: of a stage, and of any model."""
RAW = ("raw weights", "raw variables")
"""Kinds of quantities that a symmetry may change."""
ALIGNED = ("aligned weights", "aligned variables", "invariants")
"""Kinds of quantities that no symmetry changes."""


class Verdict(NamedTuple):
    """A verdict on the mixing of chains.

    Attributes
    ----------
    name : str
        One of `VERDICTS`.
    text : str
        The verdict as sentences, with numbers.
    wrong_if : str
        Observations that would refute the verdict.
    evidence : Dataset (quantity)
        The columns of `mixing_table`, and ``state``: "agree"; "modes"; "disagree", if chains
        disagree significantly but segments do not form groups; or "few draws", if they do not
        disagree significantly but the ESS is too small for agreement or for a test.
        ``n_disagreeing``, the number of scalars with an R-hat significantly above 1.01. For
        "modes", ``n_groups``, ``r_hat_within`` and ``separation`` as in
        `gptbayes.diagnostics.segments.Groups`.
    groups : gptbayes.diagnostics.segments.Groups, or None
        The modes of the verdict.
    """

    name: str
    text: str
    wrong_if: str
    evidence: xr.Dataset
    groups: segments.Groups | None = None

    @property
    def refutation(self) -> str:
        """What would refute the verdict, as a sentence; empty if chains are too short to tell."""
        return "" if self.name == TOO_SHORT else f"This would be wrong if {self.wrong_if}."


def mixing_verdict(
    kinds: Mapping[str, xr.DataArray],
    superchains: Sequence[int] | None = None,
    *,
    r_hats: Mapping[str, xr.DataArray] | None = None,
    table: xr.Dataset | None = None,
) -> Verdict:
    """Assess whether chains have mixed, and if not, in what way.

    A kind of quantity *agrees* if no R-hat is significantly above 1.01 given the ESS and the number
    of scalars, R* is not significantly above 1, and the ESS is at least 400 for the median scalar
    and 100 for the worst. There is no test, and so no disagreement, where half chains are worth
    fewer than ten effective draws. If chains disagree, their segments are grouped by the scalars
    that disagree; groups are *modes* (`gptbayes.diagnostics.segments.group_segments`). The segments
    of a slow chain differ from each other as much as from those of other chains and form no groups.

    - mixed: all kinds agree.
    - mixed up to symmetry: all kinds except the raw weights agree.
    - trapped in modes with equal predictions: there are modes in aligned weights, invariants or
      the log posterior. Log probabilities agree, and their means do not differ between modes by
      significantly more than 0.2 posterior sd.
    - trapped in modes with different predictions: there are modes in the log probabilities, or
      modes in other kinds between which log probabilities differ.
    - too short to tell: none of these, because there is one chain, the ESS is too small, or chains
      disagree within themselves as much as with others.
    - a chain is stuck: a chain never moves. The text assesses the others.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)
        "log probabilities" at fixed contexts, in nats, or other "functions" that no symmetry
        changes; and any of "raw weights", "aligned weights", "invariants" and "log posterior", with
        "variables" for "weights" in other models. Without aligned weights and invariants, raw
        weights are assumed to have no symmetry.
    superchains : sequence of int, one per chain, optional
        Equal labels for chains that started at the same point. Nested R-hat then replaces R-hat.
    r_hats : mapping of str to DataArray (scalar), optional
    table : Dataset (quantity), optional
        R-hats of the scalars and the `mixing_table` of the same kinds, if both have been computed
        already.

    Returns
    -------
    Verdict

    Raises
    ------
    ValueError
        As `mixing_table`, or if there are no log probabilities or no chain moves.

    See Also
    --------
    gptbayes.diagnostics.modes.find_modes : A description of the modes.
    gptbayes.diagnostics.mode_connectivity : Paths between modes.

    Notes
    -----
    A "mode" is a region that the sampler did not leave, or left abruptly, during the run. Draws
    cannot show whether the density has a barrier around it; paths between modes can. Modes with
    the same center and different spread are not found, nor are modes in which segments have fewer
    than about ten effective draws. In both cases the verdict is "too short to tell".

    Examples
    --------
    >>> draws = np.random.default_rng(1).normal(size=(4, 1000, 3))
    >>> log_prob = xr.DataArray(draws, dims=("chain", "draw", "scalar"))
    >>> mixing_verdict({"log probabilities": log_prob}).name
    'mixed'
    """
    check_kinds(kinds)
    if superchains is not None:
        check_superchains(superchains, kinds[next(iter(kinds))].sizes["chain"])
    predictions = _first(PREDICTIONS, kinds)
    if predictions is None:
        wanted = " or ".join(repr(name) for name in PREDICTIONS)
        raise ValueError(f"kinds must have {wanted}, got {', '.join(kinds)}")
    stuck = stuck_chains(kinds)
    if stuck:
        return _verdict_without_stuck(kinds, stuck)
    if r_hats is None or table is None:
        diagnosed = diagnose_scalars(kinds)
        r_hats = {name: each["r_hat"] for name, each in diagnosed.items()}
        table = mixing_table(kinds, superchains, diagnosed=diagnosed)
    n_chain = kinds[predictions].sizes["chain"]
    if n_chain < 2:
        words = "Too short to tell: there is one chain, and agreement of chains is unknown."
        return Verdict(TOO_SHORT, words, WRONG_IF[TOO_SHORT], table)
    if superchains is not None:
        r_hats = {name: rhat_nested(draws, superchains) for name, draws in kinds.items()}
    assessed = {
        name: _assess(draws, r_hats[name], table.sel(quantity=name), superchains)
        for name, draws in kinds.items()
    }
    evidence = _evidence(table, assessed)
    name, groups = _decide(kinds, assessed)
    return Verdict(
        name, _sentence(name, evidence, groups, n_chain), WRONG_IF[name], evidence, groups
    )


def stuck_chains(kinds: Mapping[str, xr.DataArray]) -> list[int]:
    """Find chains in which all quantities are constant.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)

    Returns
    -------
    list of int
        0-based.
    """
    constant = [
        (np.ptp(each.transpose("chain", "draw", ...).values, axis=1) == 0).all(axis=-1)
        for each in kinds.values()
    ]
    return np.flatnonzero(np.logical_and.reduce(constant)).tolist()


class _Assessment(NamedTuple):
    state: str
    n_disagreeing: int
    groups: segments.Groups | None


def _assess(draws, r_hats, row, superchains):
    scalars, testable = _disagreeing(draws, r_hats, superchains)
    if scalars.size:
        groups = segments.group_segments(
            segments.cut_segments(draws.isel(scalar=scalars[:MAX_SCALARS]))
        )
        return _Assessment("modes" if groups else "disagree", scalars.size, groups)
    if not np.isfinite(row["ess_bulk_min"]):  # constant
        return _Assessment("agree", 0, None)
    if testable and row["r_star_lower"] > 1:
        return _Assessment("disagree", 0, None)
    few = row["ess_bulk_median"] < ESS_LIMIT or row["ess_bulk_min"] < ESS_LIMIT / 4
    return _Assessment("few draws" if few or not testable else "agree", 0, None)


def _disagreeing(draws, r_hats, superchains):
    """Indices of scalars with an R-hat significantly above 1.01, and whether there is a test.

    The largest is first. If each of the m half chains is worth e independent draws, the variance
    between their means relative to the variance of a draw is distributed as F / e, with
    m - 1 and m (e - 1) degrees of freedom. The estimate of e uses the ESS of each chain separately,
    since the ESS of all chains is small if they disagree. R-hat is the larger of that of the draws
    and that of their distances from the median; therefore the smaller ESS is used, and at most the
    number of draws (NUTS draws are often antithetic for the mean only).

    Several chains in each superchain need no effective sample size: means of superchains are
    compared with the means of the chains in them.
    """
    values = np.nan_to_num(r_hats.values, nan=1.0, posinf=1e300)
    worst = np.argsort(-values)[: int((values > R_HAT_LIMIT).sum())][: 4 * MAX_SCALARS]
    alpha, n_chain = ALPHA / draws.sizes["scalar"], draws.sizes["chain"]
    n_super = n_chain if superchains is None else len(set(superchains))
    if n_super < n_chain:
        p = segments.analysis_of_variance(draws.isel(scalar=worst).mean("draw").values, superchains)
        return worst[p < alpha], True
    varying = np.flatnonzero(np.ptp(draws.transpose("chain", "draw", ...).values, axis=(0, 1)) > 0)
    spread = evenly_spaced(len(varying), MAX_SCALARS)
    m = 2 * n_chain if superchains is None else n_chain
    typical = _ess_alone(draws.isel(scalar=varying[spread])) / (2 * n_chain)
    if not varying.size or np.median(typical) < TYPICAL_ESS_PER_HALF:
        return worst[:0], not varying.size
    total = _ess_alone(draws.isel(scalar=worst))
    limit = np.sqrt(1 + f_distribution.isf(alpha, m - 1, np.maximum(total - m, 1)) * m / total)
    return worst[(values[worst] > limit) & (total >= ESS_PER_HALF * 2 * n_chain)], True


def _ess_alone(draws):
    """Sum over chains of the ESS of each by itself, of the draws and of their distances, (scalar,).

    Distances are those from the median, and the smaller of the two sizes counts.
    """
    both = xr.concat([draws, abs(draws - draws.median(("chain", "draw")))], "moment")
    n_draw = draws.sizes["draw"]
    alone = [_ess_bulk(both.isel(chain=[c])).min("moment") for c in range(draws.sizes["chain"])]
    return np.sum([np.minimum(each.fillna(n_draw), n_draw) for each in alone], axis=0)


def _ess_bulk(draws):
    return ess(draws, ["bulk"])["ess_bulk"]


def _decide(kinds, assessed):
    """The name of the verdict, and its modes."""
    predictions, raw_name = _first(PREDICTIONS, kinds), _first(RAW, kinds)
    functions = assessed[predictions]
    if functions.state == "modes":
        return DIFFERENT_PREDICTIONS, functions.groups
    weight_kinds = [name for name in (*ALIGNED, "log posterior") if name in assessed]
    if not set(ALIGNED) & set(weight_kinds) and raw_name is not None:
        weight_kinds.append(raw_name)
    modes = [assessed[name].groups for name in weight_kinds if assessed[name].state == "modes"]
    if modes:
        if _predictions_differ(kinds[predictions], modes[0]):
            return DIFFERENT_PREDICTIONS, modes[0]
        return (EQUAL_PREDICTIONS if functions.state == "agree" else TOO_SHORT), modes[0]
    if any(assessed[name].state != "agree" for name in (*weight_kinds, predictions)):
        return TOO_SHORT, None
    raw = assessed[raw_name] if raw_name is not None else None
    return (MIXED if raw is None or raw.state == "agree" else UP_TO_SYMMETRY), None


def _predictions_differ(log_prob, groups):
    found = segments.differences(segments.cut_like(log_prob, groups.label), groups.label)
    beyond_chance = found["p_value"] * found.sizes["scalar"] < ALPHA
    return bool((beyond_chance & (found["range"] > SMALL_DIFFERENCE * found["sd"])).any())


def _verdict_without_stuck(kinds, stuck):
    n_chain = next(iter(kinds.values())).sizes["chain"]
    living = [c for c in range(n_chain) if c not in stuck]
    if not living:
        raise ValueError(f"kinds must have a chain that moves, got {n_chain} stuck chains")
    rest = mixing_verdict({name: draws.isel(chain=living) for name, draws in kinds.items()})
    names = ", ".join(str(c + 1) for c in stuck)
    words = f"Stuck chains (of {n_chain}): {names}. Without them: {rest.text}"
    return Verdict(STUCK, words, WRONG_IF[STUCK], rest.evidence, rest.groups)


def _first(names, kinds):
    """The first of some names that there is, or None."""
    return next((name for name in names if name in kinds), None)


def _evidence(table, assessed):
    groups = [each.groups for each in assessed.values()]
    return table.assign(
        state=("quantity", [each.state for each in assessed.values()]),
        n_disagreeing=("quantity", [each.n_disagreeing for each in assessed.values()]),
        n_groups=("quantity", [g.n if g else 0 for g in groups]),
        r_hat_within=("quantity", [g.r_hat_within if g else np.nan for g in groups]),
        separation=("quantity", [g.separation if g else np.nan for g in groups]),
    )


def _sentence(name, evidence, groups, n_chain):
    states = _state_clauses(evidence)
    found = f"{name.capitalize()} ({n_chain} chains). {states[0].upper()}{states[1:]}."
    if groups is not None:
        found += f" {_group_sentence(groups, n_chain)}"
        if name == EQUAL_PREDICTIONS and _state(evidence, "invariants") == "agree":
            found += (
                " Invariants agree between chains: a symmetry that the alignment missed would "
                "also explain these modes."
            )
    if (
        name == TOO_SHORT
        and _state(evidence, _first(PREDICTIONS, evidence["quantity"].values)) == "agree"
    ):
        found += " Predictions agree across the chains."
    return found


def _state_clauses(evidence):
    """One clause for the kinds in each state, with their worst numbers."""
    states = [str(state) for state in evidence["state"].values]
    nested = bool(np.isfinite(evidence["rhat_nested_max"]).any())
    clauses = []
    for state in dict.fromkeys(states):
        rows = evidence.isel(quantity=[i for i, each in enumerate(states) if each == state])
        r_hats = rows["rhat_nested_max" if nested else "r_hat_max"]
        worst, smallest = float(r_hats.max()), float(rows["ess_bulk_min"].min())
        numbers = [f"largest {'nested ' if nested else ''}R-hat {worst:.3f}"]
        if state == "agree" and worst > R_HAT_LIMIT:
            numbers[0] += f", above {R_HAT_LIMIT} but not significantly"
        numbers.append(f"smallest ESS {smallest:.0f}")
        if state == "agree" and smallest < ESS_LIMIT:
            numbers[-1] += f", below {ESS_LIMIT}: intervals are rough"
        if np.isfinite(rows["r_star"]).any():
            largest = int(rows["r_star_largest"].max())
            numbers.append(f"largest R* {float(rows['r_star'].max()):.1f} of {largest}")
        names = _listed([str(name) for name in rows["quantity"].values])
        clauses.append(f"{names} {_STATE_WORDS[state]} ({', '.join(numbers)})")
    return "; ".join(clauses)


def _listed(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_STATE_WORDS = {
    "agree": "agree",
    "modes": "form groups that agree within and are separated",
    "disagree": "disagree without clear groups",
    "few draws": "have too few effective draws to tell agreement from disagreement",
}


def _group_sentence(groups, n_chain):
    """State the number of groups and of the chains in each."""
    label, chain = groups.label.values, groups.label["chain_index"].values
    per_chain = [set(label[(chain == c) & (label >= 0)].tolist()) for c in range(n_chain)]
    moved = sum(len(each) > 1 for each in per_chain)
    sizes = [sum(each == {g} for each in per_chain) for g in range(groups.n)]
    words = f"Number of groups: {groups.n}, with {', '.join(map(str, sizes))} complete chains"
    return f"{words}; chains with segments in more than one group: {moved}."


def _state(evidence, name):
    if name not in evidence["quantity"]:
        return None
    return str(evidence["state"].sel(quantity=name).values)
