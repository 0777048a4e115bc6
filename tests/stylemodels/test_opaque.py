"""Work that depends on values, on tensors that have them and on tensors that have none."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from stylemodels.opaque import opaque


def doubled_until_large(start: Tensor) -> list[Tensor]:
    while float(start.sum()) < 100:
        start = start @ (2 * torch.eye(2))
    return [start]


def test_it_is_done_without_gradients_and_not_counted():
    start = torch.ones(2, 2, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (result,) = opaque(lambda: doubled_until_large(start), like=[start])
    assert result.tolist() == [[32.0, 32.0], [32.0, 32.0]]
    assert not result.requires_grad
    assert counter.get_total_flops() == 0


def test_tensors_without_values_give_the_shapes_alone():
    with FakeTensorMode():
        like = torch.empty(3, 4, dtype=torch.float64)
        (result,) = opaque(lambda: doubled_until_large(like), like=[like])
    assert (result.shape, result.dtype) == ((3, 4), torch.float64)
