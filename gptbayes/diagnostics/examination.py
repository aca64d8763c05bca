"""Mode connectivity and contraction as a run directory keeps them.

Both take minutes; a report shows what was saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import h5py
import xarray as xr

from gptbayes.diagnostics.contraction import Contraction
from gptbayes.files import replacing
from gptbayes.groups import content_digest, netcdf_engine
from gptbayes.inference import netcdf_error

FILE = "symmetry.nc"
"""The file in a run directory."""


class SavedExamination(NamedTuple):
    """What took minutes to compute, as a run directory keeps it.

    Attributes
    ----------
    connections : Dataset or None
        As of `gptbayes.diagnostics.mode_connectivity.connect_chains`.
    local : Dataset or None
        As of `gptbayes.diagnostics.contraction.local_contraction`.
    learned : list of str
        Sentences of `gptbayes.diagnostics.contraction.Contraction`.
    """

    connections: xr.Dataset | None
    local: xr.Dataset | None
    learned: list[str]


def save_examination(
    folder: str | Path, connections: xr.Dataset | None, contraction: Contraction | None
) -> None:
    """Save in a run directory what took minutes to compute.

    Parameters
    ----------
    folder : path
    connections : Dataset, optional
        As of `gptbayes.diagnostics.mode_connectivity.connect_chains`.
    contraction : gptbayes.diagnostics.contraction.Contraction, optional
    """
    path = Path(folder) / FILE
    learned = contraction.sentences if contraction else []
    groups = {
        "connections": connections,
        "local": contraction.local if contraction else None,
    }
    attrs = {"learned": json.dumps(learned)}
    attrs["content_sha256"] = _digest(groups, attrs["learned"])
    with replacing(path) as partial:
        engine = netcdf_engine(partial)
        xr.Dataset(attrs=attrs).to_netcdf(partial, engine=engine)
        for name, dataset in groups.items():
            if dataset is not None:
                dataset.to_netcdf(partial, group=name, mode="a", engine=engine)


def load_examination(folder: str | Path) -> SavedExamination | None:
    """What `save_examination` saved of a run, None if it saved nothing.

    Parameters
    ----------
    folder : path

    Returns
    -------
    SavedExamination or None

    Raises
    ------
    ValueError
        If its file is corrupted.
    OSError
        If it cannot be read for another reason.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    engine = netcdf_engine(path)
    try:
        attrs = xr.load_dataset(path, engine=engine).attrs
        with h5py.File(path) as file:
            names = set(file)
        connections, local = (
            xr.load_dataset(path, group=name, engine=engine) if name in names else None
            for name in ("connections", "local")
        )
    except (OSError, ValueError, KeyError) as error:
        raise netcdf_error(path, error, "delete it") from None
    groups = {"connections": connections, "local": local}
    if attrs.get("content_sha256", digest := _digest(groups, attrs["learned"])) != digest:
        raise ValueError(
            f"{path} is damaged: its contents are not those that were written; delete it"
        )
    return SavedExamination(connections, local, json.loads(attrs["learned"]))


def _digest(groups, learned):
    told = xr.Dataset({"learned": ((), learned)})
    return content_digest({"told": told, **{k: v for k, v in groups.items() if v is not None}})
