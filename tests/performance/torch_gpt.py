"""The posterior of all twelve stages in PyTorch, for measuring its speed.

Written to be fast: whole batches at once, keys, queries and values in one product, PyTorch's own
layer norm and cross entropy. Parameters and data as in `tests/jax_gpt.py`.

Sizes: B sequences, T positions, V characters, C width, H heads of h = C / H, D hidden units.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = ("key", "query", "value")


def log_density(stage: int, p: dict, x: Tensor, y: Tensor, masks, scales: dict, weight: float):
    """The log posterior in nats, without the constants that Stan's ``~`` leaves out.

    ``x`` and ``y`` are 0-based, ``masks`` those of stages 11 and 12, ``scales`` the prior sd of
    each parameter, ``weight`` that of the likelihood.
    """
    logits = gpt(stage, p, masks, x)
    log_lik = -F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
    return weight * log_lik + sum(_log_prior(name, p[name], scales[name]) for name in p)


def gpt(stage: int, p: dict, masks, tokens: Tensor) -> Tensor:
    """Logits of the next token at every position: (B, T) -> (B, T, V)."""
    x = p["token_embedding"][tokens]  # (B, T, C), in stage 1 (B, T, V)
    if stage == 1:
        return x
    if stage >= 3:
        x = x + p["position_embedding"]
    for layer in range(_n_layers(stage, p)):
        w = {n: v[layer] for n, v in p.items()} if stage >= 10 else p
        m = [mask[layer] for mask in masks] if stage >= 11 else None
        heads = attention(norm(x, w, "ln1") if stage >= 9 else x, w, m and m[0])  # (B, T, C)
        if stage >= 12:
            heads = F.linear(heads, w["sa_proj_multiplier"], w["sa_proj_offset"])
        heads = heads * m[1] if m else heads
        x = x + heads if stage >= 7 else heads
        if stage >= 6:
            out = feed_forward(norm(x, w, "ln2") if stage >= 9 else x, w)
            out = out * m[2] if m else out
            x = x + out if stage >= 7 else out
    if stage >= 10:
        x = norm(x, p, "ln_f")
    return F.linear(x, p["lm_head_multiplier"], p["lm_head_offset"])  # (B, T, C) -> (B, T, V)


def attention(x: Tensor, w: dict, mask: Tensor | None) -> Tensor:
    """Causal attention, heads side by side: (B, T, C) -> (B, T, C)."""
    B, T, C = x.shape
    H = w["key"].shape[0] if w["key"].ndim == 3 else 1
    side_by_side = [w[n].movedim(0, 1).reshape(C, C) if H > 1 else w[n].view(C, C) for n in HEADS]
    kqv = x @ torch.cat(side_by_side, dim=1)  # (B, T, C) @ (C, 3 C)
    k, q, v = kqv.view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)  # each (B, H, T, h)
    scores = q @ k.mT / math.sqrt(C // H)  # (B, H, T, h) @ (B, H, h, T) -> (B, H, T, T)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = torch.softmax(scores.masked_fill(future, -math.inf), dim=-1)
    weights = weights if mask is None else weights * mask
    return (weights @ v).transpose(1, 2).reshape(B, T, C)


def feed_forward(x: Tensor, w: dict) -> Tensor:
    """(B, T, C) -> (B, T, C), from stage 8 on by way of D = 4 C hidden units."""
    out = torch.relu(F.linear(x, w["feed_forward_multiplier"], w["feed_forward_offset"]))
    if "feed_forward_proj_multiplier" in w:
        out = F.linear(out, w["feed_forward_proj_multiplier"], w["feed_forward_proj_offset"])
    return out


def norm(x: Tensor, w: dict, name: str) -> Tensor:
    """Layer norm with the sample's sd: PyTorch's divides by C where this divides by C - 1."""
    C = x.shape[-1]
    weight = math.sqrt((C - 1) / C) * w[f"{name}_weight"]
    return F.layer_norm(x, (C,), weight, w[f"{name}_bias"], eps=0.0)


def _n_layers(stage, p):
    if stage < 4:
        return 0
    return len(p["key"]) if stage >= 10 else 1


def _log_prior(name, value, scale):
    centred = value.flatten()
    if name in ("ln1_weight", "ln2_weight", "ln_f_weight"):
        centred = centred - 1
    return torch.dot(centred, centred) * (-0.5 / scale**2)
