"""Forecasts of held-out text in closed form: Dirichlet-multinomial models of counts.

The model of order k has, after each sequence of k characters, a categorical distribution of the
next character with a symmetric Dirichlet prior. Posterior, evidence and predictive density are
known exactly, so these are the baselines that a fit by simulation has to beat.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from gptbayes.model.problem import Problem

CONCENTRATIONS = (1e-3, 1e3)
"""Range in which the concentration with the largest evidence is sought."""


class Forecast(NamedTuple):
    """A forecast of the held-out text that has no draws.

    Attributes
    ----------
    log_density : DataArray (held_out_sequence)
        Log predictive density of each sequence, in nats.
    probability : DataArray (held_out_sequence, position, token)
        Predictive probabilities of the next character, given the training text.
    """

    log_density: xr.DataArray
    probability: xr.DataArray


class _Table(NamedTuple):
    """Counts of characters after contexts of one length.

    Attributes
    ----------
    counts : ndarray of int, (context, token)
    row : ndarray of int, (sequence, position)
        The context of each held-out position.
    concentration : float
    """

    counts: np.ndarray
    row: np.ndarray
    concentration: float


def dirichlet_multinomial(
    problem: Problem, order: int, concentration: float | None = None
) -> Forecast:
    """Forecast held-out text by a Dirichlet-multinomial model of some order.

    Parameters
    ----------
    problem : Problem
    order : int
        The number of characters before a character on which it depends: 0 for character
        frequencies, 1 for bigrams, 2 for trigrams. Where a context is shorter, the model of that
        order takes its place.
    concentration : float, optional
        Of the symmetric Dirichlet prior of each distribution. By default the one with the largest
        evidence of the training text, for each length of the context.

    Returns
    -------
    Forecast
        The density of a sequence is that of all its characters jointly: each is predicted from the
        training text and the characters before it in the sequence. `probability` does not learn
        from the sequence, as the probabilities of `held_out_predictive` do not.

    Raises
    ------
    ValueError
        If the order is negative or not smaller than the context, or the concentration is not
        positive.

    See Also
    --------
    compare_held_out : Takes the densities as its ``forecasts``.
    unigram_log_density : Order 0 with concentration 1, without learning within a sequence.

    Notes
    -----
    After n characters, n_k of which were k, the predictive probability of k is
    (n_k + a) / (n + a V), where V is the size of the vocabulary and a the concentration
    (MacKay & Peto 1995).

    Examples
    --------
    >>> import gptbayes as gb
    >>> problem = gb.make_problem(gb.stage("01"), gb.zen_of_python(), batch_size=40)
    >>> forecast = dirichlet_multinomial(problem, 1)
    >>> bool(np.allclose(forecast.probability.sum("token"), 1))
    True
    """
    n_position = problem.held_out.x.shape[1]
    if not 0 <= order <= n_position:
        raise ValueError(f"order must be between 0 and {n_position}, got {order}")
    if concentration is not None and not concentration > 0:
        raise ValueError(f"concentration must be positive, got {concentration}")
    length = np.minimum(order, np.arange(1, n_position + 1))  # of the context of each position
    tables = {int(k): _table(problem, int(k), concentration) for k in np.unique(length)}
    y = problem.held_out.y
    probability = np.empty((*y.shape, problem.design.vocab_size))
    log_density = np.zeros(len(y))
    for k, table in tables.items():
        at = length == k
        probability[:, at] = _predictive(table)[table.row[:, at]]
        log_density += _joint(table, table.row[:, at], y[:, at])
    return Forecast(
        xr.DataArray(log_density, dims="held_out_sequence", name="log_prob"),
        xr.DataArray(
            probability,
            dims=("held_out_sequence", "position", "token"),
            coords={"token": list(problem.vocabulary.characters)},
            name="probability",
        ),
    )


def log_evidence(counts: np.ndarray, concentration: float) -> float:
    """Compute the log marginal likelihood, a sum of Dirichlet-multinomial terms over rows.

    With N_i the sum of row i, log p(y) is the sum over i of

        log Γ(V a) - log Γ(V a + N_i) + Σ_k [log Γ(a + n_ik) - log Γ(a)]

    Parameters
    ----------
    counts : ndarray, (context, token)
        n_ik. With counts multiplied by w, the result is the log of the prior expectation of the
        likelihood to the power w.
    concentration : float
        a.

    Returns
    -------
    float
        In nats.
    """
    counts, a = np.asarray(counts), float(concentration)
    n_token, total = counts.shape[-1], counts.sum(axis=-1)
    rows = gammaln(a * n_token) - gammaln(a * n_token + total)
    return float(rows.sum() + (gammaln(a + counts) - gammaln(a)).sum())


def _table(problem, length, concentration):
    """Counts of the training text after contexts of some length, and held-out contexts."""
    vocab_size = problem.design.vocab_size
    training = _contexts(problem.training.x, length, vocab_size)
    held_out = _contexts(problem.held_out.x, length, vocab_size)
    known, row = np.unique(np.append(training, held_out), return_inverse=True)
    row = row.ravel()
    counts = np.zeros((len(known), vocab_size), dtype=np.int64)
    first = max(length - 1, 0)
    targets = problem.training.y[:, first:].ravel()
    np.add.at(counts, (row[: training.size], targets), 1)
    of_held_out = np.zeros(problem.held_out.x.shape, dtype=np.int64)
    of_held_out[:, first:] = row[training.size :].reshape(held_out.shape)
    if concentration is None:
        concentration = _best_concentration(counts)
    return _Table(counts, of_held_out, concentration)


def _contexts(x, length, vocab_size):
    """The last ``length`` characters at each position that has as many, as one number."""
    if length == 0:
        return np.zeros_like(x)
    n = x.shape[1] - length + 1
    parts = [x[:, k : k + n] for k in range(length)]
    return np.ravel_multi_index(parts, (vocab_size,) * length)


def _best_concentration(counts):
    seen = counts[counts.sum(axis=1) > 0]
    low, high = np.log(CONCENTRATIONS)
    found = minimize_scalar(
        lambda log_a: -log_evidence(seen, np.exp(log_a)), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def _predictive(table):
    raised = table.counts + table.concentration
    return raised / raised.sum(axis=1, keepdims=True)


def _joint(table, row, y):
    """Log density of each sequence, which learns from its own characters, (sequence,)."""
    before = np.tri(y.shape[1], k=-1, dtype=bool)  # (position, earlier position)
    same_row = (row[:, :, None] == row[:, None, :]) & before
    same = same_row & (y[:, :, None] == y[:, None, :])
    a, n_token = table.concentration, table.counts.shape[1]
    matching = table.counts[row, y] + same.sum(axis=-1) + a
    total = table.counts.sum(axis=1)[row] + same_row.sum(axis=-1) + a * n_token
    return (np.log(matching) - np.log(total)).sum(axis=1)
