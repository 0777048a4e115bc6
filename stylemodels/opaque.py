"""Work whose operations depend on the values that it meets, for steps that are counted without values (`cost.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes


def opaque(work: Callable[[], Sequence[Tensor]], *, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """What `work()` gives: tensors of the shapes and dtypes of `like`, without gradients.

    On tensors that have no values it is not called, and nobody counts what it does: how many operations a clustering
    takes, say, is known afterwards only.
    """
    with torch.no_grad():
        if any(isinstance(tensor, FakeTensor) for tensor in like):
            return [torch.empty_like(tensor) for tensor in like]
        with _disable_current_modes():
            return work()
