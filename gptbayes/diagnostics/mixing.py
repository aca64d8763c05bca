"""Mixing of the chains of any model, up to a symmetry group that is given as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gptbayes.diagnostics import segments
from gptbayes.diagnostics.convergence import diagnose_scalars, mixing_table
from gptbayes.diagnostics.modes import Space, weight_space
from gptbayes.diagnostics.modes.description import mass_sentence
from gptbayes.diagnostics.verdict import Verdict, mixing_verdict
from gptbayes.groups import group as group_of
from gptbayes.groups import group_names
from gptbayes.stats.summary import summarise
from gptbayes.stats.thinning import evenly_spaced
from gptbayes.symmetry.alignment import inner_products
from gptbayes.symmetry.compact_group import Group, Permutation
from gptbayes.symmetry.posterior import align, arrays_of, as_groups, layout_of, posterior_of

Functions = Mapping[str, Callable[[xr.Dataset], Any] | xr.DataArray] | Sequence[str]
"""Functions of a posterior dataset by name, or names of its variables."""
MAX_FUNCTIONS = 1000
"""Maximum number of scalars of functions. If there are more, evenly spaced ones are used."""


class Mixing(NamedTuple):
    """Mixing of the chains of any model.

    Attributes
    ----------
    verdict : gptbayes.diagnostics.verdict.Verdict
        With the table of R-hat, nested R-hat, ESS and R* as ``evidence``.
    kinds : dict of str to DataArray (chain, draw, scalar)
        "raw variables"; with a group "aligned variables" and "invariants"; "functions"; and "log
        posterior", if it was saved. Names of scalars are their coordinate.
    r_hats : dict of str to DataArray (scalar)
    space : gptbayes.diagnostics.modes.Space, or None
        Distances of segments of chains in aligned variables (raw ones without a group), for the
        figures of `gptbayes.plots`; None for a single chain.
    modes : Dataset (mode), or None
        ``whole_chains``, ``share_of_draws`` and, if it was saved, ``lp`` and ``lp_mcse`` of the log
        posterior. Attributes ``switches``, the number of moves of chains between modes, and
        ``mass``, what these say about posterior mass. None without modes.
    differences : Dataset (row, mode), or None
        The aligned variables and functions that differ most between modes, in units of the
        standard deviation within modes: ``mean`` and ``mcse`` for each mode, ``range``, ``sd`` and
        ``p_value`` (row). The p-values are not corrected for the number of comparisons, attribute
        ``n_compared``.
    aligned : InferenceData or DataTree
        The fit with the variables of the group aligned; unchanged without a group.
    """

    verdict: Verdict
    kinds: dict[str, xr.DataArray]
    r_hats: dict[str, xr.DataArray]
    space: Space | None
    modes: xr.Dataset | None
    differences: xr.Dataset | None
    aligned: az.InferenceData


def diagnose_mixing(
    idata: az.InferenceData | str | Path,
    group: Group | None = None,
    functions: Functions | None = None,
    *,
    log_density: Callable[[xr.Dataset], Any] | None = None,
    superchains: Sequence[int] | None = None,
    n_differences: int = 10,
) -> Mixing:
    """Distinguish symmetries of the parameters from disagreement of the chains, for any model.

    Parameters
    ----------
    idata : InferenceData, DataTree, or path of a netCDF file
        With several chains.
    group : Group, optional
        A compact group that leaves the posterior unchanged.
    functions : mapping of str to callable or DataArray, or sequence of str, optional
        Functions of the posterior with values (chain, draw, ...) that no element of the group
        changes, or names of such variables of the posterior. By default the pointwise log
        likelihood.
    log_density : callable, optional
        As for `gptbayes.align`: checks that the group is a symmetry.
    superchains : sequence of int, one per chain, optional
        Equal labels for chains that started at the same point, for nested R-hat.
    n_differences : int
        Number of differences between modes to list.

    Returns
    -------
    Mixing

    Raises
    ------
    ValueError
        As `gptbayes.align`; if no functions are given and there is no log likelihood; if draws or
        functions are not finite; or if there are fewer than 8 draws per chain.

    See Also
    --------
    gptbayes.align : Aligned draws alone.
    gptbayes.diagnostics.verdict.mixing_verdict : What the verdicts mean.

    Examples
    --------
    >>> import gptbayes
    >>> from gptbayes import Group, Permutation
    >>> rng = np.random.default_rng(1)
    >>> mu = rng.normal([-3.0, 3.0], 0.2, size=(4, 400, 2))
    >>> mu[2:] = mu[2:, :, ::-1]
    >>> posterior = az.convert_to_dataset({"mu": mu}, dims={"mu": ["component"]})
    >>> idata = gptbayes.groups.make_groups({"posterior": posterior})
    >>> mixing = diagnose_mixing(
    ...     idata,
    ...     Group(Permutation({"mu": "component"})),
    ...     {"distance": lambda p: p["mu"].max("component") - p["mu"].min("component")},
    ... )
    >>> mixing.verdict.name
    'mixed up to symmetry'
    """
    idata = as_groups(idata)
    posterior = posterior_of(idata)
    aligned = idata
    kinds = {"raw variables": _scalars(posterior)}
    if group is not None:
        aligned = align(idata, group, log_density=log_density)
        kinds["aligned variables"] = _scalars(posterior_of(aligned)[list(group.variables)])
        kinds["invariants"] = group_invariants(posterior, group)
    kinds["functions"] = _functions(idata, posterior, functions)
    lp = _log_posterior(idata)
    if lp is not None:
        kinds["log posterior"] = lp
    diagnosed = diagnose_scalars(kinds)
    r_hats = {name: each["r_hat"] for name, each in diagnosed.items()}
    table = mixing_table(kinds, superchains, diagnosed=diagnosed)
    verdict = mixing_verdict(kinds, superchains, r_hats=r_hats, table=table)
    compared = kinds["raw variables" if group is None else "aligned variables"]
    several = compared.sizes["chain"] > 1
    modes = differences = None
    if verdict.groups is not None:
        label = verdict.groups.label
        modes = _describe_modes(label, lp)
        both = xr.concat([compared, kinds["functions"]], "scalar")
        differences = _differences(both, label, n_differences)
    return Mixing(
        verdict,
        kinds,
        r_hats,
        weight_space(compared.drop_vars("scalar")) if several else None,
        modes,
        differences,
        aligned,
    )


def group_invariants(posterior: xr.Dataset, group: Group) -> xr.DataArray:
    """Compute functions of the variables that no element of a group changes.

    These are inner products over the axes on which the group acts, sorted values of variables on
    which it only permutes one axis, and the variables on which it does not act.

    Parameters
    ----------
    posterior : Dataset (chain, draw, ...)
    group : Group

    Returns
    -------
    DataArray (chain, draw, scalar)
    """
    layout, arrays = layout_of(group, posterior), arrays_of(posterior)
    batch = (posterior.sizes["chain"], posterior.sizes["draw"])
    flat = {n: arrays[n].reshape(-1, *layout.shapes[n]).astype(float) for n in layout.shapes}
    products = inner_products(layout, flat)
    found = [products.reshape(*batch, -1)]
    names = [f"inner product {k + 1}" for k in range(products.shape[1])]
    for name, shape in layout.shapes.items():
        acting = [p for p in layout.parts if any(site.variable == name for site in p.sites)]
        simple = len(acting) == 1 and isinstance(acting[0].part, Permutation)
        if simple and len(shape) == 1 and acting[0].labels is None:
            found.append(np.sort(arrays[name], axis=-1))
            names += [f"{name}, sorted, {k + 1}" for k in range(shape[0])]
    rest = posterior.drop_vars(list(layout.shapes))
    if rest.data_vars:
        others = _scalars(rest)
        found.append(others.values)
        names += [str(name) for name in others["scalar"].values]
    return _named(np.concatenate(found, axis=-1), names)


def difference_sentences(mixing: Mixing) -> list[str]:
    """Describe the differences between modes, one sentence each.

    Parameters
    ----------
    mixing : Mixing

    Returns
    -------
    list of str
        Empty without modes.
    """
    if mixing.differences is None:
        return []
    found = []
    for k in range(mixing.differences.sizes["row"]):
        row = mixing.differences.isel(row=k)
        each = ", ".join(
            f"{float(m):.3g} ± {float(e):.1g}"
            for m, e in zip(row["mean"], row["mcse"], strict=True)
        )
        size = float(row["range"] / row["sd"])
        found.append(f"{row['scalar'].item()}: {each} ({size:.1f} sd within a mode)")
    return found


def _functions(idata, posterior, functions):
    if functions is not None and not len(functions):
        raise ValueError("functions must have at least one item, got none")
    if functions is None:
        if "log_likelihood" not in group_names(idata):
            raise ValueError(
                "functions that no symmetry changes must be given, since there is no group "
                "log_likelihood"
            )
        found = _scalars(group_of(idata, "log_likelihood"))
    elif isinstance(functions, Mapping):
        batch = (posterior.sizes["chain"], posterior.sizes["draw"])
        given = {n: f(posterior) if callable(f) else f for n, f in functions.items()}
        found = _scalars(xr.Dataset({n: _as_array(n, v, batch) for n, v in given.items()}))
    else:
        missing = [name for name in functions if name not in posterior]
        if missing:
            known = ", ".join(map(str, posterior.data_vars))
            raise ValueError(f"unknown functions {', '.join(missing)}, the variables are {known}")
        found = _scalars(posterior[list(functions)])
    n = found.sizes["scalar"]
    return found.isel(scalar=evenly_spaced(n, MAX_FUNCTIONS))


def _as_array(name, value, batch):
    if isinstance(value, xr.DataArray):
        own = {dim: f"{name}_{dim}" for dim in value.dims if dim not in ("chain", "draw")}
        if not {"chain", "draw"} <= set(value.dims):
            raise ValueError(f"the function {name} must have dims chain and draw, got {value.dims}")
        return value.drop_vars(list(value.coords)).rename(own)
    value = np.asarray(value, dtype=float)
    if value.shape[:2] != batch:
        raise ValueError(
            f"the function {name} must have chain and draw in front, {batch}, got {value.shape}"
        )
    return xr.DataArray(
        value, dims=("chain", "draw", *(f"{name}_{k}" for k in range(value.ndim - 2)))
    )


def _log_posterior(idata):
    if "sample_stats" not in group_names(idata):
        return None
    stats = group_of(idata, "sample_stats")
    if "lp" not in stats:
        return None
    return _scalars(stats[["lp"]])


def _scalars(dataset):
    """All variables as columns, named after variable and coordinates."""
    arrays, names = [], []
    for name, values in dataset.data_vars.items():
        moved = values.transpose("chain", "draw", ...)
        arrays.append(np.asarray(moved.values, dtype=float).reshape(*moved.shape[:2], -1))
        names += [f"{name}{index}" for index in _indices(moved)]
    return _named(np.concatenate(arrays, axis=-1), names)


def _indices(values) -> Iterable[str]:
    dims = values.dims[2:]
    if not dims:
        return [""]
    labels = [
        values[dim].values if dim in values.coords else range(values.sizes[dim]) for dim in dims
    ]
    grid = np.stack(np.meshgrid(*(np.arange(len(each)) for each in labels), indexing="ij"), -1)
    return [
        f"[{', '.join(str(labels[k][i]) for k, i in enumerate(row))}]"
        for row in grid.reshape(-1, len(dims))
    ]


def _named(values, names):
    return xr.DataArray(values, dims=("chain", "draw", "scalar"), coords={"scalar": names})


def _describe_modes(label, lp):
    found = segments.counts_by_group(label)
    found = found.assign_attrs(mass=mass_sentence(found.attrs["switches"]))
    if lp is None:
        return found
    moments = _moments(lp, label)
    return found.assign(
        lp=("mode", moments["mean"].values[:, 0]), lp_mcse=("mode", moments["mcse"].values[:, 0])
    )


def _moments(draws, label):
    """Mean and Monte Carlo standard error of every scalar in each mode, (mode, scalar)."""
    pieces = segments.cut_like(draws, label)
    numbers = range(int(label.max()) + 1)
    found = [summarise(segments.as_chains(pieces, label, k)) for k in numbers]
    return xr.concat(found, "mode")[["mean", "mcse_mean"]].rename(mcse_mean="mcse")


def _differences(draws, label, n_rows):
    tests = segments.differences(segments.cut_like(draws, label), label)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.nan_to_num((tests["range"] / tests["sd"]).values, nan=0.0, posinf=0.0)
    top = np.argsort(-size, kind="stable")[:n_rows]
    chosen = draws.isel(scalar=top)
    found = xr.merge([_moments(chosen, label), tests.isel(scalar=top)], compat="override")
    rows = found.rename(scalar="row").transpose("row", "mode", ...)
    rows = rows.drop_vars("row", errors="ignore")
    return rows.assign_coords(scalar=("row", chosen["scalar"].values)).assign_attrs(
        n_compared=draws.sizes["scalar"]
    )
