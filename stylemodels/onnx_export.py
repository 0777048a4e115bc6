"""A finished model as `model.onnx`, held against PyTorch before anybody else sees it.

Needs the extra `onnx`; it is imported when a file is written, for it takes half a second and 100 MB.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylemodels.method import Task

ONNX_FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# Height and width of content and style that the file is tried on; the first is the one that it is traced with.
TRIED = (((96, 160), (128, 112)), ((128, 128), (128, 128)), ((256, 192), (160, 240)))


@dataclass(frozen=True, kw_only=True)
class OnnxResult:
    """What became of an export: a file and how far it is from PyTorch, or the reason why there is none."""

    reason: str = ""
    inputs: tuple[str, ...] = ()
    differences: Mapping[str, float] = field(default_factory=dict)  # "160 x 96" -> largest absolute difference

    @property
    def written(self) -> bool:
        return not self.reason


def write_onnx(folder: Path, task: Task) -> OnnxResult:
    """Write `folder`/model.onnx, or say why not. The task stays as it is, where it is."""
    form = task.onnx_form()
    if isinstance(form, str):
        return OnnxResult(reason=form)
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        return OnnxResult(reason=f"{missing[0]} is not installed where it was trained (pip install stylefoundry[onnx])")
    names = ("content", "style") if task.styles[1] else ("content",)
    path = folder / ONNX_FILE
    form = deepcopy(form).cpu().eval()
    try:
        with torch.no_grad():
            _export(form, path, names)
            return OnnxResult(inputs=names, differences=compare(form, path, names))
    except Exception as error:  # the exporter and ONNX's runtime fail with classes of their own for what they lack
        path.unlink(missing_ok=True)
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return OnnxResult(reason=f"PyTorch's exporter refused it: {first_line}")


def compare(form: nn.Module, path: Path, names: tuple[str, ...]) -> dict[str, float]:
    """Largest absolute difference between the file and the module, by size of the content."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    differences = {}
    for sizes in TRIED:
        pictures = example(sizes, names)
        expected: Tensor = form(*pictures.values())
        (got,) = session.run(None, {name: picture.numpy() for name, picture in pictures.items()})
        height, width = sizes[0]
        differences[f"{width} x {height}"] = float((torch.from_numpy(got) - expected).abs().max())
    return differences


def example(sizes: tuple[tuple[int, int], tuple[int, int]], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Pictures in [0, 1] by input name, always the same ones."""
    random = torch.Generator().manual_seed(0)
    return {name: torch.rand(1, 3, *size, generator=random) for name, size in zip(names, sizes, strict=False)}


def _export(form: nn.Module, path: Path, names: tuple[str, ...]) -> None:
    any_size: dict[int, Any] = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it regrets at every call that torchvision is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch's about itself
            program = torch.onnx.export(
                form,
                tuple(example(TRIED[0], names).values()),
                dynamo=True,
                dynamic_shapes=tuple(any_size for _ in names),
                input_names=names,
                output_names=["picture"],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None, "dynamo=True gives one"
    program.save(path)


def card_lines(result: OnnxResult) -> list[str]:
    """What the model card says about it."""
    if not result.written:
        return ["## ONNX", "", f"There is no `{ONNX_FILE}`: {result.reason}."]
    inputs = " and ".join(f"`{name}`" for name in result.inputs)
    return [
        "## ONNX",
        "",
        f"`{ONNX_FILE}` takes {inputs}, (1, 3, H, W) in [0, 1], and gives `picture`, not clamped. Largest absolute",
        "difference from PyTorch:",
        "",
        "| content | difference |",
        "|---|---|",
        *(f"| {size} | {difference:.1e} |" for size, difference in result.differences.items()),
    ]
