"""R-hat, nested R-hat, ESS and R* of several kinds of quantities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import t as student_t

from gptbayes.findings import R_HAT_LIMIT
from gptbayes.stats.blocks import in_threads
from gptbayes.stats.summary import diagnostics

ALPHA = 0.01
"""Family-wise error rate of tests for disagreement between chains."""
MIN_DRAWS = 8
"""Smallest number of draws per chain for a verdict on mixing."""


class RStar(NamedTuple):
    """R*: how well a classifier predicts the half chain of a draw.

    Attributes
    ----------
    value : float
        Accuracy on held-out draws times the number of half chains; 1 for random guesses.
    se : float
        Standard error over splits, corrected for the draws that splits have in common.
    lower : float
        Lower end of the one-sided 99 % interval. Above 1, half chains differ.
    largest : int
        The value if all draws are classified correctly: the number of half chains.
    """

    value: float
    se: float
    lower: float
    largest: int


def diagnose_scalars(kinds: Mapping[str, xr.DataArray]) -> dict[str, xr.Dataset]:
    """Compute R-hat and ESS of every scalar of several kinds of quantities.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)

    Returns
    -------
    dict of str to Dataset (scalar)
        ``r_hat``, ``ess_bulk`` and ``ess_tail``.
    """
    return {name: diagnostics(draws) for name, draws in kinds.items()}


def convergence(
    kinds: Mapping[str, xr.DataArray], diagnosed: Mapping[str, xr.Dataset] | None = None
) -> xr.Dataset:
    """Compute R-hat and ESS of several kinds of quantities.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)
        As of `gptbayes.diagnostics.quantities.quantities`.
    diagnosed : mapping of str to Dataset (scalar), optional
        As of `diagnose_scalars`, if they have been computed already.

    Returns
    -------
    Dataset (quantity)
        ``n``, the number of scalars; ``r_hat_max``, ``r_hat_median``, ``share_above`` (the
        fraction of R-hats above 1.01), ``ess_bulk_min``, ``ess_bulk_median`` and
        ``ess_tail_min``.

    Raises
    ------
    ValueError
        If there are fewer than two chains.

    See Also
    --------
    mixing_table : With nested R-hat and R*, also for one chain.

    Examples
    --------
    >>> draws = np.random.default_rng(1).normal(size=(4, 500, 3))
    >>> table = convergence({"theta": xr.DataArray(draws, dims=("chain", "draw", "scalar"))})
    >>> bool(table["r_hat_max"].sel(quantity="theta") < 1.01)
    True
    """
    n_chain = next(iter(kinds.values())).sizes["chain"]
    if n_chain < 2:
        raise ValueError(f"convergence needs at least two chains, got {n_chain}")
    return _rows(kinds, diagnosed)


def mixing_table(
    kinds: Mapping[str, xr.DataArray],
    superchains: Sequence[int] | None = None,
    *,
    diagnosed: Mapping[str, xr.Dataset] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Compute R-hat, nested R-hat, ESS and R* of several kinds of quantities.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)
        Such as "raw weights", "aligned weights", "invariants", "log probabilities" and "log
        posterior".
    superchains : sequence of int, one per chain, optional
        Equal labels for chains that started at the same point.
    diagnosed : mapping of str to Dataset (scalar), optional
        As of `diagnose_scalars`, if they have been computed already.
    seed : int
        Seed of the classifier and its splits.

    Returns
    -------
    Dataset (quantity)
        As of `convergence`, with ``rhat_nested_max`` (nan without superchains), and ``r_star``,
        ``r_star_se``, ``r_star_lower`` and ``r_star_largest`` as in `RStar`. R-hats are nan for
        one chain and for constant scalars.

    Raises
    ------
    ValueError
        If kinds have different chains or draws, a value is not finite, there are fewer than 8
        draws per chain, or superchains are invalid (see `rhat_nested`).

    See Also
    --------
    gptbayes.diagnostics.verdict.mixing_verdict : An interpretation of this table.
    """
    check_kinds(kinds)
    table = _rows(kinds, diagnosed)
    if superchains is None:
        nested = [np.nan] * len(kinds)
    else:
        nested = [float(rhat_nested(each, superchains).max()) for each in kinds.values()]
    classified = [r_star(each, np.random.default_rng(seed)) for each in kinds.values()]
    return table.assign(
        rhat_nested_max=("quantity", nested),
        r_star=("quantity", [each.value for each in classified]),
        r_star_se=("quantity", [each.se for each in classified]),
        r_star_lower=("quantity", [each.lower for each in classified]),
        r_star_largest=("quantity", [each.largest for each in classified]),
    )


def rhat_nested(draws: xr.DataArray, superchains: Sequence[int]) -> xr.DataArray:
    """Compute nested R-hat of many short chains (Margossian et al. 2024, equations 15 to 19).

    Chains that started at the same point form a superchain. The Monte Carlo error of its mean is
    that of all its chains, so that chains may be short. The bias of its mean depends on its
    starting point, so that disagreement between superchains shows bias that remains.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    superchains : sequence of int, one per chain

    Returns
    -------
    DataArray (...)
        At least 1; nan for constant scalars.

    Raises
    ------
    ValueError
        If there is not one label per chain, or there are fewer than two superchains or
        superchains of different sizes.

    See Also
    --------
    gptbayes.stats.summary.r_hat : R-hat of single chains.
    """
    ids = check_superchains(superchains, draws.sizes["chain"])
    chain_mean = draws.mean("draw").assign_coords(superchain=("chain", ids)).groupby("superchain")
    within = draws.var("draw", ddof=1) if draws.sizes["draw"] > 1 else 0 * draws.mean("draw")
    within = within.assign_coords(superchain=("chain", ids)).groupby("superchain").mean()
    if draws.sizes["chain"] > len(np.unique(ids)):
        within = within + chain_mean.var(ddof=1)
    within = within.mean("superchain")
    between = chain_mean.mean().var("superchain", ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (1 + between / within) ** 0.5


def r_star(
    draws: xr.DataArray,
    rng: np.random.Generator,
    *,
    n_splits: int = 10,
    max_draws: int = 1000,
    max_scalars: int = 100,
) -> RStar:
    """Compute R*, the accuracy of a classifier of half chains (Lambert & Vehtari 2022, section 2).

    A forest of trees with random thresholds (Geurts et al. 2006) is trained to predict the half
    chain of a draw and tested on held-out draws. It detects differences of any kind, in many
    scalars jointly. Neighboring draws are dependent. Therefore blocks of draws are held out, three
    tenths of all, and the half blocks next to them are excluded from training.

    Parameters
    ----------
    draws : DataArray (chain, draw, scalar)
    rng : numpy.random.Generator
    n_splits : int
        Number of splits into training and test draws. Splits have draws in common, for which the
        standard error is corrected (Nadeau & Bengio 2003, section 3).
    max_draws : int
        Maximum number of draws of all chains, but at least 20 per chain. Longer chains are
        thinned.
    max_scalars : int
        Maximum number of scalars. If more of them vary, a random subset is used.

    Returns
    -------
    RStar
        nan if all scalars are constant or chains are shorter than 20 draws.
    """
    n_chain, n_draw = draws.sizes["chain"], draws.sizes["draw"]
    x = draws.transpose("chain", "draw", "scalar").values
    x = x[..., np.flatnonzero(np.ptp(x, axis=(0, 1)) > 0)]
    undefined = RStar(np.nan, np.nan, np.nan, 2 * n_chain)
    if x.shape[-1] == 0 or n_draw < 2 * _BLOCKS:
        return undefined
    if x.shape[-1] > max_scalars:
        x = x[..., rng.choice(x.shape[-1], max_scalars, replace=False)]
    per_chain = max(2 * _BLOCKS, max_draws // n_chain)
    splits = [_r_star_split(x, per_chain, rng) for _ in range(n_splits)]
    values = np.array(in_threads(_r_star_of_split, splits))
    share = _HELD_OUT / (_BLOCKS / 2)
    se = values.std(ddof=1) * np.sqrt(1 / n_splits + share / (1 - share))
    lower = values.mean() - student_t.ppf(1 - ALPHA, n_splits - 1) * se
    return RStar(float(values.mean()), float(se), float(lower), 2 * n_chain)


def check_kinds(kinds: Mapping[str, xr.DataArray]) -> None:
    """Check draws of several kinds of quantities.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)

    Raises
    ------
    ValueError
        If there are none, they have different chains or draws, draws are not finite, or there are
        too few draws.
    """
    if not kinds:
        raise ValueError("kinds must have at least one quantity, got none")
    sizes = {name: (each.sizes["chain"], each.sizes["draw"]) for name, each in kinds.items()}
    first = next(iter(sizes))
    for name, draws in kinds.items():
        if sizes[name] != sizes[first]:
            raise ValueError(
                f"kinds must have the same chains and draws, got {sizes[first]} for {first!r} "
                f"and {sizes[name]} for {name!r}"
            )
        bad = ~np.isfinite(draws.transpose("chain", "draw", ...).values).all(axis=-1)
        if bad.any():
            chain = int(bad.any(axis=1).argmax())
            raise ValueError(
                f"draws must be finite, got {int(bad[chain].sum())} nonfinite draws of {name!r} in "
                f"chain {chain + 1}"
            )
    n_draw = sizes[first][1]
    if n_draw < MIN_DRAWS:
        raise ValueError(f"mixing needs at least {MIN_DRAWS} draws per chain, got {n_draw}")


_BLOCKS = 10
_TREES = 30
_HELD_OUT = 1.5  # mean number of held-out blocks of the five of a half chain


class _Split(NamedTuple):
    """Draws to learn from and to test on, with their half chains, and the seed of a forest."""

    learned: tuple[np.ndarray, np.ndarray]
    tested: tuple[np.ndarray, np.ndarray]
    seed: int


def _r_star_split(x, per_chain, rng):
    """One split of x (chain, draw, scalar)."""
    n_chain, n_draw = x.shape[:2]
    length = n_draw // _BLOCKS
    x = x[:, n_draw - _BLOCKS * length :]
    block = np.arange(_BLOCKS * length) // length
    labels = 2 * np.arange(n_chain)[:, None] + (block >= _BLOCKS // 2)  # (chain, draw)
    held_out = np.zeros(labels.shape, bool)
    adjacent = np.zeros(labels.shape, bool)
    for row in range(n_chain):
        for half in range(2):
            n_held = int(_HELD_OUT) + rng.integers(2)
            for b in half * _BLOCKS // 2 + rng.choice(_BLOCKS // 2, n_held, replace=False):
                held_out[row, b * length : (b + 1) * length] = True
                near = slice(max(0, b * length - length // 2), (b + 1) * length + length // 2)
                adjacent[row, near] = True
    kept = np.arange(block.size) % -(-block.size // per_chain) == 0
    learned, tested = ~adjacent & kept, held_out & kept
    return _Split(
        (x[learned], labels[learned]), (x[tested], labels[tested]), int(rng.integers(2**31))
    )


def _r_star_of_split(split):
    """R* of one split: the mean accuracy times the number of half chains."""
    from sklearn import config_context  # not at the top: the import takes a second
    from sklearn.tree import ExtraTreeClassifier

    learned, tested = (draws.astype(np.float32) for draws, _ in (split.learned, split.tested))
    of_learned, labels = split.learned[1], split.tested[1]
    weights = (1 / np.bincount(of_learned))[of_learned]
    votes: Any = 0.0
    # Not a forest of scikit-learn: its trees change Python's filters of warnings, for all threads.
    with config_context(assume_finite=True, skip_parameter_validation=True):  # a tenth faster
        for seed in range(_TREES):
            tree = ExtraTreeClassifier(min_samples_leaf=3, random_state=split.seed + seed)
            votes += tree.fit(learned, of_learned, weights).predict_proba(tested)
    correct = np.argmax(votes, axis=1) == labels
    accuracy = np.bincount(labels, correct) / np.bincount(labels)
    return accuracy.mean() * len(accuracy)


def check_superchains(superchains: Sequence[int], n_chain: int) -> np.ndarray:
    """Return the labels of superchains as an array.

    Parameters
    ----------
    superchains : sequence of int, one per chain
    n_chain : int

    Returns
    -------
    ndarray of int, (chain,)

    Raises
    ------
    ValueError
        If there is not one label per chain, or superchains are fewer than two or of unequal size.
    """
    ids = np.asarray(superchains)
    if ids.shape != (n_chain,):
        raise ValueError(f"superchains needs one label per chain, {n_chain}, got {ids.size}")
    sizes = np.unique(ids, return_counts=True)[1]
    if sizes.size < 2 or sizes.min() != sizes.max():
        raise ValueError(
            f"superchains must be at least two and of equal size, got sizes {sizes.tolist()}"
        )
    return ids


def _rows(kinds, diagnosed):
    diagnosed = diagnose_scalars(kinds) if diagnosed is None else diagnosed
    names = xr.DataArray(list(kinds), dims="quantity", name="quantity")
    return xr.concat([_row(diagnosed[name]) for name in kinds], names)


def _row(found):
    r_hat, bulk, tail = (found[name] for name in ("r_hat", "ess_bulk", "ess_tail"))
    return xr.Dataset(
        {
            "n": found.sizes["scalar"],
            "r_hat_max": r_hat.max(),
            "r_hat_median": r_hat.median(),
            "share_above": (r_hat > R_HAT_LIMIT).mean(),
            "ess_bulk_min": bulk.min(),
            "ess_bulk_median": bulk.median(),
            "ess_tail_min": tail.min(),
        }
    )
