"""Paths between points of weight space, and the barrier of a path."""

from __future__ import annotations

import numpy as np


def barrier(log_density: np.ndarray) -> np.ndarray:
    """The barrier of a path: how far the log density falls below the lower of its ends.

    Parameters
    ----------
    log_density : ndarray, (..., point)
        In nats, along a path.

    Returns
    -------
    ndarray, (...)
        In nats, 0 if it does not fall.
    """
    ends = np.minimum(log_density[..., 0], log_density[..., -1])
    return ends - log_density.min(axis=-1)


def straight_path(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of the straight path between two points.

    Parameters
    ----------
    start, end : ndarray, (..., weight)
    t : ndarray, (point,)
        From 0 to 1.

    Returns
    -------
    ndarray, (..., point, weight)
    """
    t = t[:, None]
    return (1 - t) * start[..., None, :] + t * end[..., None, :]


def arc_path(
    start: np.ndarray,
    end: np.ndarray,
    t: np.ndarray,
    start_centre: np.ndarray,
    end_centre: np.ndarray,
) -> np.ndarray:
    """Points of an arc: a path that keeps its distance from a centre that moves straight.

    The deviations of both ends from their centres are combined with weights whose squares sum to
    one. If they are independent normal vectors with equal covariance, every point of the path has
    that covariance too (as in elliptical slice sampling, Murray et al. 2010).

    Parameters
    ----------
    start, end, start_centre, end_centre : ndarray, (..., weight)
    t : ndarray, (point,)
        From 0 to 1.

    Returns
    -------
    ndarray, (..., point, weight)
    """
    angle = 0.5 * np.pi * t[:, None]
    deviation = np.cos(angle) * (start - start_centre)[..., None, :]
    deviation = deviation + np.sin(angle) * (end - end_centre)[..., None, :]
    return straight_path(start_centre, end_centre, t) + deviation


def bezier_path(
    start: np.ndarray, control: np.ndarray, end: np.ndarray, t: np.ndarray
) -> np.ndarray:
    """Points of a quadratic Bézier curve (Garipov et al. 2018, section 3.2).

    Parameters
    ----------
    start, control, end : ndarray, (..., weight)
        If the control point is the midpoint of the ends, the curve is the straight path.
    t : ndarray, (point,)
        From 0 to 1.

    Returns
    -------
    ndarray, (..., point, weight)
    """
    t = t[:, None]
    ends = (1 - t) ** 2 * start[..., None, :] + t**2 * end[..., None, :]
    return ends + 2 * t * (1 - t) * control[..., None, :]
