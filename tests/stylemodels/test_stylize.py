from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.checkpoint import Damaged
from stylemodels.export import Card, read_model, write_model
from stylemodels.method import Style
from stylemodels.methods import find_task
from stylemodels.stylize import Model, interpolate, load_model, normalised
from stylemodels.train import Run
from tests.stylemodels.toy import advance, base_of, paintings, photos, same, small_run, small_task

METHOD, _ = find_task("metastyle")


def adapted(folder: Path, *, seed: int, style: int, base_seed: int = 0, only_in: bool = False) -> Model:
    """A model adapted in three steps from the untrained theta of `base_seed`, written to `folder` and loaded."""
    base = base_of(small_task("metastyle/train", seed=base_seed), "metastyle/train")
    task = small_task("metastyle/adapt", seed=seed, base=base, steps=3, only_in=only_in, lr=1e-2)
    task.given = type(task.given)(task.needs, style_image=paintings(1, 32, seed=style))
    run = Run(task, seed=seed)
    advance(run, 3)
    write_model(folder, task, METHOD, "adapt")
    return load_model(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "stripes": adapted(folder / "stripes", seed=0, style=1),
        "dots": adapted(folder / "dots", seed=1, style=2, only_in=True),
        "foreign": adapted(folder / "foreign", seed=0, style=1, base_seed=5),
    }


def theta_picture(model: Model, content: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.task.initial(content)


@pytest.mark.parametrize("size", [(16, 16), (17, 35), (64, 48), (101, 16)])
def test_a_result_is_as_large_as_its_content_and_in_range(models: dict[str, Model], size: tuple[int, int]):
    content = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    result = models["stripes"].stylize(content)
    assert result.shape == content.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert result.std() > 0


def test_a_model_loaded_from_its_files_draws_what_the_trained_one_drew(tmp_path: Path):
    run = small_run("metastyle/adapt", steps=3)
    advance(run, 3)
    content = photos(1, 32)
    with torch.inference_mode():
        expected = run.task.network(content)
    description = write_model(tmp_path, run.task, METHOD, "adapt")
    assert_close(load_model(tmp_path).stylize(content), expected)
    assert read_model(tmp_path)[0] == description


@pytest.mark.parametrize("name", ["stripes", "dots"])
def test_check_10_strength_0_draws_theta_s_picture_and_1_the_style_s_bit_for_bit(models: dict[str, Model], name: str):
    model, content = models[name], photos(1, 32)
    with torch.inference_mode():
        style = model.task.network(content)
    half = model.stylize(content, controls={"strength": 0.5})
    assert torch.equal(model.stylize(content, controls={"strength": 0.0}), theta_picture(model, content))
    assert torch.equal(model.stylize(content, controls={"strength": 1.0}), style)
    assert torch.equal(model.stylize(content), style)
    assert not torch.equal(half, style)
    assert half.isfinite().all()


def test_check_10_a_mixture_of_two_styles_is_another_picture_than_both(models: dict[str, Model]):
    content = photos(1, 32)
    stripes, dots = models["stripes"], models["dots"]
    mixed = interpolate([(stripes, 1.0), (dots, 1.0)])
    result = mixed.stylize(content)
    assert result.isfinite().all()
    assert not torch.equal(result, stripes.stylize(content))
    assert not torch.equal(result, dots.stylize(content))
    for name, value in mixed.task.network.state_dict().items():
        mean = (stripes.task.network.state_dict()[name] + dots.task.network.state_dict()[name]) / 2
        assert_close(value, mean)


def test_check_10_all_weight_on_one_model_is_that_model_exactly(models: dict[str, Model]):
    alone = interpolate([(models["stripes"], 3.0), (models["dots"], 0.0)])
    assert same(alone.task.state_dict(), models["stripes"].task.state_dict())
    thirds = interpolate([(models["stripes"], 1.0), (models["dots"], 1.0), (models["dots"], 1.0)])
    assert same(thirds.task.initial.state_dict(), models["stripes"].task.initial.state_dict()), "theta stays theta"


def test_models_from_different_starts_are_not_mixed(models: dict[str, Model], tmp_path: Path):
    with pytest.raises(ValueError, match="models 1 and 2 were adapted from different starts"):
        interpolate([(models["stripes"], 1.0), (models["foreign"], 1.0)])
    write_model(tmp_path, small_task("metastyle/train"), METHOD, "train")
    with pytest.raises(ValueError, match="model 2 is of metastyle/train: only adapted models"):
        interpolate([(models["stripes"], 1.0), (load_model(tmp_path), 1.0)])
    with pytest.raises(ValueError, match="none was given"):
        interpolate([])


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_cannot_sum_to_one_are_refused(weights: list[float]):
    with pytest.raises(ValueError, match="weights"):
        normalised(weights)


@pytest.mark.parametrize("shape", [(1, 3, 15, 64), (1, 3, 64, 8)])
def test_check_12_sides_under_16_px_are_refused(models: dict[str, Model], shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="at least 16 px"):
        models["stripes"].stylize(torch.rand(*shape))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 3, 32, 32), (1, 1, 32, 32)])
def test_anything_but_one_rgb_picture_is_refused(models: dict[str, Model], shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="a picture has the shape"):
        models["stripes"].stylize(torch.rand(*shape))


def test_controls_and_styles_that_the_model_does_not_take_are_refused(models: dict[str, Model]):
    content = photos(1, 32)
    with pytest.raises(ValueError, match=r"strength: 1\.5 was given"):
        models["stripes"].stylize(content, controls={"strength": 1.5})
    with pytest.raises(ValueError, match="alpha: unknown setting"):
        models["stripes"].stylize(content, controls={"alpha": 1})
    with pytest.raises(ValueError, match="the model is the style"):
        models["stripes"].stylize(content, [Style(content)])


def test_a_finished_model_needs_no_weights_of_its_encoder(tmp_path: Path):
    write_model(tmp_path, small_task("metastyle/adapt"), METHOD, "adapt")
    description = json.loads((tmp_path / "config.json").read_text())
    description["config"]["encoder"] = "vgg16"  # whose weights are not here
    (tmp_path / "config.json").write_text(json.dumps(description))
    assert load_model(tmp_path).stylize(photos(1, 32)).shape == (1, 3, 32, 32)


def test_the_same_training_gives_the_same_files_and_only_the_card_tells_the_rest(tmp_path: Path):
    for name in ("first", "second"):
        run = small_run("metastyle/adapt", steps=2)
        advance(run, 2)
        card = Card(name=name, job=f"job_{name}", created_at="2026-01-01T00:00:00Z", seed=0, datasets={"content": name})
        write_model(tmp_path / name, run.task, METHOD, "adapt", card)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
        assert b"job_" not in (tmp_path / "first" / file).read_bytes()
    card_text = (tmp_path / "second" / "README.md").read_text()
    assert card_text.startswith("---\n")
    for fact in ("pipeline_tag: image-to-image", "job_second", "2026-01-01", "strength", "`network` 34,275 parameters"):
        assert fact in card_text


def test_config_json_tells_method_settings_encoder_parts_and_stand_ins(tmp_path: Path):
    write_model(tmp_path, small_task("metastyle/adapt"), METHOD, "adapt")
    description = json.loads((tmp_path / "config.json").read_text())
    assert (description["method"], description["task"]) == ("metastyle", "adapt")
    assert description["config"]["width"] == 8
    assert description["controls"] == {"strength": 1.0}
    assert description["encoder"]["name"] == "random"
    assert len(description["encoder"]["sha256"]) == len(description["facts"]["initial_sha256"]) == 64
    assert description["facts"]["taps"]["content"] == "relu2_2"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_broken_model_is_damage_and_the_file_is_named(tmp_path: Path, file: str):
    write_model(tmp_path, small_task("metastyle/adapt"), METHOD, "adapt")
    (tmp_path / file).write_bytes(b"{")
    with pytest.raises(Damaged, match=file):
        load_model(tmp_path)
