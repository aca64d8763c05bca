"""The posterior of all twelve stages once more, in JAX: for tests, and for nothing else.

Written from the definition of the stages, not from the package's own forward pass, so that the two
share no mistake but one of the definition. It takes what Stan takes: parameters with Stan's shapes,
the dict of `gptbayes.model.stan_data.stan_data` with its 1-based tokens. Derivatives are JAX's;
where the input of a ReLU is exactly 0 there is none, and draws from a continuous prior never get
there.

Sizes: T positions, V characters, C width, H heads of h = C / H, D hidden units.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

jax.config.update("jax_enable_x64", True)

MASKS = ("attention_mask", "attention_output_mask", "feed_forward_mask")
SCALE_OF = {
    "token_embedding": "token_embedding_scale",
    "position_embedding": "position_embedding_scale",
    "key": "attention_scale",
    "query": "attention_scale",
    "value": "attention_scale",
    "sa_proj_multiplier": "attention_proj_scale",
    "sa_proj_offset": "offset_scale",
    "feed_forward_multiplier": "feed_forward_scale",
    "feed_forward_offset": "offset_scale",
    "feed_forward_proj_multiplier": "feed_forward_scale",
    "feed_forward_proj_offset": "offset_scale",
    "ln1_weight": "layer_norm_scale",
    "ln1_bias": "layer_norm_scale",
    "ln2_weight": "layer_norm_scale",
    "ln2_bias": "layer_norm_scale",
    "ln_f_weight": "layer_norm_scale",
    "ln_f_bias": "layer_norm_scale",
    "lm_head_multiplier": "lm_head_scale",
    "lm_head_offset": "offset_scale",
}
NOT_IN_BLOCKS = ("token_embedding", "position_embedding", "ln_f", "lm_head")


def log_density(stage: int, parameters: dict, data: dict) -> Array:
    """The log posterior in nats, without the constants that Stan's ``~`` leaves out.

    Parameters
    ----------
    stage : int
        1 to 12.
    parameters : dict of str to array
        One draw, each with the shape it has in the Stan program.
    data : dict
        Of `gptbayes.model.stan_data.stan_data`.
    """
    x, y = (jnp.asarray(data[name]) - 1 for name in ("x", "y"))  # (B, T)
    masks = [jnp.asarray(data[name]) for name in MASKS] if stage >= 11 else None

    def log_lik(tokens, next_tokens):  # of one sequence
        log_p = jax.nn.log_softmax(gpt(stage, parameters, masks, tokens))  # (T, V)
        return log_p[jnp.arange(len(tokens)), next_tokens].sum()

    prior = sum(
        -0.5 * jnp.sum(((value - _prior_mean(name)) / data[SCALE_OF[name]]) ** 2)
        for name, value in parameters.items()
    )
    return data["likelihood_weight"] * jax.vmap(log_lik)(x, y).sum() + prior


def gpt(stage: int, parameters: dict, masks: list | None, tokens: Array) -> Array:
    """Logits of the next token at every position of one sequence: (T,) -> (T, V)."""
    p = parameters
    T = len(tokens)
    x = p["token_embedding"][tokens]  # (T, C), in stage 1 (T, V)
    if stage == 1:
        return x
    if stage >= 3:
        x = x + p["position_embedding"][:T]
    for layer in range(n_layers(stage, p)):
        w = _block(p, layer) if stage >= 10 else p
        m = [mask[layer] for mask in masks] if stage >= 11 else [1.0, 1.0, 1.0]

        # Attention
        read = layer_norm(x, w["ln1_weight"], w["ln1_bias"]) if stage >= 9 else x
        if stage == 4:
            heads = head(read, w["key"], w["query"], w["value"])  # (T, C)
        else:
            each = jax.vmap(head, in_axes=(None, 0, 0, 0, 0 if stage >= 11 else None))
            heads = each(read, w["key"], w["query"], w["value"], m[0])  # (H, T, h)
            heads = jnp.concatenate(list(heads), axis=1)  # (T, C)
        if stage >= 12:
            heads = heads @ w["sa_proj_multiplier"].T + w["sa_proj_offset"]
        x = x + heads * m[1] if stage >= 7 else heads

        # Feed-forward
        if stage >= 6:
            read = layer_norm(x, w["ln2_weight"], w["ln2_bias"]) if stage >= 9 else x
            out = jax.nn.relu(read @ w["feed_forward_multiplier"].T + w["feed_forward_offset"])
            if stage >= 8:  # (T, D) -> (T, C)
                out = out @ w["feed_forward_proj_multiplier"].T + w["feed_forward_proj_offset"]
            x = x + out * m[2] if stage >= 7 else out
    if stage >= 10:
        x = layer_norm(x, p["ln_f_weight"], p["ln_f_bias"])
    return x @ p["lm_head_multiplier"].T + p["lm_head_offset"]  # (T, C) -> (T, V)


def n_layers(stage: int, parameters: dict) -> int:
    """How often a stage goes through attention and what follows it."""
    if stage < 4:
        return 0
    return len(parameters["key"]) if stage >= 10 else 1


def head(x: Array, key: Array, query: Array, value: Array, mask: Array | float = 1.0) -> Array:
    """One head of causal attention in one sequence: (T, C) -> (T, h)."""
    k, q, v = x @ key, x @ query, x @ value  # (T, C) @ (C, h) -> (T, h)
    scores = q @ k.T / jnp.sqrt(key.shape[1])  # (T, h) @ (h, T) -> (T, T)
    past = jnp.tril(jnp.ones(scores.shape, dtype=bool))
    weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=1)
    return (weights * mask) @ v


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Every token with mean 0 and sample sd 1 (divisor C - 1, nothing added), then stretched."""
    mean, sd = x.mean(axis=1, keepdims=True), x.std(axis=1, ddof=1, keepdims=True)
    return (x - mean) / sd * weight + bias


def _block(parameters: dict, layer: int) -> dict:
    """The parameters of one block, each without its leading axis of layers."""
    return {n: p[layer] for n, p in parameters.items() if not n.startswith(NOT_IN_BLOCKS)}


def _prior_mean(name: str) -> float:
    return 1.0 if name in ("ln1_weight", "ln2_weight", "ln_f_weight") else 0.0
