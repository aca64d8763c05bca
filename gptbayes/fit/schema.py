"""What the files of a run directory may hold: checked at the door, whoever wrote them.

A run may come from a stranger. Nothing that its files name is executed, imported, or opened: names
of methods and stages are looked up in lists, sizes have bounds, and file names are made here.

``schema`` in ``config.json`` and ``manifest.json`` is the version of all files of the directory. A
newer one is refused; files without one are of version 1 or older, which version 1 reads. Starting
points and metrics, which only CmdStan reads, are written anew whenever a fit begins or resumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

SCHEMA = 1
"""The version of the files that this package writes, and the newest that it reads."""

MOST_UNITS = 100_000
"""Largest number of chains, paths, starts or replicates of a run."""

MOST_DRAWS = 100_000_000
"""Largest number of iterations or draws of a unit."""

MOST_TREEDEPTH = 30
"""Of NUTS: a billion leapfrog steps for one draw."""

Version = Annotated[int, Meta(ge=0)]
Units = Annotated[int, Meta(ge=1, le=MOST_UNITS)]
Count = Annotated[int, Meta(ge=1, le=MOST_DRAWS)]
Size = Annotated[int, Meta(ge=1, le=2**20)]
Token = Annotated[int, Meta(ge=1, le=2**20)]
Scale = Annotated[float, Meta(gt=0)]
Weight = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Character = Annotated[str, Meta(min_length=1, max_length=1)]
Numbers = list[float]

T = TypeVar("T")


class NutsSettings(Struct):
    chains: Units
    iter_warmup: Count
    iter_sampling: Count
    init: Literal["random", "pathfinder", "optimize"]
    metric: Literal["prior", "diag_e", "dense_e", "unit_e"]
    adapt_delta: Share
    max_treedepth: Annotated[int, Meta(ge=1, le=MOST_TREEDEPTH)]
    superchains: Units | None = None
    thin: Count = 1
    continued_after: Annotated[list[Count], Meta(max_length=10_000)] = []


class HmcSettings(Struct):
    chains: Units
    iter_warmup: Count
    iter_sampling: Count
    init: Literal["random", "pathfinder", "optimize"]
    adapt_delta: Share
    trajectory_length: Scale
    thin: Count
    superchains: Units | None = None
    continued_after: Annotated[list[Count], Meta(max_length=10_000)] = []


class PathfinderSettings(Struct):
    paths: Units
    draws: Count
    max_lbfgs_iters: Count


class OptimizeSettings(Struct):
    starts: Units
    max_iterations: Count


class PriorSettings(Struct):
    draws: Count


class SmcSettings(Struct):
    replicates: Units
    chains: Units
    moves: Count
    draws: Count
    ess: Share
    max_treedepth: Annotated[int, Meta(ge=1, le=MOST_TREEDEPTH)]
    max_levels: Count
    weights: Numbers | None = None
    step_size: Scale | None = None


SETTINGS: dict[str, type[Struct]] = {
    "nuts": NutsSettings,
    "hmc": HmcSettings,
    "pathfinder": PathfinderSettings,
    "optimize": OptimizeSettings,
    "prior": PriorSettings,
    "smc": SmcSettings,
}


class DesignSizes(Struct):
    vocab_size: Size
    block_size: Size
    batch_size: Size
    n_embed: Size
    n_head: Size
    n_layer: Size


class Config(Struct):
    """``config.json``: everything that is needed to run a fit again."""

    stage: str
    method: Literal["nuts", "hmc", "pathfinder", "optimize", "prior", "smc"]
    settings: dict[str, Any]
    seed: Seed
    source: str
    design: DesignSizes
    priors: dict[str, Scale]
    likelihood_weight: Weight
    characters: Annotated[list[Character], Meta(min_length=1)]
    data_sha256: Digest
    kernels: Literal["stan", "c++"] | None = None
    versions: dict[str, str] = {}
    setups: dict[str, str] = {}
    schema: Version = SCHEMA


class Data(DesignSizes):
    """``data.json``: what Stan reads."""

    x: list[list[Token]]
    y: list[list[Token]]
    held_out_x: list[list[Token]]
    held_out_y: list[list[Token]]
    prompt: list[Token]
    n_new_tokens: Annotated[int, Meta(ge=0, le=MOST_DRAWS)]
    likelihood_weight: Weight
    token_embedding_scale: Scale
    position_embedding_scale: Scale
    attention_scale: Scale
    attention_proj_scale: Scale
    feed_forward_scale: Scale
    lm_head_scale: Scale
    offset_scale: Scale
    layer_norm_scale: Scale
    concentration: Scale = 1.0
    attention_mask: list[list[list[Numbers]]] | None = None
    attention_output_mask: list[Numbers] | None = None
    feed_forward_mask: list[Numbers] | None = None


class Manifest(Struct):
    """``manifest.json``: the SHA-256 digest of each complete file, and of these together."""

    sha256: Digest
    files: dict[str, Digest]
    schema: Version = SCHEMA


def default_settings(method: str) -> dict[str, Any]:
    """The settings that older runs do not have, with the values that they ran with."""
    fields = msgspec.structs.fields(SETTINGS[method])
    return {each.name: each.default for each in fields if each.default is not msgspec.NODEFAULT}


def read(path: Path, kind: type[T]) -> T:
    """Read a JSON file of a run directory.

    Parameters
    ----------
    path : pathlib.Path
    kind : type
        One of the classes above.

    Returns
    -------
    object of that class

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it cannot be read, is no JSON, or holds anything else than its kind.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    try:
        _refuse_newer(path, content)
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is malformed: {_reason(error)}") from None


def check_settings(path: Path, config: Config) -> None:
    """Check the settings of a method, which `Config` leaves open.

    Raises
    ------
    ValueError
        If one is missing or not what it must be.
    """
    try:
        msgspec.convert(config.settings, SETTINGS[config.method])
    except msgspec.ValidationError as error:
        where = _reason(error).replace("`$.", "`$.settings.")
        raise ValueError(f"{path} is malformed: {where}") from None


class _Schema(Struct):
    schema: Version = SCHEMA


def _refuse_newer(path, content):
    """Before anything else: a newer version may have anything where this one has something."""
    try:
        newest = msgspec.json.decode(content, type=_Schema).schema
    except (msgspec.ValidationError, RecursionError):
        return
    if newest > SCHEMA:
        raise ValueError(
            f"{path} is of schema {newest}, written by a newer gptbayes; this one reads up to "
            f"schema {SCHEMA}"
        )


def _reason(error):
    return " ".join(str(error).split()) or type(error).__name__
