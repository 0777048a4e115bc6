from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.testing import assert_close

from stylemodels.checkpoint import Damaged
from stylemodels.colour import coral, luminance_only
from stylemodels.export import Card, describe_model, read_model, write_model
from stylemodels.maps import curve
from stylemodels.method import Style
from stylemodels.methods import find_task
from stylemodels.stylize import Model, interpolate, load_model
from stylemodels.train import Run
from tests.stylemodels.test_methods import DRAWING
from tests.stylemodels.toy import advance, base_of, paintings, photos, same, small_run, small_task
from tests.stylemodels.toy_drawing import Ahead, Blend, Invert, model_of

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


def blend() -> Model:
    return model_of(Blend)


def test_common_controls_reach_every_model_beside_its_own():
    content, style = photos(1, 40), paintings(1, 32)
    model = blend()
    half = model.stylize(content, [Style(style)], {"strength": 0.5})
    assert_close(half, content.lerp(style.mean((2, 3), keepdim=True), 0.5))
    assert torch.equal(model.stylize(content, [Style(style)], {"alpha": 0.5}), half)
    assert model.stylize(content, [Style(style)], {"size": 24}).shape == (1, 3, 24, 24)


def test_a_result_is_the_mixture_of_its_styles_where_their_masks_say():
    content = photos(1, 40)[..., :33]
    red, blue = torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 32, 40)
    red[:, 0], blue[:, 2] = 1, 1
    mask = (torch.arange(33) < 11).float().expand(1, 1, 40, 33)
    result = blend().stylize(content, [Style(red, 1.0, mask), Style(blue, 5.0)])
    assert_close(result[:, :1], mask)
    assert_close(result[:, 2:], 1 - mask)
    assert_close(
        blend().stylize(content, [Style(red, 1.0), Style(blue, 3.0)])[0, :, 0, 0], torch.tensor([0.25, 0, 0.75])
    )


def test_the_task_gets_the_content_continued_by_reflection_and_the_result_is_cropped():
    content = photos(1, 40)[..., :33]
    model = blend()
    assert torch.equal(model.stylize(content, [Style(content)], {"alpha": 0}), content)
    assert torch.equal(model.task.given[0][0], pad(content, (0, 15, 0, 8), mode="reflect"))


def test_passes_feed_the_result_back_as_it_comes():
    content = photos(1, 48)
    once = model_of(Invert).stylize(content)
    assert torch.equal(once, (1.25 - content).clamp(0, 1))
    assert_close(model_of(Invert).stylize(content, (), {"passes": 2}), content)
    painted = blend().stylize(content, [Style(paintings(1, 32))], {"alpha": 0.5, "passes": 3})
    by_hand = content
    for _ in range(3):
        by_hand = blend().stylize(by_hand, [Style(paintings(1, 32))], {"alpha": 0.5})
    assert_close(painted, by_hand)


def test_colours_stay_the_contents_by_luminance():
    content, style = photos(1, 40), paintings(1, 32)
    plain = blend().stylize(content, [Style(style)], {"alpha": 0.5})
    kept = blend().stylize(content, [Style(style)], {"alpha": 0.5, "preserve_color": "luminance"})
    assert torch.equal(kept, luminance_only(plain, content).clamp(0, 1))


def test_coral_gives_the_styles_the_contents_colours_before_they_are_used():
    content, style = photos(1, 40), paintings(1, 32)
    model = blend()
    model.stylize(content, [Style(style)], {"preserve_color": "coral"})
    (_, (given,)) = model.task.given[0]
    assert torch.equal(given.image, coral(style, content))


def test_tiles_draw_what_a_whole_drawing_does():
    content = torch.rand(1, 3, 300, 530, generator=torch.Generator().manual_seed(0))
    whole = model_of(Invert).stylize(content, (), {"passes": 3})
    in_tiles = model_of(Invert)
    assert torch.equal(in_tiles.stylize(content, (), {"passes": 3, "tile": 256}), whole)
    assert in_tiles.task.tiles_drawn == 3 * 2 * 3
    half = model_of(Invert).stylize(content, (), {"passes": 3, "tile": 256, "storage": "float16"})
    assert_close(half, whole, atol=2e-3, rtol=0)


@pytest.mark.parametrize("controls", [{"passes": 2, "tile": 256}, {"tile": 512}, {"passes": 3}])
def test_a_drawing_reports_how_much_is_done_and_only_to_whom_it_was_told(controls: dict[str, int]):
    model = model_of(Invert)
    silent = model.task.report
    heard: list[float] = []
    model.stylize(torch.rand(1, 3, 600, 400), (), controls, report=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert 0 <= heard[0] <= 1
    assert model.task.report is silent


def test_a_drawing_that_fails_leaves_no_listener_behind():
    model = model_of(Invert)
    silent = model.task.report

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.stylize(torch.rand(1, 3, 300, 300), (), {"tile": 256}, report=stop)
    assert model.task.report is silent


def test_weights_that_are_not_numbers_are_refused_when_the_model_is_loaded(tmp_path: Path):
    task = small_task("metastyle/adapt")
    with torch.no_grad():
        task.network.conv1.weight[0, 0, 0, 0] = float("nan")
    write_model(tmp_path, task, METHOD, "adapt")
    with pytest.raises(
        ValueError, match=r"model\.safetensors: network\.conv1\.weight contains values that are not numb"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_content_with_a_pixel_that_is_no_number_is_refused(value: float):
    content = photos(1, 32)
    content[0, 1, 5, 5] = value
    with pytest.raises(ValueError, match="content: the picture contains values that are not numbers"):
        model_of(Invert).stylize(content)


def test_bytes_are_not_taken_for_a_picture():
    with pytest.raises(ValueError, match=r"content: .* not torch\.uint8"):
        model_of(Invert).stylize(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_a_size_that_no_memory_holds_is_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match="size: 327680 x 16384 px would be drawn, the most are 100 million pixels"):
        model_of(Invert).stylize(torch.rand(1, 3, 16, 320), (), {"size": 16384})


def clip(count: int) -> list[Tensor]:
    return [photos(1, 40, seed=seed)[..., :33] for seed in range(count)]


@pytest.mark.parametrize("kind", [Invert, Ahead])
@pytest.mark.parametrize("controls", [{}, {"passes": 2}, {"size": 20, "preserve_color": "luminance"}])
def test_frames_are_drawn_as_single_pictures_are(kind: type[Invert], controls: dict[str, object]):
    """Also where the method reads ahead: each result keeps the colours of its own frame."""
    model = model_of(kind)
    drawn = list(model.frames(iter(clip(5)), (), controls))
    assert len(drawn) == 5
    for frame, result in zip(clip(5), drawn, strict=True):
        assert torch.equal(result, model.stylize(frame, (), controls))


def test_a_video_is_drawn_as_it_comes():
    seen = []

    def frames() -> Iterator[Tensor]:
        for frame in clip(4):
            seen.append(1)
            yield frame

    results = model_of(Invert).frames(frames())
    next(results)
    assert len(seen) == 1


def test_the_styles_of_a_video_keep_the_colours_of_its_first_frame():
    model, style = blend(), paintings(1, 32)
    assert len(list(model.frames(iter(clip(3)), [Style(style)], {"preserve_color": "coral"}))) == 3
    for _, (given,) in model.task.given:
        assert torch.equal(given.image, coral(style, clip(1)[0]))


def test_a_video_that_cannot_be_drawn_is_refused():
    model = model_of(Invert)
    assert list(model.frames(iter([]))) == []
    with pytest.raises(ValueError, match="frame 2: 40 x 40 px, but the first has 33 x 40 px"):
        list(model.frames(iter([*clip(1), photos(1, 40)])))
    with pytest.raises(ValueError, match="tile: 256 was given"):
        list(model.frames(iter(clip(1)), (), {"tile": 256}))
    with pytest.raises(ValueError, match="frame 1: a picture has the shape"):
        list(model.frames(iter([torch.rand(3, 8, 8)])))


@pytest.mark.parametrize("name", DRAWING)
def test_no_model_stumbles_over_extreme_pictures(name: str):
    """Long strips, constant pictures, the smallest content, a style of one pixel: all results are finite."""
    task = small_task(name)
    method, task_name = find_task(name)
    model = Model(task.eval().requires_grad_(False), describe_model(task, method, task_name))
    fewest = task.styles[0]
    few_steps = {"steps": 2} if not task.trains else {}
    one_pixel = [Style(torch.full((1, 3, 1, 1), 0.7))] * fewest
    painted = [Style(paintings(1, 48))] * fewest
    constant = torch.full((1, 3, 40, 33), 0.25)
    strip = torch.rand(1, 3, 16, 400, generator=torch.Generator().manual_seed(0))
    for content, styles in [
        (constant, painted),
        (photos(1, 16), painted),
        (photos(1, 40), one_pixel),
        (constant, one_pixel),
        (strip, painted),
        (strip.transpose(2, 3), painted),
    ]:
        result = model.stylize(content, styles, few_steps)
        assert result.shape == content.shape
        assert result.isfinite().all()
        assert 0 <= result.min() <= result.max() <= 1


# --- what lies beside a picture ---------------------------------------------------------------------------------------


def test_maps_over_the_canvas_lose_the_padding_and_others_stay_as_they_are():
    model = blend()
    picture = model.picture(photos(1, 64)[..., :45], [Style(paintings(1, 40))])
    assert picture.image is not None
    assert picture.image.shape[-2:] == (64, 45)
    assert picture.maps["label"].shape == (1, 1, 8, 6), "45 px reach into the sixth cell of 8 px; the canvas has 48"
    assert picture.maps["curve"].shape == (5,)


def test_a_drawing_begins_at_another_picture_once():
    model, content, start = blend(), photos(1, 64)[..., :45], photos(1, 64, seed=3)[..., :45]
    told = {"alpha": 0.0}
    assert_close(model.stylize(content, [Style(paintings(1, 40))], told, init_image=start), start)
    assert_close(model.stylize(content, [Style(paintings(1, 40))], told), content)


def test_a_picture_to_start_from_is_as_large_as_the_content():
    with pytest.raises(ValueError, match="init_image: 32 x 32 px, but the content has 64 x 64 px"):
        blend().stylize(photos(1, 64), [Style(paintings(1, 40))], init_image=photos(1, 32))


def test_a_curve_is_drawn_from_its_smallest_to_its_largest_value():
    drawn = curve(torch.arange(5.0), height=5, width=5)
    assert torch.equal(drawn.argmin(2)[0, 0], torch.tensor([4, 3, 2, 1, 0])), "a rising line goes from bottom to top"
    assert_close(curve(torch.ones(3), height=4, width=6)[0, 0, 3], torch.full((6,), 0.2))
