"""The three forms of attention are one function; two of them never hold the whole map."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.attention import Form, attention, attention_map
from tests.stylemodels.frugal import peaks

FORMS: tuple[Form, ...] = get_args(Form)

# Works on side x side positions of content and style in one form after the other, the most frugal first, and prints by
# how many MB the process had grown at its peak after each.
PEAKS = """
import re, sys, torch
from stylemodels.attention import attention

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) / 1024

def run(form, side):
    maps = [torch.randn(1, 64, side, side, requires_grad=learns) for _ in range(3)]
    out = attention(*maps, form=form, chunk=256)
    if learns:
        out.sum().backward()
    assert out.isfinite().all()

torch.set_num_threads(1)
side, learns, forms = int(sys.argv[1]), sys.argv[2] == "learns", sys.argv[3:]
torch.set_grad_enabled(learns)
for form in forms:
    run(form, 4)  # for what PyTorch loads when it is first asked
before = megabytes("VmRSS")
for form in forms:
    run(form, side)
    print(form, megabytes("VmHWM") - before)
"""


def random_maps(*sizes: tuple[int, int], channels: int = 64, count: int = 2, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(count, channels, *size, generator=random) for size in sizes]


def by_loops(queries: Tensor, keys: Tensor, values: Tensor) -> np.ndarray:
    """Position by position in numpy, float64: (N, D, H, W)."""
    asking, offered, held = (tensor.double().flatten(2).numpy() for tensor in (queries, keys, values))
    out = np.zeros((held.shape[0], held.shape[1], asking.shape[2]))
    for n in range(out.shape[0]):
        for position in range(out.shape[2]):
            logits = np.array([asking[n, :, position] @ offered[n, :, other] for other in range(offered.shape[2])])
            weights = np.exp(logits - logits.max())
            out[n, :, position] = held[n] @ (weights / weights.sum())
    return out.reshape(*held.shape[:2], *queries.shape[2:])


@pytest.mark.parametrize("form", FORMS)
def test_every_position_gets_the_softmax_weighted_mean_without_a_scale(form: Form):
    queries, keys = random_maps((3, 5), (4, 2), channels=6)
    values = random_maps((4, 2), channels=9, seed=1)[0]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        got = attention(queries.to(dtype), keys.to(dtype), values.to(dtype), form=form, chunk=4)
        assert got.dtype == dtype
        assert_close(got.double(), torch.from_numpy(by_loops(queries, keys, values)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_check_2_rows_of_the_map_sum_to_one_and_it_is_as_high_and_wide_as_the_two_pictures(size: tuple[int, int]):
    queries, keys = random_maps((8, 8), size)
    rows = attention_map(queries, keys)
    assert rows.shape == (2, 64, size[0] * size[1])
    assert rows.min() >= 0
    assert (rows.sum(-1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_check_2_explicit_fused_and_chunked_are_equal(chunk: int):
    queries, keys, values = random_maps((8, 8), (6, 10), (6, 10))
    full = attention(queries, keys, values, form="full")
    assert_close(full.flatten(2), (attention_map(queries, keys) @ values.flatten(2).mT).mT, rtol=0, atol=1e-5)
    assert_close(attention(queries, keys, values, form="sdpa"), full, rtol=0, atol=1e-5)
    assert_close(attention(queries, keys, values, form="chunked", chunk=chunk), full, rtol=0, atol=1e-5)


def test_gradients_of_the_three_forms_are_equal():
    maps = [one.double().requires_grad_() for one in random_maps((5, 5), (4, 6), (4, 6), channels=8)]
    slopes = [torch.autograd.grad(attention(*maps, form=form, chunk=7).square().sum(), maps) for form in FORMS]
    for other in slopes[1:]:
        for one, expected in zip(other, slopes[0], strict=True):
            assert_close(one, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_how_a_map_lies_in_memory_does_not_matter(form: Form):
    maps = random_maps((6, 4), (5, 5), (5, 5))
    last = [one.contiguous(memory_format=torch.channels_last) for one in maps]
    assert_close(attention(*last, form=form), attention(*maps, form=form))


@pytest.mark.parametrize("form", FORMS)
def test_under_autocast_logits_stay_in_float32(form: Form):
    queries, keys, values = random_maps((4, 4), (4, 4), (4, 4))
    queries = 3 * queries  # logits near 40, which bfloat16 rounds to quarters
    expected = attention(queries, keys, values, form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = attention(queries, keys, values, form=form)
        rows = attention_map(queries, keys)
    assert got.dtype == rows.dtype == torch.float32
    assert torch.equal(got, expected)
    assert torch.equal(rows, attention_map(queries, keys))


@pytest.mark.parametrize("learns", [False, True])
def test_fused_and_chunked_attention_never_hold_the_map(learns: bool):
    side = 80
    grown = peaks(PEAKS, str(side), "learns" if learns else "draws", "sdpa", "chunked", "full")
    assert grown["full"] > 4 * side**4 / 2**20 > 150
    assert grown["sdpa"] < 0.2 * grown["full"]
    assert grown["chunked"] < 0.5 * grown["full"]
