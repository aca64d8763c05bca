"""R-hat, effective sample size and Monte Carlo error of many scalars at once, in numpy.

Draws are arrays ``(chain, draw, ...)``. All scalars after the first two axes are diagnosed
together: they are sorted once, ranks, folded ranks and quantiles follow from that order, and
autocovariances of all of them come from one Fourier transform. The work is done in blocks of about
a megabyte of draws, so that memory beside input and result does not grow with the number of
scalars.

Definitions and edge cases are those of ArviZ 0.23 (Vehtari, Gelman, Simpson, Carpenter & Bürkner
2021, "Rank-normalization, folding, and localization: an improved R-hat"): results agree to 1e-10.
A scalar with a nan has none of these diagnostics, and neither have chains of fewer than four draws;
R-hat needs two chains. A scalar that never changes has as many effective draws as there are draws,
and R-hat nan. Everything is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from scipy.fft import next_fast_len

from gptbayes.stats import ranks
from gptbayes.stats.blocks import over_blocks, scalars_first

MIN_DRAWS = 4
"""Shorter chains have no diagnostics."""
TAIL = 0.05
"""Tail ESS is the smaller one of the quantiles at this probability and one minus it."""
CONSTANT = 1e-15
"""Values within so small a range are constant (ArviZ's limit)."""
ROUNDING = 1e-12
"""Sums of autocorrelations nearer to zero are zero up to rounding."""


def r_hat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalised, folded, split R-hat.

    The larger of split R-hat of normal scores and of normal scores of the distances from the
    median (Vehtari et al. 2021, equations 3, 4 and 14, and section 4.2).

    Parameters
    ----------
    draws : ndarray, (chain, draw, ...)

    Returns
    -------
    ndarray, (...)
        nan for fewer than two chains.
    """
    return statistics(draws, ["r_hat"])["r_hat"]


def ess(draws: np.ndarray, method: str = "bulk") -> np.ndarray:
    """Effective sample size.

    Parameters
    ----------
    draws : ndarray, (chain, draw, ...)
    method : {"bulk", "tail", "mean"}
        Of normal scores; the smaller one of the 5 % and the 95 % quantile; of the mean (Vehtari et
        al. 2021, equation 10 and section 4.3).

    Returns
    -------
    ndarray, (...)

    Raises
    ------
    ValueError
        If the method is none of these.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    name = f"ess_{method}"
    return statistics(draws, [name])[name]


def mcse_mean(draws: np.ndarray) -> np.ndarray:
    """Monte Carlo standard error of the mean: the sample standard deviation over the root of ESS.

    Parameters
    ----------
    draws : ndarray, (chain, draw, ...)

    Returns
    -------
    ndarray, (...)
    """
    return statistics(draws, ["mcse_mean"])["mcse_mean"]


def statistics(
    draws: np.ndarray,
    names: Sequence[str],
    *,
    quantiles: Mapping[str, float] | None = None,
    where: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Several statistics of every scalar, with what they have in common computed once.

    Parameters
    ----------
    draws : ndarray, (chain, draw, ...)
    names : sequence of str
        Of "r_hat", "ess_bulk", "ess_tail", "ess_mean", "mcse_mean", and "mean" and "sd" (divisor
        n, the number of draws), which pass over nan.
    quantiles : mapping of str to float, optional
        Further statistics: quantiles by their names (Hyndman & Fan 1996, definition 7), which pass
        over nan.
    where : ndarray of bool, (...), optional
        Which scalars; the others are nan.

    Returns
    -------
    dict of str to ndarray, (...)

    Raises
    ------
    ValueError
        If draws have fewer than two dimensions, or a name is none of these.
    """
    unknown = [name for name in names if name not in STATISTICS]
    if unknown:
        raise ValueError(f"statistics are {', '.join(STATISTICS)}, got {', '.join(unknown)}")
    draws = np.asarray(draws)
    if draws.ndim < 2:
        raise ValueError(f"draws must be (chain, draw, ...), got shape {draws.shape}")
    quantiles = dict(quantiles or {})
    shape = draws.shape[2:]
    flat = draws.reshape(*draws.shape[:2], int(np.prod(shape)))  # (chain, draw, scalar)
    found = {name: np.full(flat.shape[2], np.nan) for name in (*names, *quantiles)}
    chosen = np.arange(flat.shape[2]) if where is None else np.flatnonzero(where)

    def of_block(some):
        block = _Block(flat[..., some] if where is None else flat[..., chosen[some]])
        for name in names:
            found[name][chosen[some]] = STATISTICS[name](block)
        for name, p in quantiles.items():
            found[name][chosen[some]] = block.quantile(p)

    over_blocks(of_block, len(chosen), flat.shape[0] * flat.shape[1])
    return {name: values.reshape(shape) for name, values in found.items()}


class _Block:
    """Some scalars, and what their statistics share; ``(scalar, chain, draw)``."""

    def __init__(self, draws):
        self.draws = scalars_first(draws)
        self.n_chain, self.n_draw = self.draws.shape[1:]

    @cached_property
    def missing(self):
        return np.isnan(self.draws).any(axis=(1, 2))

    @cached_property
    def split(self):
        """Half chains, (scalar, 2 chain, draw // 2); of an odd number the middle draw is left out.

        Draws lie next to each other, so that sums over them are rounded as for one scalar alone.
        """
        half = self.n_draw // 2
        return np.concatenate([self.draws[..., :half], self.draws[..., -half:]], axis=1)

    @cached_property
    def order(self):
        """Order of the draws of the half chains, (scalar, chain * draw)."""
        return ranks.argsort(self.split.reshape(len(self.draws), -1))

    @cached_property
    def ascending(self):
        return ranks.take(self.split, self.order)

    @cached_property
    def all_ascending(self):
        if self.n_draw % 2 or self.n_draw < MIN_DRAWS:
            return np.sort(self.draws.reshape(len(self.draws), -1), axis=-1)
        return self.ascending

    @cached_property
    def scores(self):
        """Normal scores of the draws."""
        return ranks.normal_scores(self.ascending, self.order).reshape(self.split.shape)

    @cached_property
    def folded_scores(self):
        """Normal scores of the distances from the median, nan where the median is not finite.

        Distances of sorted draws fall and then rise: a stable sort, which looks for runs, merges
        them in linear time.
        """
        middle = self.ascending.shape[-1] // 2
        median = (self.ascending[:, middle - 1] + self.ascending[:, middle]) / 2
        distance = abs(self.ascending - median[:, None])
        merged = np.argsort(distance, axis=-1, kind="stable")
        order, distance = ranks.take(self.order, merged), ranks.take(distance, merged)
        scores = ranks.normal_scores(distance, order).reshape(self.split.shape)
        scores[np.isnan(distance[:, -1])] = np.nan
        return scores

    @cached_property
    def mean(self):
        return self._passing_over_nan(np.mean, np.nanmean)

    @cached_property
    def sd(self):
        return self._passing_over_nan(np.std, np.nanstd)

    def quantile(self, p):
        found = _quantile(self.all_ascending, p)
        for row in np.flatnonzero(self.missing):  # nan is sorted to the end
            n = int((~np.isnan(self.draws[row])).sum())
            found[row] = _quantile(self.all_ascending[row : row + 1, :n], p)[0] if n else np.nan
        return found

    def _passing_over_nan(self, function, nan_function):
        found = function(self.draws, axis=(1, 2))
        for row in np.flatnonzero(self.missing):
            values = self.draws[row]
            found[row] = np.nan if np.isnan(values).all() else nan_function(values)
        return found


def _r_hat(block):
    if block.n_chain < 2 or block.n_draw < MIN_DRAWS:
        return np.nan
    bulk, tail = _plain_r_hat(block.scores), _plain_r_hat(block.folded_scores)
    larger = np.where(tail > bulk, tail, bulk)  # the bulk's where the tail has none
    return np.where(block.missing, np.nan, larger)


def _plain_r_hat(chains):
    """R-hat of chains as they are (Vehtari et al. 2021, equations 1 to 4)."""
    n = chains.shape[-1]
    between = n * chains.mean(axis=-1).var(axis=-1, ddof=1)
    within = chains.var(axis=-1, ddof=1).mean(axis=-1)
    return np.sqrt((between / within + n - 1) / n)


def _ess_bulk(block):
    return _diagnosed(block, lambda: _plain_ess(block.scores))


def _ess_mean(block):
    return _diagnosed(block, lambda: _plain_ess(block.split))


def _ess_tail(block):
    def smaller_one():
        sizes = []
        for p in (TAIL, 1 - TAIL):
            limit = _quantile(block.all_ascending, p)[:, None, None]
            sizes.append(_plain_ess((block.split <= limit).astype(float)))
        return np.where(sizes[1] < sizes[0], sizes[1], sizes[0])

    return _diagnosed(block, smaller_one)


def _mcse_mean(block):
    n = block.n_chain * block.n_draw
    return np.sqrt(n / (n - 1)) * block.sd / np.sqrt(_ess_mean(block))


def _diagnosed(block, size):
    if block.n_draw < MIN_DRAWS:
        return np.nan
    return np.where(block.missing, np.nan, size())


def _plain_ess(chains):
    """Effective sample size of the mean of chains as they are, (scalar,).

    Vehtari et al. 2021, equations 10 to 13. Autocorrelations are added up in pairs, as long as
    these are positive, and no pair counts more than the one before it (Geyer 1992, section 3.3:
    initial positive and initial monotone sequence); the first of the pair that ends it counts
    once.
    """
    n_chain, n = chains.shape[1:]
    correlation = _autocorrelation(chains, _mean_autocovariance(chains))
    n_pair = n // 2
    pairs = _in_pairs(correlation)
    borderline = (abs(pairs) < ROUNDING).any(axis=-1)
    if borderline.any():
        some = chains[borderline]
        correlation[borderline] = _autocorrelation(some, _mean_autocovariance_by_chain(some))
        pairs = _in_pairs(correlation)
    longest = max(0, (n - 3) // 2)
    ends = np.ones((len(pairs), longest + 1), dtype=bool)
    ends[:, :-1] = ~(pairs[:, :longest] > 0)
    last = ends.argmax(axis=-1)  # the pair that ends the sequence
    rows = np.arange(len(pairs))
    counted = np.arange(n_pair) < last[:, None]
    total = np.where(counted, np.minimum.accumulate(pairs, axis=-1), 0.0).sum(axis=-1)
    even, pair = correlation[rows, 2 * last], pairs[rows, last]
    tau = -1 + 2 * total + np.where((pair >= 0) | (even > 0), even, 0.0)
    size = n_chain * n
    tau = np.maximum(tau, 1 / np.log10(size))
    found = np.where(np.isnan(correlation[:, 1]), np.nan, size / tau)
    return np.where(np.ptp(chains, axis=(1, 2)) < CONSTANT, size, found)


def _autocorrelation(chains, covariance):
    """Of all chains together, at all lags, (scalar, lag)."""
    n = chains.shape[-1]
    within = covariance[:, :1] * n / (n - 1)
    total = within * (n - 1) / n + chains.mean(axis=-1).var(axis=-1, ddof=1)[:, None]
    correlation = 1 - (within - covariance) / total
    correlation[:, 0] = 1
    return correlation


def _in_pairs(correlation):
    return correlation[:, : 2 * (correlation.shape[-1] // 2) : 2] + correlation[:, 1::2]


def _mean_autocovariance(chains):
    """Mean over chains of the autocovariance at all lags, (scalar, lag), transformed back once."""
    n_chain, n = chains.shape[1:]
    length = next_fast_len(2 * n)
    centred = np.zeros((*chains.shape[:2], length))  # the transform is slower if it adds the zeros
    np.subtract(chains, chains.mean(axis=-1, keepdims=True), out=centred[..., :n])
    parts = np.fft.rfft(centred).view(float)  # real and imaginary parts in turn
    squares = np.einsum("scf,scf->sf", parts, parts)
    power = squares[:, ::2] + squares[:, 1::2]
    return np.fft.irfft(power, length)[:, :n] / (n * n_chain)


def _mean_autocovariance_by_chain(chains):
    """The same, rounded as ArviZ does, which transforms each chain back.

    Where the sum of a pair is zero up to rounding, as happens with few draws and with discrete
    ones, rounding decides where the sequence ends.
    """
    n = chains.shape[-1]
    length = next_fast_len(2 * n)
    transform = np.fft.rfft(chains - chains.mean(axis=-1, keepdims=True), length)
    covariance = np.fft.irfft(transform * np.conjugate(transform), length)[..., :n] / n
    return np.ascontiguousarray(np.moveaxis(covariance, 1, -1)).mean(axis=-1)


def _quantile(ascending, p):
    """Definition 7 of Hyndman & Fan (1996), (row,); rounded as scipy's ``mquantiles`` does.

    A draw at the quantile is below it or not, and tail ESS depends on it.
    """
    n = ascending.shape[-1]
    if n < 2:
        return ascending[:, 0].copy()
    place = n * p + (1 - p)
    k = int(np.clip(np.floor(place), 1, n - 1))
    share = np.clip(place - k, 0, 1)
    return (1 - share) * ascending[:, k - 1] + share * ascending[:, k]


STATISTICS = {
    "mean": lambda block: block.mean,
    "sd": lambda block: block.sd,
    "r_hat": _r_hat,
    "ess_bulk": _ess_bulk,
    "ess_tail": _ess_tail,
    "ess_mean": _ess_mean,
    "mcse_mean": _mcse_mean,
}
METHODS = ("bulk", "tail", "mean")
