"""Foreign checkpoints become models; the published ones, where they are, give the published figures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylemodels.convert import convert, convert_collaborative_distillation
from stylemodels.images import load_picture
from stylemodels.method import Style
from stylemodels.methods.collaborative_distillation import Distill
from stylemodels.stylize import load_model
from tests.stylemodels.toy import paintings, photos

# Where files lie that this repository does not have. Read here, for no test sees these variables.
FOLDERS = {name: os.environ.get(name) for name in ("STYLEFOUNDRY_PUBLISHED_WEIGHTS", "STYLEFOUNDRY_TEST_PHOTOS")}
WIDTHS = {1: (24,), 2: (16, 32), 3: (16, 32, 64), 4: (16, 32, 64, 128), 5: (16, 32, 64, 128, 128)}
TEACHER = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 4, 4, 1)


def layers(stage: int) -> list[tuple[str, int, int]]:
    """The encoder's convolutions of a stage: name, channels in, channels out."""
    found, before = [], 3
    for block, width in enumerate(WIDTHS[stage], start=1):
        for index in range(1, (DEPTHS[block - 1] if block < stage else 1) + 1):
            found.append((f"conv{block}{index}", before, width))
            before = width
    return found


def published_like(stage: int, kind: str) -> dict[str, Tensor]:
    """Random tensors of the names and shapes of the published file, seeded."""
    random = torch.Generator().manual_seed(10 * stage + (kind == "SE"))

    def convolution(name: str, inputs: int, outputs: int, kernel: int = 3) -> dict[str, Tensor]:
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = scale * torch.randn(outputs, inputs, kernel, kernel, generator=random)
        return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(outputs, generator=random)}

    tensors: dict[str, Tensor] = {}
    if kind == "SD":
        for name, inputs, outputs in layers(stage):
            tensors |= convolution(name, outputs, inputs)
        return tensors
    tensors |= convolution("conv0", 3, 3, kernel=1)
    for name, inputs, outputs in layers(stage):
        tensors |= convolution(name, inputs, outputs)
    for block, (width, wide) in enumerate(zip(WIDTHS[stage], TEACHER, strict=False), start=1):
        tensors |= convolution(f"conv{block}1_aux", width, wide, kernel=1)
    return tensors


def write_all(folder: Path, write: Callable[[dict[str, Tensor], Path, str], None]) -> Path:
    folder.mkdir()
    for stage in WIDTHS:
        for kind in ("SE", "SD"):
            write(published_like(stage, kind), folder, f"{stage}{kind}")
    return folder


def as_safetensors(tensors: dict[str, Tensor], folder: Path, name: str) -> None:
    save_file(tensors, folder / f"wct_se_16x_{name}.safetensors")


def as_checkpoint(tensors: dict[str, Tensor], folder: Path, name: str) -> None:
    """As in the authors' repository: in two folders, legacy format, the epoch beside the tensors."""
    place = folder / f"new_{name[1:].lower()}"
    place.mkdir(exist_ok=True)
    torch.save({"epoch": 20, "model": tensors}, place / f"{name}.pth", _use_new_zipfile_serialization=False)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_all(tmp_path / "published", as_safetensors)


def test_checkpoints_and_safetensors_of_the_same_tensors_give_the_same_model(published: Path, tmp_path: Path):
    first = convert_collaborative_distillation(published).model_tensors()
    second = convert_collaborative_distillation(write_all(tmp_path / "pth", as_checkpoint)).model_tensors()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for stage in WIDTHS:
        for kind, part in (("SE", "encoders"), ("SD", "decoders")):
            for name, value in published_like(stage, kind).items():
                if "_aux" not in name:
                    assert torch.equal(first[f"{part}.{stage}.{name}"], value)


def test_a_converted_model_draws_ends_in_a_relu_and_says_whose_it_is(published: Path, tmp_path: Path):
    description = convert("16x", published, tmp_path / "model")
    assert description.encoder is None, "the teacher was not there"
    assert description.parts == {"encoders": 1_073_212, "decoders": 1_072_791}
    assert description.config["final_relu"] is True
    assert "2020 Huan Wang" in (tmp_path / "model" / "README.md").read_text()
    picture = load_model(tmp_path / "model").stylize(photos(1, 48), [Style(paintings(1, 48))])
    assert picture.isfinite().all()


def test_what_is_missing_or_misshapen_is_named(published: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="'8x' cannot be converted, only 16x"):
        convert("8x", published, tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        convert_collaborative_distillation(tmp_path / "nowhere")
    file = published / "wct_se_16x_3SD.safetensors"
    tensors = published_like(3, "SD")
    save_file({**tensors, "conv22.bias": torch.zeros(7)}, file)
    with pytest.raises(ValueError, match=r"3SD.*'conv22.bias' has shape \(7,\), not \(32,\)"):
        convert_collaborative_distillation(published)
    save_file({name: value for name, value in tensors.items() if name != "conv22.bias"}, file)
    with pytest.raises(ValueError, match=r"3SD.*'conv22.bias' is missing"):
        convert_collaborative_distillation(published)
    save_file({**tensors, "conv22.bias": torch.full((32,), torch.nan)}, file)
    with pytest.raises(ValueError, match=r"3SD.*not finite"):
        convert_collaborative_distillation(published)
    file.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"3SD.*cannot be read"):
        convert_collaborative_distillation(published)
    file.unlink()
    with pytest.raises(ValueError, match=r"3SD: there is no file like 3SD.pth"):
        convert_collaborative_distillation(published)
    (published / "3SD.pth").write_bytes(b"no pickle either")
    with pytest.raises(ValueError, match=r"3SD.pth: cannot be read"):
        convert_collaborative_distillation(published)
    torch.save({"epoch": 20}, published / "3SD.pth")
    with pytest.raises(ValueError, match=r"3SD.pth: there is no state dict in it"):
        convert_collaborative_distillation(published)
    as_safetensors(tensors, published, "3SD")
    with pytest.raises(ValueError, match=r"3SD: 3SD.pth and wct_se_16x_3SD.safetensors"):
        convert_collaborative_distillation(published)


class Danger:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("exit 1",)


def test_a_pickle_that_holds_more_than_tensors_is_refused(published: Path):
    (published / "wct_se_16x_2SE.safetensors").unlink()
    torch.save({"model": Danger()}, published / "2SE.pth")
    with pytest.raises(ValueError, match=r"2SE.pth: cannot be read"):
        convert_collaborative_distillation(published)


def folder_from(variable: str) -> Path:
    if not (folder := FOLDERS[variable]):
        pytest.skip(f"{variable} does not say where the files are, and this repository does not have them")
    return Path(folder)


@pytest.fixture(scope="module")
def original() -> Distill:
    return convert_collaborative_distillation(folder_from("STYLEFOUNDRY_PUBLISHED_WEIGHTS")).eval()


@torch.inference_mode()
def test_check_12_the_published_pairs_reconstruct_photos_as_well_as_was_measured(original: Distill):
    files = sorted(path for path in folder_from("STYLEFOUNDRY_TEST_PHOTOS").iterdir() if path.is_file())[::30]
    corners = [load_picture(path)[..., :320, :320] for path in files]
    for stage, expected in {1: 46.7, 2: 30.7, 3: 26.5, 4: 24.0, 5: 20.9}.items():
        errors = [
            (original.decoders[str(stage)](original.se(stage)(corner)).clamp(0, 1) - corner).square().mean()
            for corner in corners
        ]
        psnr = median(float(-10 * error.log10()) for error in errors)
        assert psnr == pytest.approx(expected, abs=0.5), f"stage {stage}"


def test_check_12_the_published_cascade_is_finite(original: Distill):
    picture = original.stylize(photos(1, 160), [Style(paintings(1, 160))], original.Controls()).image
    assert picture is not None
    assert picture.isfinite().all()
    assert picture.std() > 0.05
