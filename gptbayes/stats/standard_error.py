"""The standard error of a mean of independent values."""

from __future__ import annotations

import numpy as np


def standard_error(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Standard error of the mean of independent values, such as replicates or sequences.

    Parameters
    ----------
    values : ndarray
    axis : int
        Along which the values are independent.

    Returns
    -------
    ndarray, without the axis
        The standard deviation (divisor n - 1) over √n; nan for a single value, and where values
        are not finite.

    Examples
    --------
    >>> float(standard_error([1.0, 2.0, 3.0, 4.0])).__round__(3)
    0.645
    """
    values = np.asarray(values, dtype=float)
    n = values.shape[axis]
    if n < 2:
        return np.full(values.sum(axis=axis).shape, np.nan)
    with np.errstate(invalid="ignore"):
        return np.std(values, axis=axis, ddof=1) / np.sqrt(n)
