"""Every symmetry of every stage: random elements, their action, and their Lie algebra.

The likelihood is invariant under all of them, the posterior under those that keep the prior, which
is normal and independent with one scale per family of parameters: rotations and permutations
within families, and no sign, scale or translation of anything whose prior has a centre or a scale
to be missed by. Together the continuous ones span the null space of the logits at almost every
point (Elhage et al. 2021 and Theus et al. 2025 describe parts of the group). Stages with one head
and layer norms but no projection (09 to 11 with ``n_head = 1``) have a few directions more, along
ones, than are listed here; so has stage 12 where masks drop coordinates, for what is written into
the others stands for all up to a constant that no layer norm sees. None of these keeps the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry import actions
from gptbayes.symmetry.dimension import STEP, ZERO

SPREAD = 0.4
"""Of the logarithms of random scales, singular values included."""


class Generator(NamedTuple):
    """A family of transformations that no prediction shows.

    Attributes
    ----------
    name : str
    continuous : bool
    keeps_prior : bool
        Whether every element leaves the independent normal prior as it is too, and so the
        posterior.
    random : callable
        ``random(stage, design, batch_shape, rng)`` gives random elements, one array
        ``(*batch_shape, ...)``, not near the identity.
    act : callable
        ``act(stage, parameters, element)`` gives the transformed parameters; batch dims broadcast.
    tangents : callable
        ``tangents(stage, parameters)`` gives a basis of the directions in which the generator
        moves the parameters: dict of str to ndarray ``(*batch, dimension, dims of the
        parameter)``; empty if it is discrete.
    """

    name: str
    continuous: bool
    keeps_prior: bool
    random: Callable
    act: Callable
    tangents: Callable


def generators(stage: Stage) -> tuple[Generator, ...]:
    """The symmetries of a stage.

    Parameters
    ----------
    stage : Stage
        With its masks, in stages 11 and 12: what they break is left out, what they drop is free.
        Without, nothing is taken to be dropped.

    Returns
    -------
    tuple of Generator
        Those that keep the prior are parts of larger ones that do not, so that the dimensions of
        all do not add up: see `symmetry_dimension`.
    """
    has = stage.features.__contains__
    found = [*_of_embeddings(stage), *_of_stream(stage)]
    if has("attention"):
        found += _of_heads(stage)
    if has("wide_feed_forward") or (has("feed_forward") and not has("residual")):
        found += _of_hidden_units()
    if has("layer_norm"):
        found += [each for norm in actions.norms(stage) for each in _of_norm(norm)]
        found += _of_unseen_directions(stage)
    if stage.masks is not None:
        found += _of_dropped(stage)
    return tuple(found)


def symmetries(stage: Stage) -> tuple[str, ...]:
    """Names of the generators that likelihood and prior both keep."""
    return tuple(each.name for each in generators(stage) if each.keeps_prior)


def symmetry_dimension(stage: Stage, parameters: Parameters) -> int:
    """The dimension of the orbit of one draw: the rank of all tangents together.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        One draw, each ``(dims of that parameter)``.

    Returns
    -------
    int
        At almost every point, P - rank of the Jacobian of the logits, see `null_dimension`.
    """
    rows = [each.tangents(stage, parameters) for each in generators(stage) if each.continuous]
    names = [p.name for p in stage.parameters]
    flat = [
        np.concatenate([each[n].reshape(len(each[n]), parameters[n].size) for n in names], axis=1)
        for each in rows
    ]
    basis = np.concatenate(flat)
    basis /= np.maximum(np.linalg.norm(basis, axis=1, keepdims=True), np.finfo(float).tiny)
    values = np.linalg.svd(basis, compute_uv=False)
    return int((values > ZERO * values[0]).sum())


def stream_classes(stage: Stage, n_embed: int) -> np.ndarray:
    """Which coordinates of the stream the masks treat alike: a label for each, (embed,)."""
    if stage.masks is None:
        return np.zeros(n_embed, dtype=int)
    both = np.concatenate([stage.masks.attention_output, stage.masks.feed_forward])
    return np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)


def head_classes(stage: Stage, n_layer: int, n_head: int) -> np.ndarray:
    """Which heads of a layer the masks treat alike: labels, (layer, head)."""
    if stage.masks is None:
        return np.zeros((n_layer, n_head), dtype=int)
    mask = np.asarray(stage.masks.attention)
    seen = np.where(np.tri(mask.shape[-1], dtype=bool), mask, 0)
    rows = seen.reshape(n_layer * n_head, -1)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(n_layer, n_head)


# The table, brick by brick.


def _of_embeddings(stage):
    has = stage.features.__contains__

    def act_logits(stage, parameters, element):
        return actions.shift_logits(parameters, element)

    if not has("lm_head"):
        return [_shift("shift_logits", act_logits, lambda n: (n["token"],))]
    found = [_shift("shift_logits", act_logits, lambda n: (n["embed"] + 1,))]
    if has("position"):
        act = _plain(actions.shift_embeddings)
        found.append(_shift("shift_embeddings", act, lambda n: (n["embed"],)))
    if not has("attention") or (has("wide_feed_forward") and not has("blocks")):
        found.append(_shift("shift_stream", actions.shift_stream, lambda n: (n["embed"],)))
    return found


def _of_stream(stage):
    has = stage.features.__contains__
    if not has("lm_head"):
        return []
    if has("layer_norm"):
        found = [
            _stream_matrix("rotate_centred_stream", _rotations_about_ones, keeps_prior=False),
            _scaling("scale_stream", _act_scale_stream, lambda n: (1,)),
            _flips("flip_stream", lambda n: (), actions.flip_stream, keeps_prior=True),
        ]
    elif has("wide_feed_forward") or not has("residual"):
        found = [
            _stream_matrix("mix_stream", _invertible, keeps_prior=False),
            _stream_matrix("rotate_stream", _orthogonal, keeps_prior=True),
        ]
    else:
        found = [_scaling("scale_stream", _act_scale_stream, lambda n: (n["embed"],))]
    if has("residual"):
        found.append(_permutation("permute_stream", _stream_orders, actions.permute_stream))
    return [each for each in found if _possible(each.name, stage)]


def _of_heads(stage):
    found = [
        _head_matrix("mix_query_key", actions.transform_query_key, False),
        _head_matrix("rotate_query_key", actions.rotate_query_key, True),
    ]
    if not actions.heads_write_stream(stage):
        found.append(_head_matrix("mix_value", actions.transform_value, False))
        found.append(_head_matrix("rotate_value", actions.rotate_value, True))
        if "multi_head" in stage.features and _possible("permute_heads", stage):
            act = _plain(actions.permute_heads)
            found.append(_permutation("permute_heads", _head_orders, act))
    return found


def _of_hidden_units():
    def orders(stage, sizes, batch, rng):
        lead = (*batch, sizes["layer"])
        return rng.permuted(np.tile(np.arange(sizes["hidden"]), (*lead, 1)), axis=-1)

    return [
        _scaling("scale_hidden", actions.scale_hidden, lambda n: (n["layer"], n["hidden"])),
        _permutation("permute_hidden", orders, actions.permute_hidden),
    ]


def _of_norm(norm):
    def shape(sizes):
        return (sizes["embed"],) if norm == "ln_f" else (sizes["layer"], sizes["embed"])

    def act_scale(stage, parameters, element):
        return actions.scale_gain(stage, parameters, norm, element)

    def act_shift(stage, parameters, element):
        return actions.shift_bias(stage, parameters, norm, element)

    return [
        _scaling(f"scale_{norm}", act_scale, shape),
        _shift(f"shift_{norm}", act_shift, shape),
        _flips(f"flip_{norm}", shape, act_scale, keeps_prior=False),
    ]


def _of_unseen_directions(stage):
    """Constants that the centring of a layer norm, or the softmax, takes away."""

    def per_head(sizes):
        return (sizes["layer"], sizes["head"], sizes["head_dim"])

    def readers(norm):
        return lambda stage, p, element: actions.shift_readers(p, norm, element)

    def hidden(sizes):
        return (sizes["layer"], sizes["hidden"])

    def act_key(stage, parameters, element):
        return actions.shift_attention(parameters, "key", element)

    found = [
        _shift("shift_key", act_key, per_head),
        _shift("shift_feed_forward", readers("ln2"), hidden),
    ]
    if "blocks" in stage.features:
        found.append(_shift("shift_head", readers("ln_f"), lambda n: (n["token"],)))
    if "projection" in stage.features:
        parts = actions.shift_value, per_head, uniform_heads
    else:
        parts = _act_same_value, lambda n: (n["layer"],), even_heads
    if _any_allowed(stage, parts[-1]):
        found.append(_shift("shift_value", *parts))
    return found + _along_ones(stage)


def _along_ones(stage):
    if "blocks" not in stage.features:

        def act(stage, parameters, element):
            along = element[..., 0]
            return actions.shift_along_ones(stage, parameters, "token_embedding", along)

        return [_shift("shift_token_embedding_along_ones", act, lambda n: (1,))]
    found = []
    for name, axis in actions.stream_writers(stage):
        dims = list(stage.parameter(name).dims)
        del dims[axis]

        def act(stage, parameters, element, name=name):
            return actions.shift_along_ones(stage, parameters, name, element)

        def shape(sizes, dims=tuple(dims)):
            return tuple(sizes[dim] for dim in dims)

        def allowed(stage, sizes, name=name, dims=tuple(dims)):
            even = even_output(stage, name, sizes["layer"])
            full = tuple(sizes[dim] for dim in dims)
            if dims[0] != "layer":
                return np.ones(full, dtype=bool)
            return np.broadcast_to(even.reshape(-1, *(1,) * (len(full) - 1)), full)

        if dims[0] != "layer" or _any_allowed(stage, allowed):
            found.append(_shift(f"shift_{name}_along_ones", act, shape, allowed))
    return found


def _of_dropped(stage):
    """Weights whose every effect a mask removes may be anything."""
    names = ["feed_forward_proj_multiplier", "feed_forward_proj_offset"]
    projection = "projection" in stage.features
    names += ["sa_proj_multiplier", "sa_proj_offset"] if projection else ["value"]
    found = []
    for name in names:
        mask = stage.masks[2] if name.startswith("feed") else stage.masks[1]  # (layer, embed)
        if np.all(mask):
            continue

        def act(stage, parameters, element, name=name):
            return {**parameters, name: parameters[name] + element}

        def shape(sizes, name=name):
            return tuple(sizes[dim] for dim in stage.parameter(name).dims)

        def allowed(stage, sizes, name=name, mask=mask, shape=shape):
            return dropped_elements(stage, name, np.asarray(mask) == 0, shape(sizes))

        found.append(_shift(f"shift_dropped_{name}", act, shape, allowed))
    return found


# What elements do, where an action needs more than one.


def _act_scale_stream(stage, parameters, element):
    n_embed = parameters["token_embedding"].shape[-1]
    diagonal = np.broadcast_to(element, (*element.shape[:-1], n_embed))
    return actions.transform_stream(stage, parameters, diagonal[..., None] * np.eye(n_embed))


def _act_same_value(stage, parameters, element):
    n_head, _, head_dim = parameters["value"].shape[-3:]
    shift = np.broadcast_to(element[..., None, None], (*element.shape, n_head, head_dim))
    return actions.shift_value(stage, parameters, shift)


# What masks allow.


def _any_allowed(stage, allowed):
    if stage.masks is None:
        return True
    layer, head, position, _ = np.shape(stage.masks.attention)
    embed = np.shape(stage.masks.feed_forward)[1]
    sizes = {"layer": layer, "head": head, "position": position, "embed": embed}
    return allowed(stage, {**sizes, "head_dim": embed // head, "hidden": 4 * embed}).any()


def uniform_heads(stage, sizes):
    total = actions.uniform_attention(stage)
    full = (sizes["layer"], sizes["head"], sizes["head_dim"])
    kept = np.ones(full[:2], dtype=bool) if total is None else np.isfinite(total)
    return np.broadcast_to(kept[..., None], full)


def even_heads(stage, sizes):
    """Layers in which all heads write the same at every coordinate if their values are the same."""
    labels = head_classes(stage, sizes["layer"], sizes["head"])
    same = (labels == labels[:, :1]).all(axis=1)
    return same & even_output(stage, "value", sizes["layer"])


def even_output(stage, name, n_layer):
    """Layers whose mask of what a parameter writes keeps all coordinates alike."""
    if stage.masks is None:
        return np.ones(n_layer, dtype=bool)
    mask = stage.masks.feed_forward if name.startswith("feed") else stage.masks.attention_output
    return (np.asarray(mask) == np.asarray(mask)[:, :1]).all(axis=1)


def dropped_elements(stage, name, zero, full):
    """Which elements of a parameter write into dropped coordinates only."""
    if name == "value":
        n_layer, n_head, _, head_dim = full
        return np.broadcast_to(zero.reshape(n_layer, n_head, 1, head_dim), full)
    axis = dict(actions.stream_writers(stage))[name]
    shape = [1] * len(full)
    shape[0], shape[axis] = zero.shape
    return np.broadcast_to(zero.reshape(shape), full)


def _possible(name, stage):
    """Whether the masks leave a discrete symmetry anything to do."""
    if stage.masks is None or name not in ("permute_stream", "permute_heads"):
        return True
    n_layer, n_head = np.shape(stage.masks.attention)[:2]
    if name == "permute_heads":
        labels = head_classes(stage, n_layer, n_head)
        return any(len(np.unique(row)) < n_head for row in labels)
    n_embed = np.shape(stage.masks.feed_forward)[1]
    blocks, within = stream_blocks(stage, n_embed, n_head)
    alone = all(len(np.unique(row)) == len(row) for row in within)
    return not alone or len(np.unique(blocks)) < len(blocks)


def stream_blocks(stage: Stage, n_embed: int, n_head: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of coordinates of the stream that permutations keep together.

    Returns
    -------
    blocks : ndarray of int, (block,)
        Blocks with the same label may change places.
    within : ndarray of int, (block, coordinate of the block)
        Coordinates with the same label may change places within and between such blocks.
    """
    labels = stream_classes(stage, n_embed)
    if not actions.heads_write_stream(stage):
        return np.zeros(1, dtype=int), labels[None]
    within = labels.reshape(n_head, -1)
    n_layer = 1 if stage.masks is None else np.shape(stage.masks.attention)[0]
    heads = head_classes(stage, n_layer, n_head)
    signature = np.concatenate([np.sort(within, axis=1), heads.T], axis=1)
    return np.unique(signature, axis=0, return_inverse=True)[1].reshape(-1), within


# Random elements.


def _stream_orders(stage, sizes, batch, rng):
    blocks, within = stream_blocks(stage, sizes["embed"], sizes["head"])
    n_block, size = within.shape
    orders = np.empty((int(np.prod(batch)), n_block, size), dtype=np.int64)
    for order in orders:
        sources = _shuffled(blocks, rng)
        for block, source in enumerate(sources):
            for label in np.unique(within[block]):
                at = np.flatnonzero(within[source] == label)
                order[block, within[block] == label] = source * size + rng.permutation(at)
    return orders.reshape(*batch, sizes["embed"])


def _head_orders(stage, sizes, batch, rng):
    labels = head_classes(stage, sizes["layer"], sizes["head"])
    n = int(np.prod(batch))
    orders = np.array([[_shuffled(row, rng) for row in labels] for _ in range(n)])
    return orders.reshape(*batch, sizes["layer"], sizes["head"])


def _shuffled(labels, rng):
    """A random permutation that moves nothing to a place of another label."""
    order = np.arange(len(labels))
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        order[at] = rng.permutation(at)
    return order


def _random_rotation(k, shape, rng):
    """Haar-distributed orthogonal matrices (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(*shape, k, k)))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _random_invertible(k, shape, rng):
    scales = np.exp(SPREAD * rng.normal(size=(*shape, k)))
    left, right = (_random_rotation(k, shape, rng) for _ in range(2))
    return (left * scales[..., None, :]) @ right


# Matrix groups: random elements and a basis of the Lie algebra.


def _invertible(k, shape, rng):
    """GL(k): random elements if there is a generator of random numbers, else its Lie algebra."""
    if rng is not None:
        return _random_invertible(k, shape, rng)
    return np.eye(k * k).reshape(k * k, k, k)


def _orthogonal(k, shape, rng):
    if rng is not None:
        return _random_rotation(k, shape, rng)
    basis = np.zeros((k * (k - 1) // 2, k, k))
    for n, (i, j) in enumerate(combinations(range(k), 2)):
        basis[n, i, j], basis[n, j, i] = 1, -1
    return basis


def _rotations_about_ones(k, shape, rng):
    """The orthogonal matrices that keep the vector of ones."""
    plane = across_ones(k)
    turned = plane @ _orthogonal(k - 1, shape, rng) @ plane.T
    return turned if rng is None else turned + 1 / k


def across_ones(k: int) -> np.ndarray:
    """An orthonormal basis of what is orthogonal to the vector of ones, (k, k - 1)."""
    return np.linalg.svd(np.eye(k) - 1 / k)[0][:, : k - 1]


def _cells(stage, sizes):
    """Coordinates of the stream that may be mixed with each other."""
    blocks = np.arange(sizes["embed"]) // sizes.get("head_dim", sizes["embed"])
    if not actions.heads_write_stream(stage):
        blocks[:] = 0
    labels = np.stack([blocks, stream_classes(stage, sizes["embed"])])
    which = np.unique(labels, axis=1, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(which == label) for label in np.unique(which)]


# Generators from their parts.


def _stream_matrix(name, group, keeps_prior):
    def random(stage, design, batch, rng):
        sizes = stage.sizes(design)
        matrix = np.zeros((*batch, sizes["embed"], sizes["embed"]))
        for cell in _cells(stage, sizes):
            matrix[(..., *np.ix_(cell, cell))] = group(len(cell), batch, rng)
        return matrix

    def directions(stage, sizes):
        n_embed, found = sizes["embed"], []
        for cell in _cells(stage, sizes):
            basis = group(len(cell), (), None)
            full = np.zeros((len(basis), n_embed, n_embed))
            full[(slice(None), *np.ix_(cell, cell))] = basis
            found.append(full)
        return np.eye(n_embed), np.concatenate(found)

    act = actions.transform_stream
    return Generator(name, True, keeps_prior, random, act, _tangents(act, directions))


def _head_matrix(name, action, orthogonal):
    group = _orthogonal if orthogonal else _invertible
    act = _plain(action)

    def random(stage, design, batch, rng):
        n = stage.sizes(design)
        return group(n["head_dim"], (*batch, n["layer"], n["head"]), rng)

    def directions(stage, n):
        basis = group(n["head_dim"], (), None)
        n_heads = n["layer"] * n["head"]
        one_hot = np.eye(n_heads).reshape(n_heads, 1, n["layer"], n["head"], 1, 1)
        found = one_hot * basis[:, None, None]
        return np.eye(n["head_dim"]), found.reshape(-1, *found.shape[2:])

    return Generator(name, True, orthogonal, random, act, _tangents(act, directions))


def _shift(name, act, shape, allowed=None):
    """A translation; elements are arrays of the given shape, 0 where masks do not allow more."""
    allowed = allowed or (lambda stage, sizes: np.ones(shape(sizes), dtype=bool))

    def random(stage, design, batch, rng):
        sizes = stage.sizes(design)
        return rng.normal(size=(*batch, *shape(sizes))) * allowed(stage, sizes)

    def directions(stage, sizes):
        kept = allowed(stage, sizes)
        basis = np.eye(kept.size)[kept.ravel()]
        return np.zeros(kept.shape), basis.reshape(-1, *kept.shape)

    return Generator(name, True, False, random, act, _tangents(act, directions))


def _scaling(name, act, shape):
    """Multiplication by positive numbers."""

    def random(stage, design, batch, rng):
        return np.exp(SPREAD * rng.normal(size=(*batch, *shape(stage.sizes(design)))))

    def directions(stage, sizes):
        n = int(np.prod(shape(sizes)))
        return np.ones(shape(sizes)), np.eye(n).reshape(n, *shape(sizes))

    return Generator(name, True, False, random, act, _tangents(act, directions))


def _flips(name, shape, act, keeps_prior):
    def random(stage, design, batch, rng):
        return rng.choice([-1.0, 1.0], size=(*batch, *shape(stage.sizes(design))))

    return Generator(name, False, keeps_prior, random, act, _no_tangents)


def _permutation(name, orders, act):
    def random(stage, design, batch, rng):
        return orders(stage, stage.sizes(design), batch, rng)

    return Generator(name, False, True, random, act, _no_tangents)


def _plain(action):
    """An action that needs no stage, as one that is given it."""
    return lambda stage, parameters, element: action(parameters, element)


def _no_tangents(stage, parameters) -> dict[str, np.ndarray]:
    return {}


def _tangents(act, directions) -> Callable[[Stage, Parameters], Mapping[str, np.ndarray]]:
    """Derivatives of an action at the identity by complex steps: exact to rounding."""

    def tangents(stage, parameters):
        identity, basis = directions(stage, sizes_of(stage, parameters))
        spread = {
            p.name: np.expand_dims(parameters[p.name], -len(p.dims) - 1) for p in stage.parameters
        }
        moved = act(stage, spread, identity + 1j * STEP * basis)
        found = {}
        for p in stage.parameters:
            shape, at = list(spread[p.name].shape), -len(p.dims) - 1
            shape[at] = len(basis)
            found[p.name] = np.broadcast_to(moved[p.name].imag / STEP, shape)
        return found

    return tangents


def sizes_of(stage: Stage, parameters: Parameters) -> dict[str, int]:
    """Length of every dim of the parameters, as they are."""
    sizes = {}
    for p in stage.parameters:
        shape = parameters[p.name].shape
        sizes |= dict(zip(p.dims, shape[len(shape) - len(p.dims) :], strict=True))
    return sizes
