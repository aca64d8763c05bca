"""The forward pass of all stages in numpy: from parameters and tokens to logits and attention.

The same function in Stan is ``gpt_logits`` of each stage's program. Tests require the two to agree
to 1e-10. Parameters may have leading batch dims, usually ``chain, draw``; results have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from gptbayes.corpus import Windows
from gptbayes.model.layers import embed, feed_forward, layer_norm, linear, self_attention
from gptbayes.model.stages import Masks, Stage
from gptbayes.stats.blocks import THREADS, in_threads, keep_freed_memory

Parameters = Mapping[str, np.ndarray]

MAX_BYTES = 256 * 2**20
"""Default limit on the memory of one chunk of draws in bytes, see `over_draws`."""

CHUNK_BYTES = 12 * 2**20
"""Memory of a chunk: larger chunks leave the processor's cache, smaller ones take more calls."""


class Activations(NamedTuple):
    """Results of a forward pass.

    Attributes
    ----------
    logits : ndarray, (..., sequence, position, token)
        Unnormalized log probabilities of the next token.
    attention : ndarray, (..., layer, head, sequence, query_position, key_position), or None
        Attention weights. They sum to one over ``key_position`` and are zero at key positions
        after the query position. With dropout they are multiplied by the dropout mask, and no
        longer sum to one. None for stages without attention.
    """

    logits: np.ndarray
    attention: np.ndarray | None

    @property
    def attention_weights(self) -> np.ndarray:
        """``attention`` of a stage that has attention; a ValueError for the others."""
        if self.attention is None:
            raise ValueError("the stage has no attention, stages 04 to 12 have")
        return self.attention


def forward(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> Activations:
    """Compute the logits and attention weights of a stage.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(..., dims of that parameter)``, all with the same leading batch dims.
    tokens : ndarray of int, (sequence, position) or (..., sequence, position)
        0-based, with at most ``block_size`` positions if the stage has position embeddings. With
        the leading batch dims of the parameters, each draw has tokens of its own.
    blocked : ndarray of bool, (sequence, position), optional
        Key positions that are masked for all other query positions, in every layer (attention
        knockout, Geva et al. 2023). The softmax is taken over the remaining positions. No effect on
        stages without attention.

    Returns
    -------
    Activations

    Raises
    ------
    ValueError
        If the tokens have the wrong dims or too many positions, or if a stage with dropout has no
        masks.

    See Also
    --------
    last_logits : Logits of the last position only, at lower cost.
    token_log_prob : Log probabilities of the targets of some windows.

    Examples
    --------
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.simulate import prior_draws
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("05"), zen_of_python(), batch_size=3)
    >>> draws = prior_draws(problem, 7, np.random.default_rng(1))
    >>> logits, attention = forward(problem.stage, draws, problem.training.x)
    >>> logits.shape  # draw, sequence, position, token
    (7, 3, 8, 45)
    >>> attention.shape  # draw, layer, head, sequence, query_position, key_position
    (7, 1, 2, 3, 8, 8)
    """
    logits, weights, _ = _run(stage, parameters, tokens, blocked=blocked, keep_weights=True)
    return Activations(logits, np.stack(weights, axis=-5) if weights else None)


def last_logits(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    *,
    blocked: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the logits of the last position only.

    In the last layer only the query of the last position is computed.

    Parameters
    ----------
    stage, parameters, tokens, blocked
        As for `forward`.

    Returns
    -------
    ndarray, (..., sequence, token)

    Raises
    ------
    ValueError
        As `forward`.
    """
    logits, _, _ = _run(stage, parameters, tokens, blocked=blocked, last=True)
    return logits[..., 0, :]


def active_hidden_units(stage: Stage, parameters: Parameters, tokens: np.ndarray) -> np.ndarray:
    """Find the hidden units of the feed-forward layers that are active at each position.

    Parameters
    ----------
    stage, parameters, tokens
        As for `forward`.

    Returns
    -------
    ndarray of bool, (..., layer, hidden, sequence, position)
        True where the input of the ReLU is positive.

    Raises
    ------
    ValueError
        As `forward`, and for a stage without a feed-forward layer.
    """
    if "feed_forward" not in stage.features:
        raise ValueError(
            f"stage must be one of 06 to 12, got {stage.number}, which has no hidden units"
        )
    _, _, hidden = _run(stage, parameters, tokens)
    return np.stack([np.moveaxis(each > 0, -1, -3) for each in hidden], axis=-4)


def token_log_prob(
    stage: Stage, parameters: Parameters, windows: Windows, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Compute the log probability of each target, for each draw.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    windows : Windows
        0-based tokens, ``(sequence, position)``.
    max_bytes : int
        Approximate limit on the memory of the activations held at any time.

    Returns
    -------
    ndarray, (*batch, sequence, position)
        In nats.

    Raises
    ------
    ValueError
        As `forward`.

    See Also
    --------
    gptbayes.model.log_density.log_posterior : Their weighted sum plus the log prior density.
    """

    def log_prob(chunk):
        log_probs = log_softmax(forward(stage, chunk, windows.x).logits, axis=-1)
        return np.take_along_axis(log_probs, windows.y[None, ..., None], axis=-1)[..., 0]

    return over_draws(stage, parameters, windows.x, log_prob, max_bytes=max_bytes)


def over_draws(
    stage: Stage,
    parameters: Parameters,
    tokens: np.ndarray,
    function: Callable[[Parameters], np.ndarray],
    *,
    max_bytes: int = MAX_BYTES,
    in_order: bool = False,
    last: bool = False,
) -> np.ndarray:
    """Apply a function to chunks of draws, so that memory stays bounded.

    Several chunks are worked on at a time.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        Each ``(*batch, dims of that parameter)``.
    tokens : ndarray of int, (sequence, position)
        What ``function`` runs the forward pass on: its size decides how many draws fit.
    function : callable
        Takes parameters with one leading dim, returns an array with the same leading dim.
    max_bytes : int
        Approximate limit on the memory of the activations held at any time.
    in_order : bool
        One chunk after another, as for a function that draws random numbers.
    last : bool
        Whether the function needs the logits of the last position only, as of `last_logits`: more
        draws fit.

    Returns
    -------
    ndarray, (*batch, ...)
    """
    first = stage.parameters[0]
    values = parameters[first.name]
    batch = values.shape[: values.ndim - len(first.dims)]
    size = _draws_per_chunk(parameters, tokens, min(max_bytes, CHUNK_BYTES), last)
    keep_freed_memory()
    chunks = list(_chunks(stage, parameters, batch, size))
    joined = np.concatenate(in_threads(function, chunks, at_a_time=1 if in_order else THREADS))
    return joined.reshape(*batch, *joined.shape[1:])


def _run(stage, parameters, tokens, *, blocked=None, last=False, keep_weights=False):
    """The forward pass: logits at the query positions, and activations of each layer.

    Attention weights and hidden units are lists over layers. With ``last``, positions before the
    last have keys and values in the last layer and nothing else.
    """
    position = parameters["position_embedding"] if "position" in stage.features else None
    tokens = _check_tokens(stage, parameters, tokens)
    stream = embed(parameters["token_embedding"], position, tokens)  # (..., B, T, C)
    n_layer = parameters["key"].shape[-4] if "attention" in stage.features else 0
    weights, hidden = [], []
    for layer in range(n_layer):
        p = _of_layer(stage, parameters, layer)
        settings = {"blocked": blocked, "last": last and layer == n_layer - 1}
        masks = stage.masks and Masks(*(mask[layer] for mask in stage.masks))
        stream, attended, layer_hidden = _block(
            stage, p, stream, masks, keep_weights=keep_weights, **settings
        )
        weights.append(attended.weights)
        hidden.append(layer_hidden)
    if last:
        stream = stream[..., -1:, :]
    if "blocks" in stage.features:
        stream = layer_norm(stream, parameters["ln_f_weight"], parameters["ln_f_bias"])
    logits = stream
    if "lm_head" in stage.features:
        logits = linear(stream, parameters["lm_head_multiplier"], parameters["lm_head_offset"])
    return logits, weights, hidden


def _block(stage, p, stream, masks, *, last, **settings):
    """One block: self-attention, then feed-forward; ``p`` are the parameters of its layer.

    Returns the residual stream after the block, the result of attention, and the hidden units
    after the ReLU if there are any, all at the query positions.
    """
    normed = layer_norm(stream, p["ln1_weight"], p["ln1_bias"]) if "ln1_weight" in p else stream
    attended = self_attention(normed, p, masks, last=last, **settings)
    out = _attention_output(attended.heads, p, masks)
    residual = "residual" in stage.features
    stream = out + (stream[..., -1:, :] if last else stream) if residual else out
    if "feed_forward" not in stage.features:
        return stream, attended, None
    normed = layer_norm(stream, p["ln2_weight"], p["ln2_bias"]) if "ln2_weight" in p else stream
    out, hidden = feed_forward(normed, p, masks)
    return out + stream if residual else out, attended, hidden


def _attention_output(heads, p, masks):
    out = heads.reshape(*heads.shape[:-2], -1)  # (..., B, T, C)
    if "sa_proj_multiplier" in p:
        multiplier = p["sa_proj_multiplier"]  # (..., C, H, h)
        multiplier = multiplier.reshape(*multiplier.shape[:-2], -1)
        out = linear(out, multiplier, p["sa_proj_offset"])
    return out * masks.attention_output if masks else out


def _of_layer(stage, parameters, layer):
    """The parameters of one layer, without their layer axis."""
    return {
        p.name: parameters[p.name][..., layer, *(slice(None) for _ in p.dims[1:])]  # a view
        for p in stage.parameters
        if p.dims[0] == "layer"
    }


def _check_tokens(stage, parameters, tokens):
    tokens = np.asarray(tokens)
    if "dropout" in stage.features and stage.masks is None:
        raise ValueError(f"stage {stage.number} needs masks, see gptbayes.model.design.draw_masks")
    batch = parameters["token_embedding"].shape[:-2]
    if tokens.ndim != 2 and tokens.shape[:-2] != batch:
        raise ValueError(
            f"tokens must have shape (sequence, position) or {(*batch, 'sequence', 'position')}, "
            f"got {tokens.shape}"
        )
    if "position" in stage.features:
        block_size = parameters["position_embedding"].shape[-2]
        if tokens.shape[-1] > block_size:
            raise ValueError(
                f"tokens must have at most {block_size} positions, the block_size of the model, "
                f"got {tokens.shape[-1]}"
            )
    return tokens


def _draws_per_chunk(parameters, tokens, max_bytes, last):
    """How many draws fit, by the approximate number of activations that are held for a token."""
    n_token, n_embed = parameters["token_embedding"].shape[-2:]
    n_position = max(tokens.shape[-1], 1)
    n_layer, n_head = parameters["key"].shape[-4:-2] if "key" in parameters else (0, 0)
    if last:  # weights are not kept, and the last layer and the logits are those of one position
        per_token = 2 * n_embed + 3 * (n_head + n_token) / n_position
        per_token += 14 * (n_embed + n_head) if n_layer > 1 else 0
    else:
        per_token = 2 * n_token + 14 * n_embed + (2 * n_layer + 3) * n_head * n_position
    return max(1, int(max_bytes // (8 * max(tokens.size, 1) * per_token)))


def _chunks(stage: Stage, parameters, batch, size) -> Iterator[dict[str, np.ndarray]]:
    flat = {
        p.name: parameters[p.name].reshape(-1, *parameters[p.name].shape[len(batch) :])
        for p in stage.parameters
    }
    for start in range(0, int(np.prod(batch)), size):
        yield {name: value[start : start + size] for name, value in flat.items()}
