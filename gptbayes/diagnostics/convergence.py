"""R-hat, nested R-hat, ESS and R* of several kinds of quantity, one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import t as student_t
from sklearn.ensemble import RandomForestClassifier

from gptbayes.findings import R_HAT_LIMIT
from gptbayes.stats.summary import ess, r_hat

ALPHA = 0.01
"""Family-wise error of what is said to be beyond chance."""
MIN_DRAWS = 8


class RStar(NamedTuple):
    """How well a classifier tells half chains apart.

    Attributes
    ----------
    value : float
        R*: accuracy on held-out draws times the number of half chains; 1 is guessing.
    se : float
        Standard error over splits, corrected for the draws that splits share.
    lower : float
        Lower end of the one-sided 99 % interval; above 1, chains can be told apart.
    largest : int
        What R* is when every draw is told right: the number of half chains.
    """

    value: float
    se: float
    lower: float
    largest: int


def convergence(
    kinds: Mapping[str, xr.DataArray], r_hats: Mapping[str, xr.DataArray] | None = None
) -> xr.Dataset:
    """R-hat and ESS of several kinds of quantity, one row each.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)
        As `gptbayes.diagnostics.sampler.quantities` returns them.
    r_hats : mapping of str to DataArray (scalar), optional
        Where they are known already.

    Returns
    -------
    Dataset (quantity)
        ``n`` scalars of each kind, ``r_hat_max``, ``r_hat_median``, ``share_above`` (of R-hats
        above 1.01), ``ess_bulk_min``, ``ess_bulk_median``, ``ess_tail_min``.

    Raises
    ------
    ValueError
        If there are fewer than two chains: their agreement is what this is about.
    """
    n_chain = next(iter(kinds.values())).sizes["chain"]
    if n_chain < 2:
        raise ValueError(f"convergence needs at least two chains, got {n_chain}")
    return _rows(kinds, r_hats)


def mixing_table(
    kinds: Mapping[str, xr.DataArray],
    superchains: Sequence[int] | None = None,
    *,
    r_hats: Mapping[str, xr.DataArray] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """`convergence` with nested R-hat and R*, for one chain or many.

    Parameters
    ----------
    kinds : mapping of str to DataArray (chain, draw, scalar)
        Such as "raw weights", "aligned weights", "invariants", "log probabilities" and "log
        posterior".
    superchains : sequence of int, one per chain, optional
        Equal for chains that started at the same point.
    r_hats : mapping of str to DataArray (scalar), optional
        Where they are known already.
    seed : int
        Of the classifier and its splits.

    Returns
    -------
    Dataset (quantity)
        As `convergence`; ``rhat_nested_max``, nan without superchains; ``r_star``,
        ``r_star_se``, ``r_star_lower`` and ``r_star_largest`` as in `RStar`. For one chain R-hats
        are nan. Scalars that never change have no R-hat.

    Raises
    ------
    ValueError
        If kinds have different chains or draws, a value is not finite (as where shorter chains
        were filled up), there are fewer than 8 draws per chain, or superchains do not fit.
    """
    check_kinds(kinds)
    table = _rows(kinds, r_hats)
    if superchains is None:
        nested = [np.nan] * len(kinds)
    else:
        nested = [float(rhat_nested(each, superchains).max()) for each in kinds.values()]
    told = [r_star(each, np.random.default_rng(seed)) for each in kinds.values()]
    return table.assign(
        rhat_nested_max=("quantity", nested),
        r_star=("quantity", [each.value for each in told]),
        r_star_se=("quantity", [each.se for each in told]),
        r_star_lower=("quantity", [each.lower for each in told]),
        r_star_largest=("quantity", [each.largest for each in told]),
    )


def rhat_nested(draws: xr.DataArray, superchains: Sequence[int]) -> xr.DataArray:
    """Nested R-hat of many short chains (Margossian et al. 2024, equations 15 to 19).

    Chains that started at the same point are a superchain. Its mean has the Monte Carlo error of
    all its chains, so that chains may be short, and it has the bias of its one start, so that what
    superchains disagree about is what has not been forgotten.

    Parameters
    ----------
    draws : DataArray (chain, draw, ...)
    superchains : sequence of int, one per chain

    Returns
    -------
    DataArray (...)
        At least 1; nan where nothing changes.

    Raises
    ------
    ValueError
        If there is not one label per chain, fewer than two superchains, or they are of different
        sizes.
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
    """R*: can a classifier tell the chains apart (Lambert & Vehtari 2022, section 2)?

    A random forest learns from some draws which half of which chain a draw is from, and is tested
    on others; it sees differences of any kind and in many scalars at once. Neighbouring draws of
    a chain are alike, and a classifier that has seen one knows the other: what is held out are
    blocks, three tenths of all, and the half blocks beside them are not learned from.

    Parameters
    ----------
    draws : DataArray (chain, draw, scalar)
    rng : numpy.random.Generator
    n_splits : int
        Into what is learned from and what is held out. They share draws, which the standard error
        takes into account (Nadeau & Bengio 2003, section 3).
    max_draws : int
        Of all chains together, but 20 of each at least; more are thinned.
    max_scalars : int
        If there are more that change, so many are picked at random.

    Returns
    -------
    RStar
        nan if nothing changes, or chains are shorter than 20 draws.
    """
    n_chain, n_draw = draws.sizes["chain"], draws.sizes["draw"]
    x = draws.transpose("chain", "draw", "scalar").values
    x = x[..., np.flatnonzero(np.ptp(x, axis=(0, 1)) > 0)]
    nothing = RStar(np.nan, np.nan, np.nan, 2 * n_chain)
    if x.shape[-1] == 0 or n_draw < 2 * _BLOCKS:
        return nothing
    if x.shape[-1] > max_scalars:
        x = x[..., rng.choice(x.shape[-1], max_scalars, replace=False)]
    per_chain = max(2 * _BLOCKS, max_draws // n_chain)
    values = np.array([_told_apart(x, per_chain, rng) for _ in range(n_splits)])
    share = _HELD_OUT / (_BLOCKS / 2)
    se = values.std(ddof=1) * np.sqrt(1 / n_splits + share / (1 - share))
    lower = values.mean() - student_t.ppf(1 - ALPHA, n_splits - 1) * se
    return RStar(float(values.mean()), float(se), float(lower), 2 * n_chain)


def check_kinds(kinds: Mapping[str, xr.DataArray]) -> None:
    """Refuse what no diagnostic is defined for, see `mixing_table`."""
    if not kinds:
        raise ValueError("mixing needs at least one kind of quantity, got none")
    sizes = {name: (each.sizes["chain"], each.sizes["draw"]) for name, each in kinds.items()}
    first = next(iter(sizes))
    for name, draws in kinds.items():
        if sizes[name] != sizes[first]:
            raise ValueError(
                f"kinds must have the same chains and draws, {first!r} has {sizes[first]} and "
                f"{name!r} {sizes[name]}"
            )
        bad = ~np.isfinite(draws.transpose("chain", "draw", ...).values).all(axis=-1)
        if bad.any():
            chain = int(bad.any(axis=1).argmax())
            raise ValueError(
                f"chains must be finite and of equal length, {name!r} has {int(bad[chain].sum())} "
                f"draws without a number in chain {chain + 1}"
            )
    n_draw = sizes[first][1]
    if n_draw < MIN_DRAWS:
        raise ValueError(f"mixing needs at least {MIN_DRAWS} draws per chain, got {n_draw}")


_BLOCKS = 10
_TREES = 30
_HELD_OUT = 1.5  # blocks of each half chain's five, on average


def _told_apart(x, per_chain, rng):
    """R* of one split, x (chain, draw, scalar)."""
    n_chain, n_draw = x.shape[:2]
    length = n_draw // _BLOCKS
    x = x[:, n_draw - _BLOCKS * length :]
    block = np.arange(_BLOCKS * length) // length
    classes = 2 * np.arange(n_chain)[:, None] + (block >= _BLOCKS // 2)  # (chain, draw)
    held_out = np.zeros(classes.shape, bool)
    beside = np.zeros(classes.shape, bool)
    for row in range(n_chain):
        for half in range(2):
            n_held = int(_HELD_OUT) + rng.integers(2)
            for b in half * _BLOCKS // 2 + rng.choice(_BLOCKS // 2, n_held, replace=False):
                held_out[row, b * length : (b + 1) * length] = True
                near = slice(max(0, b * length - length // 2), (b + 1) * length + length // 2)
                beside[row, near] = True
    kept = np.arange(block.size) % -(-block.size // per_chain) == 0
    learned, tested = ~beside & kept, held_out & kept
    forest = RandomForestClassifier(
        _TREES, min_samples_leaf=3, random_state=int(rng.integers(2**31)), class_weight="balanced"
    )
    forest.fit(x[learned], classes[learned])
    right = forest.predict(x[tested]) == classes[tested]
    accuracy = np.bincount(classes[tested], right) / np.bincount(classes[tested])
    return accuracy.mean() * 2 * n_chain


def check_superchains(superchains: Sequence[int], n_chain: int) -> np.ndarray:
    """The labels as an array; what is refused, see `rhat_nested`."""
    ids = np.asarray(superchains)
    if ids.shape != (n_chain,):
        raise ValueError(f"superchains needs one label per chain, {n_chain}, got {ids.size}")
    sizes = np.unique(ids, return_counts=True)[1]
    if sizes.size < 2 or sizes.min() != sizes.max():
        raise ValueError(
            f"superchains must be at least two and of equal size, got sizes {sizes.tolist()}"
        )
    return ids


def _rows(kinds, r_hats):
    if r_hats is None:
        r_hats = {name: r_hat(draws) for name, draws in kinds.items()}
    names = xr.DataArray(list(kinds), dims="quantity", name="quantity")
    return xr.concat([_row(draws, r_hats[name]) for name, draws in kinds.items()], names)


def _row(draws, values):
    sizes = ess(draws)
    return xr.Dataset(
        {
            "n": draws.sizes["scalar"],
            "r_hat_max": values.max(),
            "r_hat_median": values.median(),
            "share_above": (values > R_HAT_LIMIT).mean(),
            "ess_bulk_min": sizes["ess_bulk"].min(),
            "ess_bulk_median": sizes["ess_bulk"].median(),
            "ess_tail_min": sizes["ess_tail"].min(),
        }
    )
