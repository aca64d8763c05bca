"""The forward pass without a head or a position; what an ablation does not change is computed once.

A head changes nothing in the layers before its own. A position that is knocked out changes nothing
at the positions up to it, because attention is causal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gptbayes.model.blocks import after_attention, attend, embed_tokens, layers_of, logits_of
from gptbayes.model.forward import Activations
from gptbayes.model.stages import Stage


def ablate_each_head(
    stage: Stage,
    parameters: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    *,
    instead: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, Iterator[tuple[int, int, np.ndarray]]]:
    """Compute the logits of a stage with attention, and those without each of its heads.

    Parameters
    ----------
    stage, parameters, tokens
        As for `gptbayes.model.forward.forward`.
    instead : mapping of str to ndarray, optional
        Other queries, keys or values, which one head at a time has instead of its own, each
        ``(..., dims of that parameter)``. By default values are zero.

    Returns
    -------
    logits : ndarray, (..., sequence, position, token)
    ablated : iterator of (int, int, ndarray)
        Layer, head and the logits with that head ablated.
    """
    layers, inputs, heads, others = layers_of(stage, parameters), [], [], []
    changed = layers_of(stage, {**parameters, **(instead or {})})
    stream = embed_tokens(stage, parameters, tokens)
    for layer, other in zip(layers, changed, strict=True):
        inputs.append(stream)
        heads.append(attend(layer, stream).heads)  # (..., B, T, H, h)
        others.append(attend(other, stream).heads if instead else np.zeros_like(heads[-1]))
        stream, _ = after_attention(stage, layer, stream, heads[-1])

    def without(k, head):
        ablated = heads[k].copy()
        ablated[..., head, :] = others[k][..., head, :]
        stream, _ = after_attention(stage, layers[k], inputs[k], ablated)
        for layer in layers[k + 1 :]:
            stream, _ = after_attention(stage, layer, stream, attend(layer, stream).heads)
        return logits_of(stage, parameters, stream)

    places = np.ndindex(len(layers), heads[0].shape[-2])
    return logits_of(stage, parameters, stream), ((*each, without(*each)) for each in places)


def knock_out_each_position(
    stage: Stage, parameters: Mapping[str, np.ndarray], tokens: np.ndarray
) -> tuple[Activations, Iterator[np.ndarray]]:
    """Compute the activations of a stage with attention, and logits without each position.

    Parameters
    ----------
    stage, parameters
        As for `gptbayes.model.forward.forward`.
    tokens : ndarray of int, (sequence, position)

    Returns
    -------
    activations : Activations
    logits : iterator of ndarray, (..., sequence, token)
        Of the last position, for each position before it, if that one is masked for all other
        query positions in every layer, as by ``blocked`` of `gptbayes.model.forward.forward`.
    """
    layers, weights = layers_of(stage, parameters), list[Any]()
    streams = [embed_tokens(stage, parameters, tokens)]
    for layer in layers:
        attended = attend(layer, streams[-1], keep_weights=True)
        weights.append(attended.weights)
        streams.append(after_attention(stage, layer, streams[-1], attended.heads)[0])
    n = tokens.shape[-1]

    def without(position):
        blocked = np.zeros(tokens.shape, dtype=bool)
        blocked[:, position] = True
        stream = streams[0]
        for layer, unchanged in zip(layers[:-1], streams[1:-1], strict=True):
            heads = attend(layer, stream, blocked=blocked, n_queries=n - 1 - position).heads
            changed, _ = after_attention(stage, layer, stream, heads)
            stream = np.concatenate([unchanged[..., : position + 1, :], changed], axis=-2)
        heads = attend(layers[-1], stream, blocked=blocked, n_queries=1).heads
        stream, _ = after_attention(stage, layers[-1], stream, heads)
        return logits_of(stage, parameters, stream)[..., 0, :]

    activations = Activations(logits_of(stage, parameters, streams[-1]), np.stack(weights, axis=-5))
    return activations, map(without, range(n - 1))
