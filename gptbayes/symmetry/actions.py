"""Transformations of the weights that leave every prediction as it is, as functions of draws.

Each maps parameters to parameters with the same logits at every context, up to one constant per
context. Conventions are those of `gptbayes.model.forward`: vectors are rows, so that a matrix acts on
the stream from the right, on what writes into the stream from the right as well, and with its
inverse on what reads from it. Batch dims ``(...)`` of parameters and group elements broadcast.
All are analytic functions of their element, so that complex steps give their tangents.

Which elements are symmetries of which stage, and which of them the prior keeps, is the business of
`gptbayes.symmetry.generators`; the functions here trust their element.
"""

from __future__ import annotations

import math

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage

QUERY_KEY = ("query", "key")
ATTENTION = ("key", "query", "value")
STREAM_SHIFTED_BY = {
    "ln1": ATTENTION,
    "ln2": ("feed_forward_multiplier",),
    "ln_f": ("lm_head_multiplier",),
}
"""What reads the stream through each layer norm."""


# The stream: what all blocks write into and read from.


def stream_writers(stage: Stage) -> tuple[tuple[str, int], ...]:
    """Parameters that write into the stream, each with the axis that does.

    The stream of stages 04 to 06 is the input of attention, which replaces it. In stages 07 to
    11 the heads side by side write into it too, see `write_value`.
    """
    writers = [("token_embedding", -1)]
    if "position" in stage.features:
        writers.append(("position_embedding", -1))
    if "projection" in stage.features:
        writers += [("sa_proj_multiplier", -3), ("sa_proj_offset", -1)]
    if "wide_feed_forward" in stage.features:
        writers += [("feed_forward_proj_multiplier", -2), ("feed_forward_proj_offset", -1)]
    elif "residual" in stage.features:
        writers += [("feed_forward_multiplier", -2), ("feed_forward_offset", -1)]
    return tuple(writers)


def stream_readers(stage: Stage) -> tuple[tuple[str, int, str | None], ...]:
    """Parameters that read the stream: name, axis, and the layer norm they read it through."""
    has = stage.features.__contains__
    readers = []
    if has("attention"):
        readers += [(name, -2, "ln1" if has("layer_norm") else None) for name in ATTENTION]
    if has("residual"):
        norm = "ln2" if has("layer_norm") else None
        readers.append(("feed_forward_multiplier", -1, norm))
    if has("residual") or not has("attention"):
        readers.append(("lm_head_multiplier", -1, "ln_f" if has("blocks") else None))
    return tuple(readers)


def heads_write_stream(stage: Stage) -> bool:
    """Whether heads are tied to the coordinates of the stream: stages 07 to 11."""
    return "residual" in stage.features and "projection" not in stage.features


def transform_stream(stage: Stage, parameters: Parameters, matrix: np.ndarray) -> dict:
    """Change the basis of the stream.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    matrix : ndarray, (..., embed, embed)
        The stream x becomes x times it. Any invertible one in stages 02 to 06, a positive diagonal
        in 07, block-diagonal by heads in 08; from 09 on, where every reader is behind a layer norm,
        a multiple of an orthogonal one that keeps the vector of ones (block-diagonal up to 11).

    Returns
    -------
    dict of str to ndarray
    """
    moved = dict(parameters)
    for name, axis in stream_writers(stage):
        moved[name] = contract(moved[name], matrix, axis, len(stage.parameter(name).dims))
    if heads_write_stream(stage):
        moved["value"] = write_value(parameters["value"], matrix)
    if "layer_norm" not in stage.features:
        inverse = np.swapaxes(np.linalg.inv(matrix), -1, -2)
        for name, axis, _ in stream_readers(stage):
            moved[name] = contract(moved[name], inverse, axis, len(stage.parameter(name).dims))
        return moved
    size = np.sqrt((matrix[..., :1, :] ** 2).sum(axis=-1, keepdims=True))
    return _turn_readers(stage, moved, matrix / size, size)


def _turn_readers(stage, moved, rotation, size):
    """Readers behind a layer norm: what they make of the unit vectors turns, gains stay."""
    for name, axis, norm in stream_readers(stage):
        n_dims = len(stage.parameter(name).dims)
        if norm is None:  # the head of stage 09
            moved[name] = contract(moved[name], rotation / size, axis, n_dims)
            continue
        gain = _along(moved[f"{norm}_weight"], axis, n_dims, stage, norm)
        moved[name] = contract(moved[name] * gain, rotation, axis, n_dims) / gain
    for norm in norms(stage):
        gain, bias = moved[f"{norm}_weight"], moved[f"{norm}_bias"]
        n_dims = len(stage.parameter(f"{norm}_bias").dims)
        moved[f"{norm}_bias"] = contract(bias / gain, rotation, -1, n_dims) * gain
    return moved


def rotate_stream(stage: Stage, parameters: Parameters, rotation: np.ndarray) -> dict:
    """`transform_stream` by an orthogonal matrix: the prior keeps it up to stage 08.

    From 09 on it does not: the gains of a layer norm have a basis of their own.
    """
    return transform_stream(stage, parameters, rotation)


def permute_stream(stage: Stage, parameters: Parameters, permutation: np.ndarray) -> dict:
    """Put the coordinates of the stream in another order, with all that belongs to them.

    Parameters
    ----------
    stage : Stage
        From 07 on.
    parameters : mapping of str to ndarray
    permutation : ndarray of int, (..., embed)
        New coordinate ``i`` is the old one ``permutation[..., i]``. In stages 07 to 11 those of a
        head stay together, and the heads go along with them.

    Returns
    -------
    dict of str to ndarray
    """
    moved = dict(parameters)
    axes = [(name, axis) for name, axis, _ in stream_readers(stage)]
    axes += [(f"{norm}_{part}", -1) for norm in norms(stage) for part in ("weight", "bias")]
    for name, axis in (*stream_writers(stage), *axes):
        moved[name] = take(moved[name], permutation, axis, len(stage.parameter(name).dims))
    if heads_write_stream(stage):
        out = take(side_by_side(moved["value"]), permutation, -1, 3)
        moved["value"] = split_heads(out, *parameters["value"].shape[-3::2])
        head_dim = parameters["value"].shape[-1]
        for name in QUERY_KEY:
            moved[name] = take(moved[name], permutation[..., ::head_dim] // head_dim, -3, 4)
    return moved


def flip_stream(stage: Stage, parameters: Parameters, sign: np.ndarray) -> dict:
    """Change the sign of the whole stream, from stage 09 on.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    sign : ndarray, (...)
        1 or -1.

    Returns
    -------
    dict of str to ndarray
        Gains stay, biases turn. Queries and keys both turn, which scores do not show; so do the
        values, so that the heads write the opposite without a change of their weights.
    """
    moved = dict(parameters)
    for name in flipped_by_stream(stage):
        ones = (1,) * len(stage.parameter(name).dims)
        moved[name] = parameters[name] * sign.reshape(*sign.shape, *ones)
    return moved


def flipped_by_stream(stage: Stage) -> tuple[str, ...]:
    """The parameters whose sign `flip_stream` changes."""
    names = ["token_embedding", "position_embedding", "feed_forward_multiplier"]
    names += ["feed_forward_proj_multiplier", "feed_forward_proj_offset", "lm_head_multiplier"]
    names += [f"{norm}_bias" for norm in norms(stage)]
    return (*names, "sa_proj_offset") if "projection" in stage.features else tuple(names)


# Heads.


def rotate_query_key(parameters: Parameters, rotation: np.ndarray) -> dict:
    """Change the orthonormal basis in which a head compares queries with keys.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    rotation : ndarray, (..., layer, head, head_dim, head_dim)
        Orthogonal, one per head.

    Returns
    -------
    dict of str to ndarray
    """
    return {
        **parameters,
        "key": parameters["key"] @ rotation,
        "query": parameters["query"] @ rotation,
    }


def transform_query_key(parameters: Parameters, matrix: np.ndarray) -> dict:
    """As `rotate_query_key`, by any invertible matrix: queries by it, keys by its inverse."""
    inverse = np.swapaxes(np.linalg.inv(matrix), -1, -2)
    return {
        **parameters,
        "key": parameters["key"] @ inverse,
        "query": parameters["query"] @ matrix,
    }


def rotate_value(parameters: Parameters, rotation: np.ndarray) -> dict:
    """Change the orthonormal basis in which a head passes on what it read.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Of stages 04, 05, 06 or 12, where something other than the stream reads the heads.
    rotation : ndarray, (..., layer, head, head_dim, head_dim)
        Orthogonal, one per head.

    Returns
    -------
    dict of str to ndarray
    """
    moved = with_head_readers(parameters, head_readers(parameters) @ rotation)
    return {**moved, "value": parameters["value"] @ rotation}


def transform_value(parameters: Parameters, matrix: np.ndarray) -> dict:
    """As `rotate_value`, by any invertible matrix: values by it, their reader by its inverse."""
    inverse = np.swapaxes(np.linalg.inv(matrix), -1, -2)
    moved = with_head_readers(parameters, head_readers(parameters) @ inverse)
    return {**moved, "value": parameters["value"] @ matrix}


def permute_heads(parameters: Parameters, permutation: np.ndarray) -> dict:
    """Put heads in another order, with all that belongs to them.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Of stages 05, 06 or 12.
    permutation : ndarray of int, (..., layer, head)
        New head ``i`` is the old head ``permutation[..., i]``.

    Returns
    -------
    dict of str to ndarray
    """
    at = permutation[..., None, None]
    moved = {n: np.take_along_axis(parameters[n], at, axis=-3) for n in ATTENTION}
    readers = np.take_along_axis(head_readers(parameters), at, axis=-3)
    return {**with_head_readers(parameters, readers), **moved}


def head_readers(parameters: Parameters) -> np.ndarray:
    """What reads each head's output, in stages 04, 05, 06 and 12.

    Returns
    -------
    ndarray, (..., layer, head, row, head_dim)
        Rows are those of the projection of the heads, else of the feed-forward layer, else of the
        head multiplier.
    """
    if "sa_proj_multiplier" in parameters:
        return np.moveaxis(parameters["sa_proj_multiplier"], -2, -3)
    name = _reader_of_heads(parameters)
    rows = parameters[name] if name != "lm_head_multiplier" else parameters[name][..., None, :, :]
    split = split_heads(rows, *parameters["value"].shape[-3::2])  # (..., L, H, rows, h)
    return split


def with_head_readers(parameters: Parameters, readers: np.ndarray) -> dict:
    """The parameters with other readers of their heads: the inverse of `head_readers`."""
    if "sa_proj_multiplier" in parameters:
        return {**parameters, "sa_proj_multiplier": np.moveaxis(readers, -3, -2)}
    name = _reader_of_heads(parameters)
    rows = side_by_side(readers)
    return {**parameters, name: rows[..., 0, :, :] if name == "lm_head_multiplier" else rows}


def _reader_of_heads(parameters):
    if "feed_forward_multiplier" in parameters:
        return "feed_forward_multiplier"
    return "lm_head_multiplier"


# Hidden units.


def hidden_readers(stage: Stage) -> str:
    """The parameter that reads the hidden units of stages 06 and 08 to 12, by its last axis."""
    if "wide_feed_forward" in stage.features:
        return "feed_forward_proj_multiplier"
    return "lm_head_multiplier"


def permute_hidden(stage: Stage, parameters: Parameters, permutation: np.ndarray) -> dict:
    """Put hidden units in another order.

    Parameters
    ----------
    stage : Stage
        06, or from 08 on.
    parameters : mapping of str to ndarray
    permutation : ndarray of int, (..., layer, hidden)
        New unit ``i`` is the old one ``permutation[..., i]``.

    Returns
    -------
    dict of str to ndarray
    """
    name = hidden_readers(stage)
    if name == "lm_head_multiplier":
        columns = take(parameters[name], permutation[..., 0, :], -1, 2)
    else:
        columns = np.take_along_axis(parameters[name], permutation[..., None, :], axis=-1)
    weight, offset = parameters["feed_forward_multiplier"], parameters["feed_forward_offset"]
    return {
        **parameters,
        name: columns,
        "feed_forward_multiplier": np.take_along_axis(weight, permutation[..., None], axis=-2),
        "feed_forward_offset": np.take_along_axis(offset, permutation, axis=-1),
    }


def scale_hidden(stage: Stage, parameters: Parameters, scale: np.ndarray) -> dict:
    """Make what hidden units receive larger and what they send smaller.

    Parameters
    ----------
    stage : Stage
        06, or from 08 on.
    parameters : mapping of str to ndarray
    scale : ndarray, (..., layer, hidden)
        Positive, for the ReLU is linear on rays from 0 only.

    Returns
    -------
    dict of str to ndarray
    """
    name = hidden_readers(stage)
    sent = scale[..., 0, None, :] if name == "lm_head_multiplier" else scale[..., None, :]
    return {
        **parameters,
        name: parameters[name] / sent,
        "feed_forward_multiplier": parameters["feed_forward_multiplier"] * scale[..., None],
        "feed_forward_offset": parameters["feed_forward_offset"] * scale,
    }


# Layer norms: what they see is centred and scaled, so that much in front of them does not matter.


def norms(stage: Stage) -> tuple[str, ...]:
    """The layer norms of a stage."""
    found = ("ln1", "ln2") if "layer_norm" in stage.features else ()
    return (*found, "ln_f") if "blocks" in stage.features else found


def scale_gain(stage: Stage, parameters: Parameters, norm: str, scale: np.ndarray) -> dict:
    """Move part of a layer norm's gain into what reads it.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    norm : {"ln1", "ln2", "ln_f"}
    scale : ndarray, (..., layer, embed) or, for the final one, (..., embed)
        Not 0; gain and bias are multiplied by it.

    Returns
    -------
    dict of str to ndarray
    """
    moved = dict(parameters)
    for part in ("weight", "bias"):
        moved[f"{norm}_{part}"] = parameters[f"{norm}_{part}"] * scale
    for name, axis, through in stream_readers(stage):
        if through == norm:
            n_dims = len(stage.parameter(name).dims)
            moved[name] = parameters[name] / _along(scale, axis, n_dims, stage, norm)
    return moved


def shift_bias(stage: Stage, parameters: Parameters, norm: str, shift: np.ndarray) -> dict:
    """Add to the bias of a layer norm and take it back in what reads it.

    The offsets behind the second and the final norm take it back. Attention has none: there the
    direction of keys, queries and values in which they see nothing but the bias does.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
    norm : {"ln1", "ln2", "ln_f"}
    shift : ndarray, (..., layer, embed) or, for the final one, (..., embed)

    Returns
    -------
    dict of str to ndarray
    """
    moved = {**parameters, f"{norm}_bias": parameters[f"{norm}_bias"] + shift}
    if norm == "ln2":
        seen = (parameters["feed_forward_multiplier"] @ shift[..., None])[..., 0]
        moved["feed_forward_offset"] = parameters["feed_forward_offset"] - seen
    elif norm == "ln_f":
        seen = (parameters["lm_head_multiplier"] @ shift[..., None])[..., 0]
        moved["lm_head_offset"] = parameters["lm_head_offset"] - seen
    else:
        unseen, per_bias = _unseen(moved)
        for name in ATTENTION:
            seen = shift[..., None, None, :] @ parameters[name]  # (..., L, H, 1, h)
            moved[name] = parameters[name] - unseen * seen / per_bias
    return moved


def shift_attention(parameters: Parameters, name: str, shift: np.ndarray) -> dict:
    """Add the same to all keys (or values), in a direction that sees the bias of ln1 alone.

    The softmax takes no notice of a constant along the keys. What is added to all values is added
    to the head's output, see `shift_value`.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    name : {"key", "value"}
    shift : ndarray, (..., layer, head, head_dim)
        Added to the columns in units of the inverse gain.

    Returns
    -------
    dict of str to ndarray
    """
    unseen, _ = _unseen(parameters)
    return {**parameters, name: parameters[name] + unseen * shift[..., None, :]}


def shift_value(stage: Stage, parameters: Parameters, shift: np.ndarray) -> dict:
    """Let every value carry a constant, which no prediction shows.

    Parameters
    ----------
    stage : Stage
        From 09 on. With a projection (12) its offset takes the constant back. Without, the
        constant must be the same in all coordinates: layer norms do not see it, and in stage 09,
        where the head does, the last offset takes it back.
    parameters : mapping of str to ndarray
    shift : ndarray, (..., layer, head, head_dim)

    Returns
    -------
    dict of str to ndarray
    """
    moved = shift_attention(parameters, "value", shift)
    _, per_bias = _unseen(parameters)  # (..., L, 1, 1, 1)
    if "projection" in stage.features:
        total = uniform_attention(stage)
        total = 1.0 if total is None else np.nan_to_num(total)[:, :, None]  # rows of the mask
        head = shift * per_bias[..., 0] * total  # what each head adds at every position
        seen = np.einsum("...lchd,...lhd->...lc", parameters["sa_proj_multiplier"], head)
        moved["sa_proj_offset"] = parameters["sa_proj_offset"] - seen
    elif "blocks" not in stage.features:
        seen = shift[..., 0, :1] * per_bias[..., 0, 0]
        offset = parameters["feed_forward_proj_offset"]
        moved["feed_forward_proj_offset"] = offset - seen
    return moved


def shift_readers(parameters: Parameters, norm: str, shift: np.ndarray) -> dict:
    """Let what reads ``ln2`` or ``ln_f`` see the bias alone in one more direction.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    norm : {"ln2", "ln_f"}
    shift : ndarray, (..., layer, hidden) or, for the final one, (..., token)
        Added to the rows in units of the inverse gain.

    Returns
    -------
    dict of str to ndarray
    """
    layer = {"ln2": "feed_forward", "ln_f": "lm_head"}[norm]
    weight, offset = parameters[f"{layer}_multiplier"], parameters[f"{layer}_offset"]
    gain, bias = parameters[f"{norm}_weight"], parameters[f"{norm}_bias"]
    return {
        **parameters,
        f"{layer}_multiplier": weight + shift[..., None] / gain[..., None, :],
        f"{layer}_offset": offset - shift * (bias / gain).sum(axis=-1, keepdims=True),
    }


def uniform_attention(stage: Stage) -> np.ndarray | None:
    """What rows of attention weights sum to after dropout, where that is the same for all.

    Returns
    -------
    ndarray, (layer, head), or None without masks
        nan for heads whose rows have different sums.
    """
    if stage.masks is None:
        return None
    mask = np.asarray(stage.masks.attention)
    n = mask.shape[-1]
    first = mask[..., 0, 0]
    same = np.where(np.tri(n, dtype=bool), mask, first[..., None, None]) == first[..., None, None]
    return np.where(same.all(axis=(-1, -2)), first, np.nan)


def _unseen(parameters):
    """The direction, (..., L, 1, C, 1), in which a reader of ln1 sees its bias alone; how much."""
    gain, bias = parameters["ln1_weight"], parameters["ln1_bias"]
    per_bias = (bias / gain).sum(axis=-1)
    return 1 / gain[..., None, :, None], per_bias[..., None, None, None]


# Translations.


def shift_logits(parameters: Parameters, shift: np.ndarray) -> dict:
    """Add a constant to all logits of a context.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    shift : ndarray, (..., embed + 1), or (..., token) in stage 01
        One constant per coordinate that the head reads and one for its offset; in stage 01 one
        per row of logits.

    Returns
    -------
    dict of str to ndarray
    """
    if "lm_head_multiplier" not in parameters:
        return {"token_embedding": parameters["token_embedding"] + shift[..., None]}
    return {
        **parameters,
        "lm_head_multiplier": parameters["lm_head_multiplier"] + shift[..., None, :-1],
        "lm_head_offset": parameters["lm_head_offset"] + shift[..., -1:],
    }


def shift_embeddings(parameters: Parameters, shift: np.ndarray) -> dict:
    """Add to all token embeddings what is taken from all position embeddings.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    shift : ndarray, (..., embed)

    Returns
    -------
    dict of str to ndarray
    """
    return {
        **parameters,
        "token_embedding": parameters["token_embedding"] + shift[..., None, :],
        "position_embedding": parameters["position_embedding"] - shift[..., None, :],
    }


def shift_stream(stage: Stage, parameters: Parameters, shift: np.ndarray) -> dict:
    """Add a constant to what the head reads and take it back in the head's offset.

    Parameters
    ----------
    stage : Stage
        02, 03, 08 or 09: where the last thing added to the stream is a constant of its own.
    parameters : mapping of str to ndarray
    shift : ndarray, (..., embed)

    Returns
    -------
    dict of str to ndarray
    """
    name = "feed_forward_proj_offset" if "attention" in stage.features else "token_embedding"
    seen = (parameters["lm_head_multiplier"] @ shift[..., None])[..., 0]
    return {
        **parameters,
        name: parameters[name] + shift[..., None, :],
        "lm_head_offset": parameters["lm_head_offset"] - seen,
    }


def shift_along_ones(stage: Stage, parameters: Parameters, name: str, shift: np.ndarray) -> dict:
    """Write the same into all coordinates of the stream, which no layer norm sees.

    Parameters
    ----------
    stage : Stage
        From 09 on. In 09 the head has no layer norm: only a constant can be added to all token
        embeddings, and the last offset takes it back.
    parameters : mapping of str to ndarray
    name : str
        A parameter that writes into the stream.
    shift : ndarray, (..., shape of the parameter without the axis that writes)

    Returns
    -------
    dict of str to ndarray
    """
    axis = dict(stream_writers(stage))[name]
    if "blocks" in stage.features:
        return {**parameters, name: parameters[name] + np.expand_dims(shift, axis)}
    offset = parameters["feed_forward_proj_offset"]
    return {
        **parameters,
        name: parameters[name] + shift[..., None, None],
        "feed_forward_proj_offset": offset - shift[..., None, None],
    }


# Axes.


def contract(values: np.ndarray, matrix: np.ndarray, axis: int, n_dims: int) -> np.ndarray:
    """Multiply one axis of a parameter by a matrix, ``sum_i values[i] matrix[i, j]``.

    Parameters
    ----------
    values : ndarray, (..., n_dims dims)
    matrix : ndarray, (..., k, k)
    axis : int
        Negative.
    n_dims : int
        How many dims of ``values`` are no batch dims.

    Returns
    -------
    ndarray
    """
    moved = np.moveaxis(values, axis, -1)
    batch, dims = moved.shape[: moved.ndim - n_dims], moved.shape[moved.ndim - n_dims :]
    product = moved.reshape(*batch, math.prod(dims[:-1]), dims[-1]) @ matrix
    product = product.reshape(*product.shape[:-2], *dims)
    return np.moveaxis(product, -1, axis)


def take(values: np.ndarray, permutation: np.ndarray, axis: int, n_dims: int) -> np.ndarray:
    """Permute one axis of a parameter: arguments as `contract`, permutation ``(..., k)``."""
    shape = [1] * n_dims
    shape[axis] = permutation.shape[-1]
    at = permutation.reshape(*permutation.shape[:-1], *shape)
    return np.take_along_axis(values, at, axis=axis)


def side_by_side(per_head: np.ndarray) -> np.ndarray:
    """(..., head, row, head_dim) to (..., row, head * head_dim)."""
    columns = np.moveaxis(per_head, -3, -2)
    return columns.reshape(*columns.shape[:-2], -1)


def split_heads(columns: np.ndarray, n_head: int, head_dim: int) -> np.ndarray:
    """(..., row, head * head_dim) to (..., head, row, head_dim)."""
    split = columns.reshape(*columns.shape[:-1], n_head, head_dim)
    return np.moveaxis(split, -2, -3)


def write_value(value: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Values (..., layer, head, embed, head_dim) whose output is multiplied by a matrix."""
    written = contract(side_by_side(value), matrix, -1, 3)
    return split_heads(written, *value.shape[-3::2])


def _along(gain, axis, n_dims, stage, norm):
    """A gain (..., layer, embed) or (..., embed), shaped to multiply one axis of its reader."""
    n_own = len(stage.parameter(f"{norm}_weight").dims)
    shape = [1] * n_dims
    shape[axis] = gain.shape[-1]
    if n_own == 2:
        shape[0] = gain.shape[-2]
    return gain.reshape(*gain.shape[: gain.ndim - n_own], *shape)
