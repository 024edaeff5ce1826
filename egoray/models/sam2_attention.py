"""Memory attention's inner loop: rotary position codes in place, and attention to memories narrower than the queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1024
"""Rows and columns of the score matrix that a CPU works on at a time: 4 MB, which its caches hold."""
SMALL = 1 << 22
"""Scores of one batch up to which the whole matrix is made at once."""


def rotate(x: Tensor, rotation: Tensor) -> None:
    """Rotate pairs of channels of ``(..., h * w, C)`` in place by ``(h * w, C / 2)`` complex units of the place in the map."""
    real = x.float()
    torch.view_as_complex(real.unflatten(-1, (-1, 2))).mul_(rotation)
    if real is not x:
        x.copy_(real)


def attend(layer: Any, queries: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
    """Softmax attention of ``(B or 1, N, C)`` queries over ``(B, L, C)`` keys, values from ``(B, L, c)`` memory: ``(B, N, C)``.

    ``layer`` holds ``v_proj`` and ``out_proj``. Both are linear and the weights of a row sum to 1, so on a CPU the average
    is taken over the c channels of the memory itself, and projected after: fewer products, and the same result.
    """
    if queries.device.type != "cpu" or layer.num_heads != 1:
        values = layer.v_proj(memory)
        heads = (layer._separate_heads(t, layer.num_heads) for t in (queries.expand(len(keys), -1, -1), keys, values))
        return layer.out_proj(layer._recombine_heads(F.scaled_dot_product_attention(*heads)))
    queries = queries * queries.shape[-1] ** -0.5
    if len(keys) * queries.shape[1] * keys.shape[1] <= SMALL:
        averaged = (queries @ keys.transpose(1, 2)).softmax(-1) @ memory
    else:
        rows = [_attend_in_blocks(queries[min(i, len(queries) - 1)], k, m) for i, (k, m) in enumerate(zip(keys, memory, strict=True))]
        averaged = torch.stack(rows)
    weight = layer.out_proj.weight @ layer.v_proj.weight
    bias = layer.out_proj.weight @ layer.v_proj.bias + layer.out_proj.bias
    return F.linear(averaged, weight, bias)


def _attend_in_blocks(queries: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
    """``(N, C)`` scaled queries, ``(L, C)`` keys, ``(L, c)`` memory: ``(N, c)``, with the softmax's maximum and sum kept as they grow."""
    averaged = queries.new_empty(len(queries), memory.shape[1])
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        top = block.new_full((len(block), 1), -torch.inf)
        total, sums = torch.zeros_like(top), averaged[start : start + BLOCK].zero_()
        for key_block, memory_block in zip(keys.split(BLOCK), memory.split(BLOCK), strict=True):
            scores = block @ key_block.t()
            higher = torch.maximum(top, scores.amax(-1, keepdim=True))
            shrink = (top - higher).exp_()
            scores.sub_(higher).exp_()
            total.mul_(shrink).add_(scores.sum(-1, keepdim=True))
            sums.mul_(shrink).addmm_(scores, memory_block)
            top = higher
        sums.div_(total)
    return averaged
