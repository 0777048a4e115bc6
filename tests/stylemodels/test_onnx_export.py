"""Every trained model as an ONNX file that gives PyTorch's pictures, or a sentence why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from stylemodels.__main__ import main
from stylemodels.export import CARD_FILE, write_model
from stylemodels.method import Picture, Style, Task
from stylemodels.methods import find_task
from stylemodels.onnx_export import ONNX_FILE, TRIED, example, write_onnx
from tests.stylemodels.test_methods import ALL
from tests.stylemodels.toy import small_task

PARITY = 1e-4  # a 40th of a level of 8 bits; untrained networks draw far outside [0, 1], so relative there


@pytest.mark.parametrize("name", ALL)
def test_a_model_s_onnx_file_draws_as_the_model_does_or_its_card_says_why_there_is_none(name: str, tmp_path: Path):
    task = small_task(name)
    method, task_name = find_task(name)
    write_model(tmp_path, task, method, task_name, onnx=True)
    card = (tmp_path / CARD_FILE).read_text()
    form = task.onnx_form()
    if isinstance(form, str):
        assert form in card
        assert not (tmp_path / ONNX_FILE).exists()
        return
    assert "There is no" not in card
    onnx.checker.check_model(tmp_path / ONNX_FILE)
    for sizes in ((112, 80), (64, 64)), ((144, 96), (96, 128)):
        assert difference(tmp_path / ONNX_FILE, task, sizes) < PARITY


def difference(path: Path, task: Task, sizes: tuple[tuple[int, int], tuple[int, int]]) -> float:
    """Between the file and `stylize`, relative to the largest value, at sizes that the file was not tried on."""
    assert sizes not in TRIED
    pictures = example(sizes, ("content", "style") if task.styles[1] else ("content",))
    styles = [Style(pictures["style"])] if task.styles[1] else []
    expected = task.eval().stylize(pictures["content"], styles, task.Controls()).image
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {key: picture.numpy() for key, picture in pictures.items()})
    assert expected is not None
    return float(np.abs(got - expected.numpy()).max() / max(1.0, float(expected.abs().max())))


class Refusing(nn.Module):
    """A network with an operation that ONNX does not have."""

    def forward(self, content: Tensor) -> Tensor:
        return content * torch.linalg.eigvalsh(content[0, 0, :4, :4]).sum()


class Odd(Task):
    """A task whose form cannot be exported."""

    styles = (0, 0)

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        return Picture(content)

    def onnx_form(self) -> nn.Module:
        return Refusing()


def test_what_the_exporter_refuses_leaves_no_file_and_a_reason(tmp_path: Path):
    result = write_onnx(tmp_path, Odd())
    assert not result.written
    assert result.reason.startswith("PyTorch's exporter refused it: ")
    assert list(tmp_path.iterdir()) == []


def test_an_export_leaves_the_task_as_it_was(tmp_path: Path):
    task = small_task("metastyle/train").train()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    assert write_onnx(tmp_path, task).written
    assert task.training
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_a_finished_model_is_exported_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    method, task_name = find_task("metastyle/train")
    write_model(tmp_path / "model", small_task("metastyle/train"), method, task_name)
    out = tmp_path / "theta.onnx"
    assert main(["export", str(tmp_path / "model"), "--out", str(out)]) == 0
    onnx.checker.check_model(out)
    assert "largest difference from PyTorch" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "theta.onnx"]


def test_exporting_what_onnx_cannot_say_is_an_error_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", "gatys", "--out", str(tmp_path / "gatys.onnx")]) == 1
    assert "it optimises the picture itself" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
