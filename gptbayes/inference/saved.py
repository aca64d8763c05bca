"""Fits saved as netCDF: their digest, and what is wrong with a file that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import arviz as az
import h5py
import numpy as np
import xarray as xr

from gptbayes.files import remove_leftovers, replacing
from gptbayes.groups import content_digest, group, group_names, load_groups, save_groups
from gptbayes.inference.conversion import without_kernels

_DIGEST = "content_sha256"
_ATTRS = ("stage", "method", "source", "settings", "versions", "characters", "stan_data", "seconds")
"""Attributes that are text and enter the digest."""


def save(idata: az.InferenceData, path: Path) -> None:
    """Save a fit as netCDF, with the digest of its contents.

    Parameters
    ----------
    idata : InferenceData
    path : pathlib.Path

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left of it.
    """
    idata.attrs[_DIGEST] = _digest_of(idata)
    remove_leftovers(path.parent)
    try:
        with replacing(path) as partial:
            save_groups(idata, partial)
    finally:
        del idata.attrs[_DIGEST]


def load(path: Path) -> az.InferenceData:
    """Load a fit that was saved.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    InferenceData

    Raises
    ------
    ValueError
        If the file is truncated, corrupted or changed.
    OSError
        If it cannot be read for another reason.
    """
    try:
        idata = load_groups(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise netcdf_error(
            path, error, "delete it, and it will be made again from the CSV files"
        ) from None
    if _DIGEST in idata.attrs and idata.attrs.pop(_DIGEST) != _digest_of(idata):
        raise ValueError(
            f"{path} is damaged: its contents are not those that were written; delete it, and it "
            "will be made again from the CSV files"
        )
    names = group_names(idata)
    if "posterior" not in names:
        raise ValueError(f"{path} must have a posterior group, got {', '.join(names)}")
    idata.attrs.setdefault("kernels", without_kernels(idata.attrs.get("method")))
    return idata


def netcdf_error(path: Path, error: Exception, remedy: str) -> Exception:
    """Whether a netCDF file that was not read is damaged, which its bytes show, or something else.

    Parameters
    ----------
    path : path
    error : Exception
        Of whatever tried to read it.
    remedy : str
        What to do with a damaged one.

    Returns
    -------
    Exception
        A ValueError with the remedy if the file is damaged, else an OSError that says what
        happened.
    """
    reason = " ".join(str(error).split())
    try:
        content = path.read_bytes()
    except OSError as refused:
        return OSError(f"{path} cannot be read: {refused}")
    damage = _damage(content)
    if damage:
        return ValueError(f"{path} is truncated or corrupted ({damage}); {remedy}")
    if "lock" in reason:
        return OSError(
            f"{path} cannot be locked ({reason}); where the file system has no locks, set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    return OSError(f"{path} cannot be read, though it is a whole HDF5 file: {reason}")


def _damage(content):
    """What is wrong with the bytes of an HDF5 file, nothing if all of it can be read."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _digest_of(idata):
    """Of all numbers, and of the attributes that this package reads."""
    attrs = {k: v for k, v in idata.attrs.items() if isinstance(v, str) and k != _DIGEST}
    told = {k: xr.DataArray(np.array(v, dtype=object)) for k, v in attrs.items() if k in _ATTRS}
    groups = {name: group(idata, name) for name in group_names(idata)}
    return content_digest({**groups, "attrs": xr.Dataset(told)})
