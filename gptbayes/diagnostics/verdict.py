"""A verdict in words: mixed, mixed up to symmetry, trapped in modes, or too short to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import chi2

from gptbayes.diagnostics import segments
from gptbayes.diagnostics.convergence import (
    ALPHA,
    check_kinds,
    check_superchains,
    mixing_table,
    rhat_nested,
)
from gptbayes.findings import ESS_LIMIT, R_HAT_LIMIT
from gptbayes.stats.summary import ess, r_hat

MIXED = "mixed"
UP_TO_SYMMETRY = "mixed up to symmetry"
PREDICT_ALIKE = "trapped in different modes that predict alike"
PREDICT_DIFFERENTLY = "trapped in modes that predict differently"
TOO_SHORT = "too short to tell"
STUCK = "a chain is stuck"
VERDICTS = (MIXED, UP_TO_SYMMETRY, PREDICT_ALIKE, PREDICT_DIFFERENTLY, TOO_SHORT, STUCK)

WRONG_IF = {
    MIXED: "another chain, from a start far from these, settled elsewhere: no number of chains "
    "that agree proves that there is no mode which all of them missed",
    UP_TO_SYMMETRY: "another chain settled elsewhere, or a quantity that no symmetry moves and "
    "that was not looked at disagreed between chains",
    PREDICT_ALIKE: "a path between the modes without a barrier were found (a symmetry that the "
    "alignment missed, or a valley that is only slow to cross), chains run ten times longer "
    "moved from one to the other often, or the modes differed at contexts not looked at",
    PREDICT_DIFFERENTLY: "chains run ten times longer moved between the modes often: they would "
    "be one posterior that is slow to cross, and its draws a fair sample of it",
    TOO_SHORT: "nothing: it claims nothing, and longer or more chains would replace it",
    STUCK: "the chain moved in a quantity that is not among these",
}
"""What would have shown each verdict to be wrong."""

SMALL_DIFFERENCE = 0.2
"""In posterior sd: two modes of equal mass that are so far apart have an R-hat of 1.005."""
MAX_FOCUS = 50
"""Of the scalars on which chains disagree, so many are looked at, those of largest R-hat."""
FUNCTIONS = "log probabilities"
RAW = "raw weights"
PLACES = ("aligned weights", "invariants", "log posterior")


class Verdict(NamedTuple):
    """What chains say of their own mixing.

    Attributes
    ----------
    name : str
        One of `VERDICTS`.
    text : str
        In words, with the numbers.
    wrong_if : str
        What would have shown the verdict to be wrong.
    evidence : Dataset (quantity)
        For each kind: ``state`` ("agree", "modes", "disagree": beyond chance but in no groups
        that agree within, "few draws": no disagreement but too small an ESS), ``n_disagreeing``
        scalars with an R-hat above 1.01 and beyond chance, and with "modes" ``n_groups``,
        ``r_hat_within`` and ``separation`` as in `gptbayes.diagnostics.segments.Groups`; and all
        columns of `mixing_table`.
    groups : gptbayes.diagnostics.segments.Groups, or None
        The modes that the verdict speaks of.
    """

    name: str
    text: str
    wrong_if: str
    evidence: xr.Dataset
    groups: segments.Groups | None = None


def mixing_verdict(
    kinds: Mapping[str, xr.DataArray],
    superchains: Sequence[int] | None = None,
    *,
    r_hats: Mapping[str, xr.DataArray] | None = None,
    table: xr.Dataset | None = None,
) -> Verdict:
    """Say in words whether chains have mixed, and if not, in what way.

    A kind of quantity *agrees* if no R-hat is above 1.01 and beyond what chance gives so many
    scalars at this ESS, the classifier of R* cannot tell chains apart, and the ESS is at least 400
    for the median scalar and 100 for the worst. Where chains disagree, their segments are grouped
    on the scalars that they disagree about: *modes* are groups that agree within and have a valley
    between (`gptbayes.diagnostics.segments.group`). A chain that is slow disagrees with itself as
    much as with the others, and forms no such groups.

    - mixed: all kinds agree. Wrong if another chain settled elsewhere.
    - mixed up to symmetry: all but the raw weights agree. Wrong if another chain settled elsewhere
      or an invariant not looked at disagreed.
    - trapped in different modes that predict alike: modes in aligned weights, invariants or the
      log posterior; predictions agree, and means of no log probability differ between the modes
      by more than 0.2 posterior sd beyond chance. Wrong if a path without a barrier joined them,
      much longer chains crossed often, or predictions differed at other contexts.
    - trapped in modes that predict differently: modes in the log probabilities, or modes elsewhere
      whose log probabilities differ. Wrong if much longer chains crossed often.
    - too short to tell: everything else. One chain; an ESS that is too small; disagreement within
      chains as much as between them. It claims nothing.
    - a chain is stuck: a chain never moved. The others are judged without it, in the text.

    What cannot be told from draws at all: a direction that is slow and does not show, because the
    chain moves fast in everything that was looked at and leaves rarely, is a mode here. "Mode"
    means a region that the sampler did not leave, or left abruptly, in so many draws; whether the
    density has a barrier there is for paths between the modes to show. Modes with the same centre
    and different spread are not grouped, and neither are modes in which chains have less than
    some ten effective draws per segment: both are "too short to tell".

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)
        "log probabilities" at fixed contexts, in nats, and as many as there are of "raw weights",
        "aligned weights", "invariants" and "log posterior". Without aligned weights and
        invariants, raw weights are taken to have no symmetry.
    superchains : sequence of int, one per chain, optional
        Equal for chains that started at the same point; nested R-hat then takes R-hat's place.
    r_hats : mapping of str to DataArray (scalar), optional
        Where they are known already.
    table : Dataset (quantity), optional
        A `mixing_table` of the same, where it is known already.

    Returns
    -------
    Verdict

    Raises
    ------
    ValueError
        As `mixing_table`; if there are no log probabilities; if no chain moved.
    """
    check_kinds(kinds)
    if superchains is not None:
        check_superchains(superchains, kinds[next(iter(kinds))].sizes["chain"])
    if FUNCTIONS not in kinds:
        raise ValueError(f"a verdict needs {FUNCTIONS!r}, got {', '.join(kinds)}")
    stuck = stuck_chains(kinds)
    if stuck:
        return _without_stuck(kinds, stuck)
    if r_hats is None:
        r_hats = {name: r_hat(draws) for name, draws in kinds.items()}
    if table is None:
        table = mixing_table(kinds, superchains, r_hats=r_hats)
    n_chain = kinds[FUNCTIONS].sizes["chain"]
    if n_chain < 2:
        words = "Too short to tell: one chain, and nothing says whether another would agree."
        return Verdict(TOO_SHORT, words, WRONG_IF[TOO_SHORT], table)
    if superchains is not None:
        r_hats = {name: rhat_nested(draws, superchains) for name, draws in kinds.items()}
    judged = {
        name: _judged(draws, r_hats[name], table.sel(quantity=name), superchains)
        for name, draws in kinds.items()
    }
    evidence = _evidence(table, judged)
    name, groups = _decided(kinds, judged)
    return Verdict(name, _words(name, evidence, groups, n_chain), WRONG_IF[name], evidence, groups)


def stuck_chains(kinds: Mapping[str, xr.DataArray]) -> list[int]:
    """Chains, counted from 0, that never move in any quantity.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)

    Returns
    -------
    list of int
    """
    still = [
        (np.ptp(each.transpose("chain", "draw", ...).values, axis=1) == 0).all(axis=-1)
        for each in kinds.values()
    ]
    return np.flatnonzero(np.logical_and.reduce(still)).tolist()


class _Judged(NamedTuple):
    state: str
    n_disagreeing: int
    groups: segments.Groups | None


def _judged(draws, r_hats, row, superchains):
    focus = _disagreeing(draws, r_hats, superchains)
    if focus.size:
        groups = segments.group(segments.cut(draws.isel(scalar=focus[:MAX_FOCUS])))
        return _Judged("modes" if groups else "disagree", focus.size, groups)
    if row["r_star_lower"] > 1:
        return _Judged("disagree", 0, None)
    if not np.isfinite(row["ess_bulk_min"]):  # nothing ever changes
        return _Judged("agree", 0, None)
    few = row["ess_bulk_median"] < ESS_LIMIT or row["ess_bulk_min"] < ESS_LIMIT / 4
    return _Judged("few draws" if few else "agree", 0, None)


def _disagreeing(draws, r_hats, superchains):
    """Scalars, worst first, with an R-hat above 1.01 that chance does not explain.

    If every group of draws whose means R-hat compares is worth e independent draws, the variance
    of the m means over the variance of a draw is e⁻¹ χ²(m - 1) / (m - 1). Here e is from the ESS
    of each chain by itself, for that of all together is small *because* chains disagree. R-hat is
    the larger of that of the draws and of their distances from the median, and so the smaller ESS
    counts, and none above the number of draws (NUTS is often antithetic for the mean only).
    """
    values = np.nan_to_num(r_hats.values, nan=1.0, posinf=1e300)
    worst = np.argsort(-values)[: int((values > R_HAT_LIMIT).sum())]
    if not worst.size:
        return worst
    looked_at = worst[: 4 * MAX_FOCUS]
    n_chain, n_draw = draws.sizes["chain"], draws.sizes["draw"]
    seen = draws.isel(scalar=looked_at)
    both = xr.concat([seen, abs(seen - seen.median(("chain", "draw")))], "moment")
    alone = [_ess_bulk(both.isel(chain=[c])).min("moment") for c in range(n_chain)]
    total = sum(np.minimum(each.fillna(n_draw), n_draw) for each in alone).values
    m = 2 * n_chain if superchains is None else len(set(superchains))
    quantile = chi2.isf(ALPHA / draws.sizes["scalar"], m - 1) / (m - 1)
    return looked_at[values[looked_at] > np.sqrt(1 + quantile * m / total)]


def _ess_bulk(draws):
    return ess(draws)["ess_bulk"]


def _decided(kinds, judged):
    """The name of the verdict, and the modes that it speaks of."""
    functions = judged[FUNCTIONS]
    if functions.state == "modes":
        return PREDICT_DIFFERENTLY, functions.groups
    places = [name for name in PLACES if name in judged]
    if not {"aligned weights", "invariants"} & set(places) and RAW in judged:
        places.append(RAW)
    modes = [judged[name].groups for name in places if judged[name].state == "modes"]
    if modes:
        if _predictions_differ(kinds[FUNCTIONS], modes[0]):
            return PREDICT_DIFFERENTLY, modes[0]
        return (PREDICT_ALIKE if functions.state == "agree" else TOO_SHORT), modes[0]
    if any(judged[name].state != "agree" for name in (*places, FUNCTIONS)):
        return TOO_SHORT, None
    raw = judged.get(RAW)
    return (MIXED if raw is None or raw.state == "agree" else UP_TO_SYMMETRY), None


def _predictions_differ(log_prob, groups):
    per_chain = int((groups.label["of_chain"] == 0).sum())
    found = segments.differences(segments.cut(log_prob, per_chain), groups.label)
    beyond_chance = found["p_value"] * found.sizes["scalar"] < ALPHA
    return bool((beyond_chance & (found["range"] > SMALL_DIFFERENCE * found["sd"])).any())


def _without_stuck(kinds, stuck):
    n_chain = kinds[FUNCTIONS].sizes["chain"]
    living = [c for c in range(n_chain) if c not in stuck]
    if not living:
        raise ValueError(f"a verdict needs chains that move, got {n_chain} that never do")
    rest = mixing_verdict({name: draws.isel(chain=living) for name, draws in kinds.items()})
    names = ", ".join(str(c + 1) for c in stuck)
    words = f"Of {n_chain} chains, those that never moved: {names}. Without: {rest.text}"
    return Verdict(STUCK, words, WRONG_IF[STUCK], rest.evidence, rest.groups)


def _evidence(table, judged):
    groups = [each.groups for each in judged.values()]
    return table.assign(
        state=("quantity", [each.state for each in judged.values()]),
        n_disagreeing=("quantity", [each.n_disagreeing for each in judged.values()]),
        n_groups=("quantity", [g.n if g else 0 for g in groups]),
        r_hat_within=("quantity", [g.r_hat_within if g else np.nan for g in groups]),
        separation=("quantity", [g.separation if g else np.nan for g in groups]),
    )


def _words(name, evidence, groups, n_chain):
    states = _state_words(evidence)
    found = f"{name.capitalize()} ({n_chain} chains). {states[0].upper()}{states[1:]}."
    if groups is not None:
        found += f" {_group_words(groups, n_chain)}"
        if name == PREDICT_ALIKE and _state(evidence, "invariants") == "agree":
            found += (
                " What no symmetry moves agrees between chains: a symmetry that the alignment "
                "missed would explain these modes as well."
            )
    if name == TOO_SHORT and _state(evidence, FUNCTIONS) == "agree":
        found += " Predictions have mixed all the same."
    return found


def _state_words(evidence):
    """Kinds that are in the same state in one breath, with their worst numbers."""
    states = [str(state) for state in evidence["state"].values]
    nested = bool(np.isfinite(evidence["rhat_nested_max"]).any())
    clauses = []
    for state in dict.fromkeys(states):
        rows = evidence.isel(quantity=[i for i, each in enumerate(states) if each == state])
        r_hats = rows["rhat_nested_max" if nested else "r_hat_max"]
        worst, smallest = float(r_hats.max()), float(rows["ess_bulk_min"].min())
        numbers = [f"largest {'nested ' if nested else ''}R-hat {worst:.3f}"]
        if state == "agree" and worst > R_HAT_LIMIT:
            numbers[0] += f", above {R_HAT_LIMIT} but no further than chance takes one of so many"
        numbers.append(f"smallest ESS {smallest:.0f}")
        if state == "agree" and smallest < ESS_LIMIT:
            numbers[-1] += f", below {ESS_LIMIT}: intervals of such scalars are rough"
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
    "modes": "fall into groups that agree within and are apart from each other",
    "disagree": "disagree, within chains or in no clear groups",
    "few draws": "do not disagree, but have too few effective draws to say that they agree",
}


def _group_words(groups, n_chain):
    """Which chains are where."""
    label, chain = groups.label.values, groups.label["of_chain"].values
    per_chain = [set(label[(chain == c) & (label >= 0)].tolist()) for c in range(n_chain)]
    moved = sum(len(each) > 1 for each in per_chain)
    sizes = [sum(each == {g} for each in per_chain) for g in range(groups.n)]
    words = f"Groups found: {groups.n}, with {', '.join(map(str, sizes))} whole chains"
    return f"{words}; chains that were in more than one: {moved}."


def _state(evidence, name):
    if name not in evidence["quantity"]:
        return None
    return str(evidence["state"].sel(quantity=name).values)
