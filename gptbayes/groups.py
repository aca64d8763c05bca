"""The groups of a fit, with any ArviZ: the one module that knows which one is installed.

Until version 1 ArviZ keeps groups in an `InferenceData` of its own, since then in xarray's
`DataTree`. Both hold the same datasets under the same names and read each other's netCDF files.
Analyses take a group as an xarray Dataset with `group`, and single variables with
``idata.posterior["key"]``, which is the same for both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import arviz as az
import numpy as np
import xarray as xr

IS_TREE = int(az.__version__.split(".")[0]) >= 1
"""Whether ArviZ is version 1 or later."""
MIN_RATIOS = 5
"""Importance ratios of which the largest may be a tail."""


def make_groups(
    groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any] | None = None
) -> az.InferenceData:
    """A fit from its groups.

    Parameters
    ----------
    groups : mapping of str to Dataset
    attrs : mapping, optional
        Of the whole.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
    """
    if IS_TREE:
        made = xr.DataTree.from_dict(dict(groups))
    else:
        made = az.InferenceData(**groups)
    made.attrs = dict(attrs or {})
    return made


def group(idata: az.InferenceData, name: str) -> xr.Dataset:
    """A group of a fit as a Dataset.

    Parameters
    ----------
    idata : InferenceData or DataTree
    name : str

    Returns
    -------
    Dataset
    """
    found = idata[name]
    return found.to_dataset() if IS_TREE else found


def group_names(idata: az.InferenceData) -> list[str]:
    """The names of the groups of a fit.

    Parameters
    ----------
    idata : InferenceData or DataTree

    Returns
    -------
    list of str
    """
    return [name.strip("/") for name in idata.groups if name != "/"] if IS_TREE else idata.groups()


def add_group(idata: az.InferenceData, name: str, dataset: xr.Dataset) -> None:
    """Add a group to a fit in place.

    Parameters
    ----------
    idata : InferenceData or DataTree
    name : str
    dataset : Dataset
    """
    if IS_TREE:
        idata[name] = xr.DataTree(dataset)
    else:
        idata.add_groups({name: dataset}, warn_on_custom_groups=False)


def select(
    idata: az.InferenceData, names: Sequence[str] | None = None, **indexers: Any
) -> az.InferenceData:
    """Some draws of some groups, by position.

    Parameters
    ----------
    idata : InferenceData
    names : sequence of str, optional
        Groups to keep, by default all.
    **indexers
        As of `xarray.Dataset.isel`; groups without that dim are kept as they are.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        With the attributes of the whole.
    """
    names = group_names(idata) if names is None else names
    kept = {
        name: group(idata, name).isel(indexers, missing_dims="ignore")
        for name in names
        if name in group_names(idata)
    }
    return make_groups(kept, idata.attrs)


def netcdf_engine(path: Path) -> Literal["netcdf4", "h5netcdf"]:
    """The library by which xarray reads and writes a netCDF file.

    netCDF4 takes a third of the time of h5netcdf. Its C library takes a backslash for the slash of
    another system, so that files in such a folder are not found.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    str
    """
    return "h5netcdf" if "\\" in str(path.absolute()) else "netcdf4"


def save_groups(idata: az.InferenceData, path: Path) -> None:
    """Write a netCDF file that all versions of ArviZ read, without compression.

    Compression would take most of the time and hardly reduce the size of random numbers.

    Parameters
    ----------
    idata : InferenceData or DataTree
    path : pathlib.Path
    """
    options = {} if IS_TREE else {"compress": False}
    idata.to_netcdf(str(path), engine=netcdf_engine(path), **options)


def load_groups(path: Path) -> az.InferenceData:
    """Read a netCDF file into memory and close it.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    InferenceData or DataTree
    """
    if not IS_TREE:
        with az.rc_context({"data.load": "eager"}):
            return az.from_netcdf(str(path), engine=netcdf_engine(path))
    with xr.open_datatree(path, engine=netcdf_engine(path)) as opened:
        return opened.load()


def content_digest(groups: Mapping[str, xr.Dataset]) -> str:
    """A digest of all names, dims and values, which does not depend on how they are stored.

    Parameters
    ----------
    groups : mapping of str to Dataset

    Returns
    -------
    str
        Hexadecimal SHA-256. All nan are the same.
    """
    digest = hashlib.sha256()
    for name in sorted(groups):
        for key in sorted(map(str, groups[name].variables)):
            variable = groups[name][key].variable
            values = np.asarray(variable.values)
            words = [name, key, list(map(str, variable.dims)), list(values.shape)]
            if values.dtype.kind in "fiub":
                kind = "<f8" if values.dtype.kind == "f" else "<i8"
                plain = np.ascontiguousarray(values, dtype=kind)
                if kind == "<f8" and (absent := np.isnan(plain)).any():
                    plain = np.where(absent, np.nan, plain)
                digest.update(json.dumps([*words, kind]).encode())
                digest.update(plain.ravel().data)
            else:
                digest.update(json.dumps([*words, values.astype(str).tolist()]).encode())
    return digest.hexdigest()


def pareto_smoothed(log_ratios: np.ndarray, reff: float = 1.0) -> tuple[np.ndarray, float]:
    """Pareto-smoothed importance weights by ArviZ (Vehtari et al. 2024).

    Parameters
    ----------
    log_ratios : ndarray (sample,)
        Of importance, up to a constant.
    reff : float
        Effective sample size of what is averaged as a part of the number of draws.

    Returns
    -------
    log_weights : ndarray (sample,)
        Normalised: their exponentials sum to one. Not smoothed if ``pareto_k`` is infinite.
    pareto_k : float
        Infinite if the largest ratios are all the same, or fewer than `MIN_RATIOS`, which have no
        tail to fit.
    """
    if len(log_ratios) < MIN_RATIOS:
        return log_ratios - np.logaddexp.reduce(log_ratios), float("inf")
    if not IS_TREE:
        log_weights, k = az.psislw(log_ratios, reff=reff)
        return np.asarray(log_weights), float(k)
    from arviz_stats.base import array_stats

    log_weights, k = np.asarray(log_ratios), np.inf
    with contextlib.suppress(ValueError):  # of a tail that cannot be fitted
        log_weights, k = array_stats.psislw(-log_weights, r_eff=reff)
    # Where many ratios are the same, ArviZ fits no distribution and its k is nan.
    return log_weights - np.logaddexp.reduce(log_weights), np.inf if np.isnan(k) else float(k)


def power_scaling(
    values: xr.Dataset, log_density: xr.DataArray, component: str, delta: float
) -> xr.Dataset:
    """Power-scaling sensitivity by ArviZ (Kallioinen et al. 2024).

    Parameters
    ----------
    values : Dataset (chain, draw)
        Quantities.
    log_density : DataArray (chain, draw)
        Of the component.
    component : {"prior", "likelihood"}
    delta : float
        The component is raised to the powers ``1 + delta`` and ``1 / (1 + delta)``.

    Returns
    -------
    Dataset ()
        One value for each quantity, nan for one that is constant. With ArviZ 1, nan for all if
        the largest importance ratios are the same, and 0 if the component is constant.
    """
    density = log_density.to_dataset(name="log_density")
    name = {"prior": "log_prior", "likelihood": "log_likelihood"}[component]
    scaled = make_groups({"posterior": values, name: density})
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        # Of few draws: those who show the result say how many there are.
        warnings.filterwarnings("ignore", "Number of tail draws cannot be less", UserWarning)
        if IS_TREE:
            try:
                return az.psense(scaled, group=component, alphas=(1 / (1 + delta), 1 + delta))
            except ValueError:  # of a tail whose ratios are all the same
                found = 0.0 if np.ptp(log_density.values) == 0 else np.nan
                return values.map(
                    lambda each: xr.DataArray(found if np.ptp(each.values) else np.nan)
                )
        return az.psens(scaled, component=component, delta=delta)
