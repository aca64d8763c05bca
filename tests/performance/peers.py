"""All that there are on this machine, each checked against our own log density and gradient."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import stan_peer
from measure import Peer, check

OTHERS = ("stanli_peer", "jax_peer", "torch_peer")  # in this order, see stanli_peer


def load(names: Sequence[str] = OTHERS) -> dict[str, ModuleType]:
    """Modules of those libraries that are installed; a line is printed for what is missing."""
    for name in stan_peer.missing():
        print(f"skipped: {name}, there are no such bricks")
    found = {}
    for name in names:
        try:
            found[name] = importlib.import_module(name)
        except ImportError as error:
            print(f"skipped: {name.removesuffix('_peer')}, {error}")
    return found


def checked(
    modules: Mapping[str, ModuleType],
    problem,
    parameters,
    folder: Path,
    compiled_torch: bool = False,
) -> list[Peer]:
    """Peers at one draw, ours first; everything stops if one of them computes something else."""
    peers = stan_peer.peers(problem, parameters, folder)
    plain = next(peer for peer in peers if peer.name == stan_peer.NAMES["functions"])
    reference = plain.density()
    for module in modules.values():
        peers += module.peers(problem, parameters)
    if compiled_torch and "torch_peer" in modules:
        peers.append(modules["torch_peer"].compiled_peer(problem, parameters))
    for peer in peers:
        check(peer, reference)
    return peers
