"""Alignment of the posterior of any model, given as InferenceData, DataTree or a netCDF file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.groups import group as group_of
from gptbayes.groups import group_names, load_groups, make_groups
from gptbayes.stats.summary import OVER
from gptbayes.symmetry.alignment import MAX_BYTES, Alignment, align_draws
from gptbayes.symmetry.compact_group import Group, Orthogonal, SignFlip
from gptbayes.symmetry.layout import Layout, lay_out

MAX_REWEIGHTINGS = 30
"""Maximum number of alignments with updated units."""
MAX_STARTS = 8
"""Maximum number of variables each of which determines one of the first alignments."""
SETTLED = 0.01
"""Relative change of the units below which they have converged."""
SMALLEST_SHARE = 1e-3
"""Smallest unit of a variable, as a share of its standard deviation before alignment."""


def align(
    idata: az.InferenceData | str | Path,
    group: Group,
    *,
    log_density: Callable[[xr.Dataset], Any] | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    max_bytes: int = MAX_BYTES,
) -> az.InferenceData:
    """Align the draws of any model by a compact group that leaves its posterior unchanged.

    Every draw is moved along its orbit towards the geometric median of all draws. Permutations are
    found by linear assignment, orthogonal maps by Procrustes analysis. Variables are compared in
    units of their standard deviations around the reference, so that a variable that distinguishes
    the components has more weight than one that does not. Alignment and estimation of these units
    alternate until the units converge. With up to eight variables, each of them also determines one
    start of this iteration, and the start with the smallest volume of aligned draws is used.

    Parameters
    ----------
    idata : InferenceData, DataTree, or path of a netCDF file
        With a group ``posterior``.
    group : Group
        Names variables of the posterior and their dims.
    log_density : callable, optional
        Takes a posterior dataset and returns the log density of every draw (chain, draw). If given,
        `check_invariance` first checks that no sampled element of the group changes it.
    max_iterations : int
    tolerance : float
        Stop when the relative decrease of the mean distance is smaller than this.
    max_bytes : int
        Rough bound on the memory in addition to the draws and their aligned copy.

    Returns
    -------
    InferenceData or DataTree
        A copy in which the variables of the group are aligned. The attributes of the posterior
        ``aligned`` and ``alignment_distance`` list these variables, and the mean distance to the
        reference before and after.

    Raises
    ------
    ValueError
        If the group does not fit the variables, a variable outside the group has a dim that the
        group permutes or rotates, draws are not finite, or the group changes the log density.

    See Also
    --------
    gptbayes.diagnose_mixing : R-hat of raw and aligned draws, and a verdict.
    gptbayes.symmetry.align : The same for the weights of a stage.

    Notes
    -----
    Without ``log_density`` it is not checked that the group is a symmetry. Aligned draws describe
    the posterior modulo the group. Alignment does not separate components that overlap.

    Examples
    --------
    >>> import gptbayes
    >>> from gptbayes.symmetry import Group, Permutation
    >>> mu = np.random.default_rng(1).normal([-3.0, 3.0], size=(4, 100, 2))
    >>> mu[2:] = mu[2:, :, ::-1]
    >>> posterior = az.convert_to_dataset({"mu": mu}, dims={"mu": ["component"]})
    >>> idata = gptbayes.groups.make_groups({"posterior": posterior})
    >>> aligned = align(idata, Group(Permutation({"mu": "component"})))
    >>> means = aligned.posterior["mu"].mean(("chain", "draw")).values
    >>> bool(abs(abs(means) - 3).max() < 0.2)
    True
    """
    idata = as_groups(idata)
    posterior = posterior_of(idata)
    if log_density is not None:
        from gptbayes.symmetry.invariance import check_invariance

        check_invariance(group, posterior, log_density)
    found = align_posterior(
        posterior,
        group,
        max_iterations=max_iterations,
        tolerance=tolerance,
        max_bytes=max_bytes,
    )
    aligned = found[0].assign_attrs(
        {
            **posterior.attrs,
            "aligned": ", ".join(group.variables),
            "alignment_distance": [float(found[1].objective[0]), float(found[1].objective[-1])],
        }
    )
    groups = {name: group_of(idata, name) for name in group_names(idata)}
    return make_groups({**groups, "posterior": aligned}, idata.attrs)


def align_posterior(
    posterior: xr.Dataset, group: Group, **options: Any
) -> tuple[xr.Dataset, Alignment]:
    """Align a posterior dataset, see `align`.

    Parameters
    ----------
    posterior : Dataset (chain, draw, ...)
    group : Group
    **options
        As for `gptbayes.symmetry.alignment.align_draws`.

    Returns
    -------
    Dataset (chain, draw, ...)
    Alignment
        The last alignment, in units of the standard deviations of the variables around the
        reference.
    """
    layout = layout_of(group, posterior)
    _check_others(layout, posterior)
    batch = tuple(posterior.sizes[dim] for dim in OVER)
    arrays = arrays_of(posterior)
    draws = {name: arrays[name].reshape(-1, *layout.shapes[name]) for name in layout.shapes}
    _check_finite(draws, batch)
    whole = {name: _scale(layout, name, values) for name, values in draws.items()}
    starts = _starts(whole)
    tried = [_aligned_in_units(layout, draws, start, whole, options) for start in starts]
    best = int(np.argmin([_log_volume(remain, draws) for _, remain in tried]))
    found, scales = tried[best]
    aligned = {name: starts[best][name] * v for name, v in found.parameters.items()}
    for _ in range(MAX_REWEIGHTINGS):
        before = scales
        found, scales = _aligned_in_units(layout, aligned, before, whole, options)
        aligned = {name: before[name] * v for name, v in found.parameters.items()}
        if all(abs(scales[n] - before[n]) <= SETTLED * before[n] for n in scales):
            break
    moved = {}
    for name, values in aligned.items():
        restored = values.reshape(*batch, *layout.shapes[name])
        if np.issubdtype(arrays[name].dtype, np.integer):
            restored = np.round(restored).astype(arrays[name].dtype)
        attrs = posterior[name].attrs
        moved[name] = (posterior[name].transpose(*OVER, ...).dims, restored, attrs)
    return posterior.assign(moved), found


def layout_of(group: Group, posterior: xr.Dataset) -> Layout:
    """A group on the variables of a posterior.

    Parameters
    ----------
    group : Group
    posterior : Dataset (chain, draw, ...)

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        As of `gptbayes.symmetry.layout.lay_out`.
    """
    dims = {
        str(name): tuple(str(dim) for dim in each.dims if dim not in OVER)
        for name, each in posterior.data_vars.items()
    }
    shapes = {name: tuple(posterior.sizes[dim] for dim in each) for name, each in dims.items()}
    return lay_out(group, dims, shapes)


def arrays_of(posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """Arrays (chain, draw, ...) of all variables.

    Parameters
    ----------
    posterior : Dataset (chain, draw, ...)

    Returns
    -------
    dict of str to ndarray
    """
    return {
        str(name): each.transpose(*OVER, ...).values for name, each in posterior.data_vars.items()
    }


def as_groups(idata: az.InferenceData | str | Path) -> az.InferenceData:
    """Return a fit, or read it from a netCDF file.

    Parameters
    ----------
    idata : InferenceData, DataTree or path

    Returns
    -------
    InferenceData or DataTree

    Raises
    ------
    ValueError
        If the file is not netCDF, or is damaged.
    OSError
        If there is no such file.
    """
    if not isinstance(idata, str | Path):
        return idata
    path = Path(idata)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return load_groups(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as netCDF: {error}") from None


def posterior_of(idata: az.InferenceData) -> xr.Dataset:
    """The posterior of a fit, with chains and draws.

    Parameters
    ----------
    idata : InferenceData or DataTree

    Returns
    -------
    Dataset (chain, draw, ...)

    Raises
    ------
    ValueError
        If there is none.
    """
    names = group_names(idata)
    if "posterior" not in names:
        raise ValueError(
            f"a fit must have a posterior group, its groups are {', '.join(names) or 'none'}"
        )
    posterior = group_of(idata, "posterior")
    for dim in OVER:
        if dim not in posterior.sizes:
            dims = ", ".join(map(str, posterior.sizes))
            raise ValueError(f"the posterior must have the dim {dim}, its dims are {dims}")
    return posterior


def _check_others(layout, posterior):
    """No variable outside of the group may have a dim that is permuted or rotated in another."""
    acted: dict[str, str] = {}
    for name in layout.shapes:
        dims = [dim for dim in posterior[name].dims if dim not in OVER]
        blocks = layout.group.blocks.get(name, {})
        split = [into for dim in dims for into in blocks.get(dim, (dim,))]
        whole = {into: dim for dim in dims for into in blocks.get(dim, (dim,))}
        for placed in layout.parts:
            for site in placed.sites:
                if site.variable == name and site.changed is not None:
                    acted.setdefault(whole[split[site.changed]], name)
    for other, values in posterior.data_vars.items():
        for dim in values.dims if other not in layout.shapes else ():
            if dim in acted:
                raise ValueError(
                    f"{other} has the dim {dim}, on which the group acts in {acted[dim]}, but the "
                    f"group does not name it: add it to the group, or drop it from the posterior"
                )


def _check_finite(draws, batch):
    for name, values in draws.items():
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            chain, draw = np.unravel_index(int(bad.argmax()), batch)
            raise ValueError(
                f"draws must be finite, got {name} with nan or infinity in {int(bad.sum())} draws, "
                f"first in chain {chain + 1}, draw {draw + 1}"
            )


def _scale(layout, name, values):
    """A standard deviation of a variable that no element of the group changes.

    Of all elements that permutations exchange, about their common mean; about zero where signs or
    rotations act, which move the mean.
    """
    parts = [p for p in layout.parts if any(site.variable == name for site in p.sites)]
    split = values.reshape(len(values), *layout.split[name]).astype(float)
    if any(isinstance(placed.part, SignFlip | Orthogonal) for placed in parts):
        square = (split**2).mean()
    else:
        axes = {a for p in parts for s in p.sites if s.variable == name for a in s.axes}
        pooled = (0, *(split.ndim + axis for axis in axes if axis is not None))
        square = ((split - split.mean(axis=pooled, keepdims=True)) ** 2).mean()
    return float(np.sqrt(square)) or 1.0


def _starts(scales):
    """Units in which all variables count, and units in which one of them decides."""
    return [
        scales,
        *(_only(name, scales) for name in (scales if 1 < len(scales) <= MAX_STARTS else ())),
    ]


def _only(name, scales):
    return {other: size if other == name else 1e3 * size for other, size in scales.items()}


def _aligned_in_units(layout, draws, units, whole, options):
    """Alignment in some units, and the standard deviations that remain around the reference."""
    found = align_draws(layout, {n: v / units[n] for n, v in draws.items()}, **options)
    remain = {}
    for name, values in found.parameters.items():
        size = units[name] * float(np.sqrt(((values - found.reference[name]) ** 2).mean()))
        remain[name] = max(size, SMALLEST_SHARE * whole[name])
    return found, remain


def _log_volume(scales, draws):
    """The logarithm of the volume that draws fill around their reference, up to a constant."""
    return sum(draws[name][0].size * np.log(size) for name, size in scales.items())
