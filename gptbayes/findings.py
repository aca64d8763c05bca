"""Findings: one sentence each about a fit, and the limits they are judged by.

Every warning of the package is made here or carries one of these limits, so that a command, a
report and a comparison say the same of the same draws. Imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, SupportsFloat

import numpy as np

R_HAT_LIMIT = 1.01
"""Largest R-hat of chains that have mixed (Vehtari et al. 2021, section 4)."""
R_HAT_CLEAR = 1.05
"""R-hat from which on chains are said not to have mixed, rather than that they may not have."""
ESS_LIMIT = 400
"""Smallest effective sample size of reliable summaries (Vehtari et al. 2021, section 4)."""
PARETO_K_LIMIT = 0.7
"""Largest Pareto k of reliable importance weights of many draws, see `pareto_k_limit`."""
E_BFMI_LIMIT = 0.3
"""Smallest E-BFMI of a sampler that explores the energy (Betancourt 2016, section 6.1)."""
EFFECTIVE_DRAWS_LIMIT = 20
"""Effective number of weighted draws below which their mean rests on a handful of them."""
FEW_SEQUENCES = 100
"""Number of sequences below which standard errors over sequences are rough (Sivula et al. 2020)."""
FEW_CHARACTERS = 200
"""Number of held-out characters below which tests of calibration have little power."""


class Finding(NamedTuple):
    """One sentence about a fit.

    Attributes
    ----------
    ok : bool
        False for a warning.
    text : str
        The sentence, with its number.
    """

    ok: bool
    text: str


def pareto_k_limit(n_draws: int) -> float:
    """Largest Pareto k of reliable importance weights (Vehtari et al. 2024, section 3.2.4).

    Parameters
    ----------
    n_draws : int

    Returns
    -------
    float
        min(1 - 1 / log10(n_draws), 0.7), and at least 0: the mean of weights with a larger k takes
        more draws. It is 0.5 for 100 draws, and 0.7 from 2155 on.

    Examples
    --------
    >>> [pareto_k_limit(n) for n in (1, 100, 4000)]
    [0.0, 0.5, 0.7]
    """
    return float(np.clip(1 - 1 / np.log10(max(n_draws, 10)), 0.0, PARETO_K_LIMIT))


def pareto_k_limit_words(n_draws: int) -> str:
    """The limit of Pareto k in words, with the number of draws if it is small.

    Parameters
    ----------
    n_draws : int

    Returns
    -------
    str

    Examples
    --------
    >>> pareto_k_limit_words(100)
    '0.50, the limit for 100 draws'
    >>> pareto_k_limit_words(4000)
    '0.7'
    """
    limit = pareto_k_limit(n_draws)
    if limit == PARETO_K_LIMIT:
        return str(PARETO_K_LIMIT)
    return f"{limit:.2f}, the limit for {n_draws} draw{'s' if n_draws != 1 else ''}"


def plus_minus(
    value: SupportsFloat, error: SupportsFloat, digits: int = 1, *, sign: str = "-"
) -> str:
    """A number with its standard error, or alone where the error is unknown.

    Parameters
    ----------
    value, error : float, or an array of one number
    digits : int
        After the decimal point.
    sign : {"-", "+"}
        "+" also shows the sign of positive numbers.

    Returns
    -------
    str

    Examples
    --------
    >>> plus_minus(1.26, 0.5, sign="+")
    '+1.3 ± 0.5'
    >>> plus_minus(1.26, float("nan"), 2)
    '1.26'
    """
    shown = f"{float(value):{sign}.{digits}f}"
    return f"{shown} ± {float(error):.{digits}f}" if np.isfinite(float(error)) else shown


def probability_words(p: SupportsFloat, error: SupportsFloat) -> str:
    """A probability with its Monte Carlo standard error; that of a single draw has none.

    Parameters
    ----------
    p, error : float, or an array of one number

    Returns
    -------
    str
        With two digits. A probability that rounds to 0 or 1 is shown as a bound.

    Examples
    --------
    >>> [probability_words(p, 0.003) for p in (0.001, 0.973, 0.9984)]
    ['< 0.01', '0.97 ± 0.00', '> 0.99']
    >>> probability_words(1.0, float("nan"))
    '1.00'
    """
    shown = float(p)
    if np.isnan(float(error)):
        return f"{shown:.2f}"
    if not 0.005 <= shown < 0.995:
        return "< 0.01" if shown < 0.5 else "> 0.99"
    return plus_minus(shown, error, 2)


def convergence_finding(
    name: str, *, r_hat: float, ess_bulk: float, ess_tail: float = np.inf
) -> Finding:
    """State how far draws of some quantities can be relied on.

    Parameters
    ----------
    name : str
        What the numbers are of, e.g. ``"log probabilities"``.
    r_hat : float
        Largest R-hat; nan if it is not defined, as for a single short chain.
    ess_bulk, ess_tail : float
        Smallest bulk and tail effective sample sizes; nan where they are not defined.

    Returns
    -------
    Finding
        A warning if R-hat is above `R_HAT_LIMIT` or the smaller ESS is below `ESS_LIMIT`.

    Examples
    --------
    >>> convergence_finding("log posterior", r_hat=1.003, ess_bulk=812.0, ess_tail=640.0).text
    'log posterior: largest R-hat 1.003, smallest ESS 640'
    """
    smallest = float(np.fmin(ess_bulk, ess_tail))
    numbers = []
    if np.isfinite(r_hat):
        numbers.append(f"largest R-hat {r_hat:.3f}")
    if np.isfinite(smallest):
        numbers.append(f"smallest ESS {smallest:.0f}")
    warnings = convergence_warnings(r_hat, smallest)
    if not numbers:
        return Finding(
            False, f"{name}: R-hat and ESS are undefined, draws are too few or not finite"
        )
    return Finding(not warnings, "; ".join([f"{name}: {', '.join(numbers)}", *warnings]))


def convergence_warnings(r_hat: float, ess: float) -> list[str]:
    """What a large R-hat and a small effective sample size mean, in the words used everywhere.

    Parameters
    ----------
    r_hat, ess : float
        nan where they are not defined.

    Returns
    -------
    list of str
        Empty if both are within their limits.

    Examples
    --------
    >>> convergence_warnings(1.012, 886.0)
    ['R-hat above 1.01: the chains may not have mixed, run them longer']
    >>> convergence_warnings(1.31, 886.0)
    ['R-hat above 1.01: the chains have not mixed, run them longer']
    """
    warnings = []
    if r_hat > R_HAT_LIMIT:
        may = "may not have mixed" if r_hat <= R_HAT_CLEAR else "have not mixed"
        short = "" if ess >= ESS_LIMIT else " or are too short to tell"
        warnings.append(f"R-hat above {R_HAT_LIMIT}: the chains {may}{short}, run them longer")
    if ess < ESS_LIMIT:
        warnings.append(f"ESS below {ESS_LIMIT}: intervals and tail probabilities are rough")
    return warnings


def few_sequences_finding(n: int, what: str = "held-out sequences") -> Finding | None:
    """Warn of standard errors over fewer than `FEW_SEQUENCES` sequences.

    Parameters
    ----------
    n : int
    what : str
        What is counted, in the plural.

    Returns
    -------
    Finding or None
        None if there are enough.
    """
    if n >= FEW_SEQUENCES:
        return None
    if n < 2:
        noun = what.removesuffix("s")
        return Finding(False, f"only {n} {noun}: standard errors are unknown")
    return Finding(False, f"only {n} {what}: standard errors are rough")


def warnings_of(findings: Iterable[Finding]) -> list[Finding]:
    """Select the warnings among findings.

    Parameters
    ----------
    findings : iterable of Finding

    Returns
    -------
    list of Finding
        In their order.
    """
    return [finding for finding in findings if not finding.ok]
