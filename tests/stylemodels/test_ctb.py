"""The content transformation block against its specification.

Check 1 is in test_ctb_networks.py, 2 and 3 are in test_local_norm.py, 8 in test_adversarial.py, 10 in test_quality.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from stylemodels import checkpoint
from stylemodels.class_lists import check_scenes, places_in
from stylemodels.collapse import concerns
from stylemodels.ctb_losses import cosine_loss, pooled_loss
from stylemodels.export import write_model
from stylemodels.method import Given, Picture
from stylemodels.methods import find_task
from stylemodels.methods.ctb import StylizeControls, Train, TrainConfig, signed
from stylemodels.onnx_export import write_onnx
from stylemodels.settings import build
from stylemodels.sources import check_classes
from stylemodels.stages import checked_stages, stage_at
from stylemodels.stylize import load_model
from stylemodels.train import Run, build_task
from tests.stylemodels.toy import SMALL, advance, batch_of, photos, same, small_run, small_task

CLASSES = {"content": ("beach", "forest"), "objects": ("other", "person"), "style": ("other", "person")}


def ctb(**settings: Any) -> Train:
    task = small_task("ctb/train", **settings)
    assert isinstance(task, Train)
    return task


def training(**settings: Any) -> tuple[Run, Train]:
    """A run that begins with both kinds of updates."""
    task = ctb(**settings)
    return Run(task, seed=0), task


def weights(task: Train) -> dict[str, dict[str, Tensor]]:
    networks = {
        "E": task.encoder,
        "T": task.transform,
        "D": task.decoder,
        "D_s": task.critics["style"],
        "D_c": task.critics["content"],
    }
    return {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in networks.items()}


def moved(before: Mapping[str, Mapping[str, Tensor]], task: Train) -> set[str]:
    after = weights(task)
    return {name for name in after if not same(before[name], after[name])}


# --- 4: T ------------------------------------------------------------------------------------------------------------


def test_check_4_t_starts_as_the_identity_and_without_it_e_and_d_alone_draw():
    task, content = ctb(t_blocks=2), photos(1, 64)
    code = task.encoder(signed(content), 256)
    assert torch.equal(task.transform(code, 256), code)
    assert not torch.equal(ctb(t_identity_init=False).transform(code, 256), code)

    nn.init.normal_(task.transform.blocks[0].norm2.weight)
    alone, drawn = (task.stylize(content, [], StylizeControls(t_strength=g)).image for g in (0.0, 1.0))
    assert torch.equal(alone, (task.decoder(code, 256) + 1) / 2)
    assert torch.equal(drawn, (task.decoder(task.transform(code, 256), 256) + 1) / 2)
    assert not torch.equal(alone, drawn)


def test_the_strength_of_t_may_differ_from_place_to_place():
    task, content = ctb(), photos(1, 64)
    nn.init.normal_(task.transform.blocks[0].norm2.weight)

    def drawn(strength: float, *mask: float) -> Picture:
        return task.stylize(content, [], StylizeControls(t_strength=strength, t_mask=mask))

    never, always = drawn(0.0), drawn(1.0)
    assert_close(drawn(1.5, *[0.0] * 9).image, never.image)
    assert_close(drawn(1.0, 1.0).image, always.image)
    assert_close(drawn(1.5, 0.5).image, drawn(0.75).image)
    code = task.encoder(signed(content), 256)
    left = torch.lerp(code, task.transform(code, 256), torch.tensor([1.0, 0.75, 0.25, 0.0]))
    assert_close(drawn(1.0, 1.0, 0.0, 1.0, 0.0).image, (task.decoder(left, 256) + 1) / 2)
    assert never.maps["content_change"].shape == (1, 1, 4, 4)
    assert 0 <= never.maps["content_change"].min() < never.maps["content_change"].max() == 1
    with pytest.raises(ValueError, match="t_mask: 2 values were given"):
        drawn(1.0, 0.5, 0.5)


# --- 5 and 6: who learns ---------------------------------------------------------------------------------------------


def test_check_5_step_1_moves_e_d_and_the_style_discriminator_alone():
    _, task = training()
    before, batch = weights(task), batch_of(task.streams())
    terms = task.step1(signed(batch["content"]), batch["content_label"], signed(batch["style"]))
    assert moved(before, task) == {"E", "D", "D_s"}
    assert all(p.grad is None for p in [*task.transform.parameters(), *task.critics["content"].parameters()])
    assert terms["generator_gradient"] > 0
    assert terms["style_discriminator_gradient"] > 0


def test_check_6_step_2_moves_t_and_the_content_discriminator_alone_and_style_reaches_t():
    _, task = training()
    before, batch = weights(task), batch_of(task.streams())
    objects, artworks = signed(batch["objects"]), signed(batch["artworks"])
    task.step2(objects, batch["objects_label"], artworks, batch["artworks_label"])
    assert moved(before, task) == {"T", "D_c"}

    _, of_style = training(w_adv_cont=0.0, w_object=0.0)
    assert of_style.transform_content(objects, batch["objects_label"])["transform_gradient"] > 0


def test_the_warm_up_knows_only_the_first_step():
    run = small_run("ctb/train", warmup_step1=2)
    task = run.task
    assert isinstance(task, Train)
    assert set(run.streams()) == {"content", "style"}
    before = weights(task)
    terms = advance(run, 1)[0]
    assert moved(before, task) == {"E", "D", "D_s"}
    assert not any(name.startswith(("content_", "transform_")) for name in terms)


def test_labels_are_those_of_the_setting_whatever_the_order_of_the_folders():
    """The folders stand in the order of their names: other, person. Label 0 is the second class of the setting."""
    config = build(TrainConfig, {**SMALL["ctb/train"], "lr": 1e-12})
    task = build_task(Train, config, seed=0, classes=CLASSES)
    assert isinstance(task, Train)
    run = Run(task, seed=0)
    batch = batch_of(run.streams())
    with torch.no_grad():
        told = task.critics["content"](task.encoder(signed(batch["artworks"]), 256), 256).classes
    expected = cross_entropy(told, torch.tensor([1]))
    assert run.advance(batch)["artwork_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert task.get_buffer("objects_places").tolist() == task.get_buffer("style_places").tolist() == [1, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"conditioning": "projection", "adv_form": "lsgan", "fp_metric": "cosine"},
        {"conditioning": "none", "photo_as_fake": True, "fp_metric": "l1"},
        {"norm": "lfn", "lfn_window": 32, "lfn_group": 8, "pixel_pool": 1},
        {"norm": "instance", "content_size": 80, "step1_per_cycle": 2, "step2_per_cycle": 3, "decoder_res_blocks": 1},
        {"t_blocks": 0},
    ],
)
def test_every_choice_trains(settings: dict[str, Any]):
    run, task = training(**settings)
    before = weights(task)
    terms = advance(run, 2)[-1]
    assert all(torch.tensor(value).isfinite() for value in terms.values())
    learns = {"E", "D", "D_s"} | ({"T", "D_c"} if task.config.t_blocks else set())
    assert moved(before, task) == learns
    assert ("scene_loss" in terms) == (task.config.conditioning == "ac")


def test_updates_of_a_cycle_take_their_pictures_side_by_side_so_that_workers_can_share_them_out():
    run, _ = training(step1_per_cycle=2, step2_per_cycle=3, batch_size=4)
    streams = run.streams()
    assert {name: (s.count, s.together) for name, s in streams.items()} == {
        "content": (8, 2), "style": (8, 2), "objects": (12, 3), "artworks": (12, 3)}  # fmt: skip
    assert {name for name, s in streams.items() if s.balanced} == {"objects", "artworks"}


def test_with_the_gate_closed_one_side_moves_and_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path):
    settings = {"dsr": 0.5, "dsr_momentum": 0.5, "warmup_step1": 1}
    whole, _ = training(**settings)
    for terms in advance(whole, 4):
        assert ("style_loss" in terms) != ("style_discriminator_loss" in terms), "one side of the two"
    stopped, _ = training(**settings)
    first = advance(stopped, 2)
    assert "style_loss" in first[0], "it begins with the generator, at the share that is wanted"
    assert "style_discriminator_loss" not in first[0]
    checkpoint.save(stopped.snapshot(), tmp_path / "x")
    resumed, _ = training(**settings)
    resumed.restore(checkpoint.load(tmp_path / "x"))
    advance(resumed, 2)
    assert checkpoint.to_files(resumed.snapshot()) == checkpoint.to_files(whole.snapshot())


# --- 7: losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1, 10])
def test_check_7_a_constant_offset_costs_its_square(pool: int):
    pictures = signed(photos(2, 24))
    assert float(pooled_loss(pictures + 0.3, pictures, pool)) == pytest.approx(0.09, rel=1e-4)


class GivesBack(nn.Module):
    """A decoder that draws one picture, whatever it is told."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture = nn.Parameter(picture)

    def forward(self, code: Tensor, window: int) -> Tensor:
        return self.picture


@pytest.mark.parametrize(("drawn", "is_zero"), [(0, True), (5, False)])
def test_check_7_the_fixpoint_term_is_0_where_the_photo_itself_is_drawn(drawn: int, is_zero: bool):
    run = small_run("ctb/train")
    batch = batch_of(run.streams())
    photos_, scenes = signed(batch["content"]), batch["content_label"]
    run.task.decoder = GivesBack(photos_ if drawn == 0 else signed(photos(len(photos_), 64, seed=drawn)))
    run.task.begin(run.task.phase, 0)
    assert isinstance(run.task, Train)
    loss = float(run.task.draw_style(photos_, scenes)["fixpoint_loss"].detach())
    assert (loss == pytest.approx(0, abs=1e-9)) == is_zero


def test_check_7_the_cosine_of_codes_is_0_for_equal_and_4_for_opposite_ones():
    code = ctb().requires_grad_(False).encoder(signed(photos(1, 64)), 256)
    assert float(cosine_loss(code + 1, code + 1)) == pytest.approx(0, abs=1e-9)
    assert float(cosine_loss(-code - 1, code + 1)) == pytest.approx(4, rel=1e-4)


# --- 9: scenes, and what is refused ----------------------------------------------------------------------------------


def scene_accuracy(updates: int) -> float:
    """Share of eight scenes that D_s tells on photos after so many updates of it alone."""
    classes = {**CLASSES, "content": tuple("abcdefgh")}
    config = build(TrainConfig, {**SMALL["ctb/train"], "lr": 1e-3, "w_adv_style": 0.1, "warmup_step1": 10_000})
    task = build_task(Train, config, seed=0, classes=classes)
    assert isinstance(task, Train)
    Run(task, seed=0)
    scenes = signed(photos(8, 64, seed=5))
    for update in range(updates):
        noisy = scenes + 0.1 * torch.randn(scenes.shape, generator=torch.Generator().manual_seed(update))
        task.judge_style(noisy, torch.arange(8), scenes.flip(3))
    return float(task.judge_style(scenes, torch.arange(8), scenes.flip(3))["photo_scene_accuracy"])


@pytest.mark.slow
def test_check_9_d_s_tells_eight_scenes():
    assert scene_accuracy(100) > 0.6


def test_check_9_in_short_the_cross_entropy_of_scenes_falls():
    run, task = training(w_adv_style=0.1, lr=2e-3)
    scenes, labels = signed(photos(2, 64, seed=5)), torch.arange(2)
    losses = [task.judge_style(scenes, labels, scenes.flip(3))["photo_scene_loss"].detach() for _ in range(12)]
    assert run.step == 0
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("dataset", "found", "message"),
    [
        ("content", ("beach",), r"content: all pictures are of one class \(beach\), at least two"),
        ("objects", ("cat", "other", "person"), r"objects: class 'cat' is not one of object_classes \(person, other\)"),
        ("style", ("other", "persons"), "style: class 'persons' is not one of object_classes"),
        ("style", ("other",), "style: there is no picture of class 'person', which object_classes has"),
        ("objects", ("person",), "objects: there is no picture of class 'other'"),
    ],
)
def test_check_9_classes_that_do_not_fit_together_are_refused_by_name(
    dataset: str, found: tuple[str, ...], message: str
):
    with pytest.raises(ValueError, match=message):
        Train(build(TrainConfig, SMALL["ctb/train"]), Given(Train.needs, classes={**CLASSES, dataset: found}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"content_size": 48}, "content_size: 48 was given, it must be at least 64"),
        ({"width": 40, "norm": "lfn"}, r"width: 40 gives a layer of 40 channels, .* groups of 32 \(lfn_group\)"),
        ({"f": 10, "lfn_group": 8}, r"f: 10 gives a layer of 20 channels, .* groups of 8 \(lfn_group\)"),
        ({"f": 9, "norm": "instance", "content_size": 80}, "f: 9 gives a layer of 144 channels"),
        ({"lfn_group": 1}, "lfn_group: 1 was given, it must be at least 2"),
        ({"norm": "instance"}, "norm: instance norm needs crops of more than 64 px"),
        ({"load_size": 62}, "load_size: 62 was given, but crops of 64 px"),
        ({"progressive": []}, "progressive: no stage was given"),
        ({"progressive": [[64, 1, 64, 5], [56, 1, 64, 9]]}, "progressive: stage 2 has crops of 56 px"),
        ({"progressive": [[64, 0, 64, 5]]}, "progressive: stage 1 has a batch of 0"),
        ({"progressive": [[64, 1, 16, 5]]}, "progressive: stage 1 has a window of 16 px"),
        ({"progressive": [[64, 1, 64, 5], [96, 1, 64, 5]]}, "progressive: stage 2 ends at step 5, but begins at 5"),
    ],
)
def test_check_9_settings_that_cannot_be_used_are_refused_by_name(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ctb(**settings)


def test_objects_may_be_of_one_class_and_channels_in_groups_that_only_used_layers_have():
    class OfOneClass:
        labels, classes, digests = (0,), ("person",), ("a",)

        def read(self, index: int) -> bytes:
            return b""

    check_classes("objects", OfOneClass(), Train.needs)
    run, _ = training(object_classes=["person"], f=12, lfn_group=8)
    batch = {name: part * 0 if name.endswith("label") else part for name, part in batch_of(run.streams()).items()}
    assert run.advance(batch)["object_loss"] == 0


def test_classes_are_places_in_a_list_of_different_names():
    assert places_in(("person", "other"), "style", ("other", "person"), setting="names") == [1, 0]
    check_scenes("content", ("beach", "forest"))
    with pytest.raises(ValueError, match="names: a, a was given"):
        places_in(("a", "a"), "style", ("a",), setting="names")


# --- stages ----------------------------------------------------------------------------------------------------------


def test_stages_follow_each_other_and_the_last_one_stays():
    stages = checked_stages(
        "progressive", [[64, 4, 32, 2], [96, 1, 64, 5]], least_size=64, multiple=16, least_window=32
    )
    assert [stage_at(stages, step).size for step in range(7)] == [64, 64, 96, 96, 96, 96, 96]


def test_progressive_training_counts_the_warm_up_and_draws_with_the_last_window():
    run = small_run("ctb/train", warmup_step1=1, progressive=[[64, 2, 64, 2], [80, 1, 96, 9]])
    task = run.task
    assert isinstance(task, Train)
    seen = []
    for _ in range(3):
        seen.append([(s.count, s.size) for s in run.streams().values()])
        advance(run, 1)
    assert seen == [[(2, 64)] * 2, [(2, 64)] * 4, [(1, 80)] * 4]
    assert task.stages[-1].window == 96


def test_a_training_that_ends_before_the_last_stage_draws_with_the_window_it_has_seen():
    stages = [[64, 1, 64, 3], [80, 1, 96, 4], [96, 1, 128, 9]]
    seen = [ctb(warmup_step1=2, steps=steps, progressive=stages).stages[-1].window for steps in (1, 2, 3, 9)]
    assert seen == [64, 96, 128, 128]


# --- what comes out --------------------------------------------------------------------------------------------------


def test_a_preview_shows_every_photo_without_and_with_t():
    run, task = training()
    names = [name for name, _ in run.preview(batch_of(task.preview_streams()))]
    shown = [f"{what}-{n}" for n in range(1, 5) for what in ("content", "without-transformation", "result")]
    assert names == ["style-1", "style-2", *shown]


def test_a_decoder_that_draws_every_photo_alike_is_a_concern():
    run, task = training()
    shown = batch_of(task.validation_streams())
    figures = run.evaluate([shown])
    assert figures.keys() == {"validation_content_variety"}
    assert concerns(figures) == []
    for parameter in task.decoder.parameters():
        nn.init.zeros_(parameter)
    (told,) = concerns(run.evaluate([shown]))
    assert told.startswith("validation_content_variety is 0.000")


def test_a_finished_model_has_no_discriminators(tmp_path: Path):
    method, name = find_task("ctb/train")
    write_model(tmp_path, ctb(), method, name)
    task = load_model(tmp_path).task
    assert {part.partition(".")[0] for part in task.state_dict()} == {
        "encoder", "transform", "decoder", "style_gate", "content_gate"}  # fmt: skip


@pytest.mark.slow
def test_local_norms_are_exported_for_every_size(tmp_path: Path):
    result = write_onnx(tmp_path, ctb(norm="lfn", lfn_window=64))
    assert max(result.differences.values()) < 1e-4, result.reason


# --- 11: a toy training ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_check_11_a_toy_training_halves_the_pixel_term_and_moves_t():
    """300 steps on eight photos, each of another scene: those that are new in every step it does not learn so soon."""
    size = {"content_size": 96, "batch_size": 2, "t_blocks": 2, "decoder_res_blocks": 2, "norm": "lfn"}
    config = build(TrainConfig, {**SMALL["ctb/train"], **size})
    eight = {**CLASSES, "content": tuple("abcdefgh")}
    run = Run(build_task(Train, config, seed=0, classes=eight), seed=0)
    batches = [batch_of(run.streams(), step) for step in range(4)]
    for number, batch in enumerate(batches):
        batch["content_label"] += 2 * number
    terms = [run.advance(batches[step % 4]) for step in range(300)]
    assert all(torch.tensor(list(t.values())).isfinite().all() for t in terms)
    pixels = [t["pixel_loss"] for t in terms]
    assert sum(pixels[-10:]) < 0.5 * sum(pixels[:10])
    assert terms[0]["transform_change"] == 0
    assert terms[-1]["transform_change"] > 1e-3


def test_check_11_in_short_the_pixel_term_falls_and_t_moves():
    run, _ = training()
    terms = advance(run, 15)
    assert all(torch.tensor(list(t.values())).isfinite().all() for t in terms)
    assert terms[-1]["pixel_loss"] < 0.95 * terms[0]["pixel_loss"]
    assert terms[0]["transform_change"] == 0 < terms[-1]["transform_change"]
