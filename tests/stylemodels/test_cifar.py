"""The binary CIFAR files: every byte in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylemodels.__main__ import main
from stylemodels.data import FolderSource
from stylemodels.images import decode


def pictures(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def write(file: Path, labels: list[list[int]], images: Tensor) -> None:
    rows = [bytes(label) + bytes(image.flatten().tolist()) for label, image in zip(labels, images, strict=True)]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"".join(rows))


@pytest.mark.parametrize("coarse", [[], [7]], ids=["cifar-10", "cifar-100"])
def test_records_become_pictures_in_the_folders_of_their_classes(coarse: list[int], tmp_path: Path):
    train, test = pictures(3, seed=0), pictures(1, seed=1)
    names = "fine_label_names.txt" if coarse else "batches.meta.txt"
    write(tmp_path / "in" / "data_batch_1.bin", [[*coarse, 1], [*coarse, 0]], train[:2])
    write(tmp_path / "in" / "data_batch_2.bin", [[*coarse, 1]], train[2:])
    write(tmp_path / "in" / "test_batch.bin", [[*coarse, 0]], test)
    (tmp_path / "in" / names).write_text("plane\ncar\n\n")
    assert main(["cifar", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    for part, wanted, labels in (("train", train, ["car", "plane", "car"]), ("test", test, ["plane"])):
        source = FolderSource(tmp_path / "out" / part, labelled=True)
        assert source.labels is not None
        found: dict[str, list[object]] = {source.classes[label]: [] for label in source.labels}
        for index, label in enumerate(source.labels):
            found[source.classes[label]].append(decode(source.read(index)).tolist())
        for name in set(labels):
            expected = [image.tolist() for image, its in zip(wanted, labels, strict=True) if its == name]
            assert sorted(found[name]) == sorted(expected)


def test_what_is_not_cifar_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def refusal() -> str:
        assert main(["cifar", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
        return capsys.readouterr().err

    assert "has neither batches.meta.txt nor fine_label_names.txt" in refusal()
    (tmp_path / "batches.meta.txt").write_text("plane\ncar\n")
    assert "there is no .bin file in it" in refusal()
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3000))
    assert "3000 bytes are no whole number of CIFAR's records" in refusal()
    write(tmp_path / "data_batch_1.bin", [[2]], pictures(1, seed=0))
    assert "has the class 2, there are names of 2" in refusal()
