"""Attention of the positions of one feature map to those of another, not scaled by 1/sqrt(C).

Three forms of one function: `sdpa`, PyTorch's fused kernel; `full`, the explicit map; `chunked`, the explicit map for
some queries at a time. The map has (H*W) * (H'*W') entries, 16 GiB for two pictures of 2,048 x 2,048 at stride 8; only
`full` ever holds it. Inner products of unit-variance features reach 40, where bfloat16 rounds to a quarter: everything
here is in float32, also under autocast.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from stylemodels.features import at_least_float32

Form = Literal["sdpa", "full", "chunked"]


def attention(queries: Tensor, keys: Tensor, values: Tensor, *, form: Form = "sdpa", chunk: int = 1024) -> Tensor:
    """What every position of `queries` finds: the mean of `values`, weighted by the softmax of its inner products.

    queries: (N, C, H, W). keys: (N, C, H', W'). values: (N, D, H', W'); with D other than C, `sdpa` may build the
    whole map. chunk: queries at a time, for `chunked`.

    Returns (N, D, H, W), float32 (float64 stays float64).
    Source: Wang et al. 2018 (arXiv:1711.07971), equations 1 and 3; Park & Lee 2019 (arXiv:1812.02342), equation 5.
    """
    with torch.autocast(queries.device.type, enabled=False):
        asking, offered, held = rows(queries), rows(keys), rows(values)
        match form:
            case "sdpa":
                found = fused(asking, offered, held)
            case "full":
                found = explicit(asking, offered, held)
            case "chunked":
                found = chunked(asking, offered, held, chunk)
    return found.transpose(1, 2).reshape(*values.shape[:2], *queries.shape[-2:])


def attention_map(queries: Tensor, keys: Tensor) -> Tensor:
    """How much every position of `queries` (N, C, H, W) takes from each of `keys` (N, C, H', W').

    Returns (N, H*W, H'*W'), float32 (float64 stays float64); every row sums to 1.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return row_map(rows(queries), rows(keys))


def rows(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C), a row of memory per position: the fused kernel takes nothing else."""
    return at_least_float32(features).flatten(2).transpose(1, 2).contiguous()


def row_map(queries: Tensor, keys: Tensor) -> Tensor:
    """(N, P, C) and (N, Q, C) -> (N, P, Q)."""
    return (queries @ keys.transpose(1, 2)).softmax(-1)


def explicit(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(N, P, C), (N, Q, C) and (N, Q, D) -> (N, P, D)."""
    return row_map(queries, keys) @ values


def fused(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As `explicit`, by the kernel of transformers: one head, and no division by sqrt(C)."""
    return scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None], scale=1.0)[:, 0]


def chunked(queries: Tensor, keys: Tensor, values: Tensor, chunk: int) -> Tensor:
    """As `explicit`, in memory for `chunk` rows of the map: a backward pass computes them again."""
    if torch.is_grad_enabled():
        again = partial(checkpoint, explicit, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(some, keys, values) for some in torch.split(queries, chunk, dim=1)], dim=1)
    # Filled in place: results kept between the large blocks would stop the allocator from using those again.
    found = values.new_empty(*queries.shape[:2], values.shape[2])
    for start in range(0, queries.shape[1], chunk):
        part = slice(start, start + chunk)
        found[:, part] = explicit(queries[:, part], keys, values)
    return found
