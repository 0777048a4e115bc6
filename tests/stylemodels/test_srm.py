"""SRM: fast neural style and classifiers with gates. The numbered checks are those of the paper's reproduction."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.testing import assert_close

from stylemodels import checkpoint, gates
from stylemodels.__main__ import main
from stylemodels.blocks import InstanceNorm
from stylemodels.data import Batches, FolderSource
from stylemodels.describe import on_meta_device
from stylemodels.encoders import load_encoder
from stylemodels.export import write_model
from stylemodels.images import resize, save_picture
from stylemodels.method import Given, NoControls
from stylemodels.methods import find_task
from stylemodels.methods.srm import (
    Classify,
    ClassifyConfig,
    StylizeControls,
    Train,
    TrainConfig,
    confusion,
    middle,
    top,
)
from stylemodels.recalibration import StyleRecalibration, watched
from stylemodels.schema import InvalidConfig
from stylemodels.settings import build
from stylemodels.stylize import load_model, outline
from stylemodels.train import Run, build_task
from tests.stylemodels.toy import SMALL, advance, paintings, photos, same, small_run, small_task, write_pictures

CLASSES = ("coarse", "fine", "finer", "finest")


def style_task(**settings: object) -> Train:
    task = small_task("srm/train", **settings)
    assert isinstance(task, Train)
    return task


def classifier(folders: tuple[str, ...] = CLASSES, **settings: object) -> Classify:
    config = build(ClassifyConfig, {**SMALL["srm/classify"], **settings})
    task = build_task(Classify, config, seed=0, classes={"objects": folders})
    assert isinstance(task, Classify)
    return task


def textures(count: int, size: int, seed: int) -> dict[str, Tensor]:
    """Noise of four spatial scales, of any contrast and colour: what its class is says the scale alone."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pictures = []
    for label in labels.tolist():
        side = (4, 8, 16, 32)[label] * size // 32
        noise = interpolate(torch.randn(1, 3, side, side, generator=random), size=(size, size), mode="bilinear")[0]
        contrast, offset = 0.05 + 0.25 * torch.rand(2, 3, 1, 1, generator=random)
        pictures.append((0.35 + offset + contrast * noise / noise.std()).clamp(0, 1))
    return {"objects": torch.stack(pictures), "objects_label": labels}


# --- style ---


@pytest.mark.parametrize("norm", ["bn", "in"])
@pytest.mark.parametrize(("recalibration", "count"), [("none", 1_679_235), ("srm", 1_681_795), ("se", 1_690_155)])
def test_check_1_the_style_network_has_the_published_parameters(norm: str, recalibration: str, count: int):
    config = build(TrainConfig, {"norm": norm, "recalibration": recalibration})
    with torch.device("meta"):
        task = Train(config, Given(Train.needs, encoder=outline("vgg16")))
    assert sum(p.numel() for p in task.network.parameters()) == count


@pytest.mark.parametrize(("placement", "count"), [("residual", 1), ("all", 6)])
def test_gates_end_residual_branches_or_follow_every_norm_outside(placement: str, count: int):
    network = style_task(placement=placement).network
    assert sum(isinstance(module, StyleRecalibration) for module in network.modules()) == count
    norms = {type(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d | InstanceNorm)}
    assert norms == {nn.BatchNorm2d}


def test_a_closed_gate_makes_a_residual_block_the_identity():
    network = style_task().network
    block = network.residual[0].eval()
    block.gate.norm.bias.data.fill_(-100)
    features = torch.rand(2, 32, 8, 8)
    assert_close(block(features), features)


def test_the_loss_is_the_perceptual_one_against_the_whole_style():
    task = style_task(style_size=None)
    batch = {"content": photos(2, 32)}
    task.calibrate(batch)
    terms = task(batch)
    with torch.no_grad():
        grams = task.loss.style_target(paintings(1, 48, seed=2))
        expected = task.loss(task.network(batch["content"]), task.loss.content_target(batch["content"]), grams)
    assert set(terms) == {"content_loss", "style_loss"}
    for name, value in expected.items():
        assert_close(terms[name].detach(), value, rtol=1e-4, atol=1e-6)
    scaled = style_task(style_size=32)
    scaled.calibrate(batch)
    tap = scaled.loss.style_taps[0]
    grams = scaled.loss.style_target(resize(paintings(1, 48, seed=2), 32, 32))
    assert_close(scaled.get_buffer(f"gram_{tap}"), grams[tap])


def test_a_finished_network_draws_a_picture_whatever_lies_beside_it_in_the_batch():
    run = small_run("srm/train")
    advance(run, 3)
    assert isinstance(run.task, Train)
    network, pictures = run.task.eval().network, photos(3, 32)
    assert_close(network(pictures)[:1], network(pictures[:1]), rtol=1e-4, atol=1e-5)


def test_previews_leave_running_statistics_alone_and_show_the_gates():
    run = small_run("srm/train")
    advance(run, 2)
    before = run.snapshot()
    grid = run.preview({"content": photos(2, 32)})
    assert [name for name, _ in grid] == ["content-1", "result-1", "content-2", "result-2", "gates"]
    assert all(picture.shape[0] == 3 for _, picture in grid)
    assert run.task.training
    assert same(run.snapshot().weights, before.weights)


def test_alpha_goes_from_the_content_to_the_network_s_picture():
    task = style_task().eval()
    content = photos(1, 32)
    none, half, whole = (task.stylize(content, [], StylizeControls(alpha=a)).image for a in (0.0, 0.5, 1.0))
    assert torch.equal(none, content)
    assert_close(whole, task.network(content))
    assert_close(half, (content + whole) / 2)


def test_the_gates_of_a_drawing_come_as_a_map():
    maps = style_task(placement="all").eval().stylize(photos(1, 32), [], StylizeControls()).maps
    assert maps["gates"].shape == (1, 1, 6 * gates.LINE_PX + 5 * gates.BETWEEN_PX, 32)
    assert style_task(recalibration="none").eval().stylize(photos(1, 32), [], StylizeControls()).maps == {}


# --- classifiers ---


@pytest.mark.parametrize("decayed", [False, True])
def test_check_8_srms_take_no_weight_decay_and_everything_else_does(decayed: bool):
    task = classifier(srm_weight_decay=decayed)
    (optimizer,) = task.optimizers().values()
    held = [(p, group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
    assert Counter(id(p) for p, _ in held) == Counter(id(p) for p in task.network.parameters())
    gated = {id(p) for m in task.modules() if isinstance(m, StyleRecalibration) for p in m.parameters()}
    assert len(gated) == 3 * 3
    assert {decay for p, decay in held if id(p) in gated} == {1e-4 if decayed else 0.0}
    assert {decay for p, decay in held if id(p) not in gated} == {1e-4}


@pytest.mark.parametrize("recalibration", ["srm", "se"])
def test_check_9_textures_are_told_apart_after_forty_steps(recalibration: str):
    run = Run(classifier(recalibration=recalibration, lr=0.1, momentum=0.0, batch_size=32, image_size=32), seed=0)
    for step in range(40):
        run.advance(textures(32, 32, seed=step))
    figures = run.evaluate([textures(128, 32, seed=1000)])
    assert figures["validation_accuracy"] > 0.6


def test_check_11_outputs_after_saving_are_the_same_bit_for_bit(tmp_path: Path):
    run = small_run("srm/train")
    advance(run, 3)
    method, task_name = find_task("srm/train")
    write_model(tmp_path, run.task, method, task_name)
    again, content = load_model(tmp_path).task, photos(1, 32)
    assert isinstance(run.task, Train)
    assert isinstance(again, Train)
    run.task.eval()
    for task in (run.task, again):
        task.network.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        assert torch.equal(again.network(content), run.task.network(content))
    assert all(torch.equal(t, run.task.state_dict()[name]) for name, t in again.model_tensors().items())


def test_check_11_the_rate_falls_at_the_milestones_also_after_a_resume(tmp_path: Path):
    settings = {"steps": 9, "milestones": [3, 6], "lr": 0.1}
    whole = Run(classifier(**settings), seed=0)
    batches = [textures(4, 16, seed=step) for step in range(9)]
    rates = [whole.advance(batch)["lr"] for batch in batches]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3)
    first = Run(classifier(**settings), seed=0)
    for batch in batches[:5]:
        first.advance(batch)
    checkpoint.save(first.snapshot(), tmp_path / "x")
    resumed = Run(classifier(**settings), seed=0)
    resumed.restore(checkpoint.load(tmp_path / "x"))
    assert [resumed.advance(batch)["lr"] for batch in batches[5:]] == pytest.approx(rates[5:])
    assert same(resumed.snapshot().weights, whole.snapshot().weights)


def test_check_12_what_cannot_be_trained_is_refused_with_its_name():
    for name in ("srm/train", "srm/classify"):
        with pytest.raises(InvalidConfig, match="batch_size: 1 was given, it must be at least 2"):
            small_task(name, batch_size=1)
    with pytest.raises(ValueError, match="objects: there is one class, 'cats', 2 are needed"):
        classifier(("cats",))
    with pytest.raises(ValueError, match="fold: 5 of 5 folds was given; of n >= 2 it is 0 to n - 1"):
        classifier(folds=5, fold=5)
    with pytest.raises(ValueError, match="fold: 0 of 1 folds"):
        classifier(folds=1)
    with pytest.raises(InvalidConfig, match="arch: 'resnet21' was given"):
        classifier(arch="resnet21")
    with pytest.raises(InvalidConfig, match="recalibration: 'ge' was given, allowed are none, se, srm"):
        style_task(recalibration="ge")
    with pytest.raises(ValueError, match="domain_level: folder 'cup' is not called DOMAIN__CLASS"):
        classifier(("art__cup", "cup"), domain_level=True)
    with pytest.raises(ValueError, match="recalibration ge"):
        classifier(recalibration="ge")(textures(4, 24, seed=0))


def test_figures_are_those_of_all_held_out_pictures():
    task = classifier(tuple("abcdef")).eval()
    batches = [textures(8, 16, seed=1), textures(5, 16, seed=2)]
    for module in task.modules():
        if isinstance(module, StyleRecalibration):
            module.weight.data = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with watched(task) as seen:
            scores = torch.cat([task.network(batch["objects"]) for batch in batches])
        figures = task.evaluate(batches)
    labels = torch.cat([batch["objects_label"] for batch in batches])
    assert figures["class_loss"] == pytest.approx(float(cross_entropy(scores, labels)), rel=1e-5)
    right = [int(label) == int(row.argmax()) for row, label in zip(scores, labels, strict=True)]
    assert figures["accuracy"] == pytest.approx(sum(right) / 13)
    among = [int(label) in row.argsort(descending=True)[:5].tolist() for row, label in zip(scores, labels, strict=True)]
    assert figures["top5"] == pytest.approx(sum(among) / 13)
    assert {name for name in figures if name.startswith("gate")} == {
        f"gate_{what}_stage{n}" for what in ("mean", "std") for n in (1, 2, 3)
    }
    last = torch.cat([passed for layer, passes in seen.items() if "stages.2" in layer for passed in passes])
    assert figures["gate_mean_stage3"] == pytest.approx(float(last.mean()), rel=1e-4)
    assert figures["gate_std_stage3"] == pytest.approx(float(last.std(correction=0)), rel=1e-3)
    facts = task.model_facts()
    table = torch.tensor(facts["confusion"])
    assert table.sum() == 13
    assert table.sum(1).tolist() == [labels.tolist().count(n) for n in range(6)]
    assert facts["class_accuracy"]["a"] == pytest.approx(int(table[0, 0]) / int(table[0].sum()))
    assert set(facts["class_accuracy"]) == set("abcd"), "of e and f there was none"
    json.dumps(facts)


def test_the_confusion_matrix_counts_true_classes_in_rows():
    found, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert confusion(found, labels, 3).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.2, 0.5]])
    assert top(scores, torch.tensor([2, 2]), 1) == 0.5
    assert top(scores, torch.tensor([2, 2]), 2) == 1


def test_domains_share_one_classifier_and_have_figures_of_their_own():
    task = classifier(("art__cup", "art__dog", "real__cup", "real__dog"), domain_level=True).eval()
    assert (task.names, task.domains) == (["cup", "dog"], ["art", "real"])
    batch = textures(16, 16, seed=0)
    with torch.no_grad():
        figures = task.evaluate([batch])
        found = task.network(batch["objects"]).argmax(1)
    for number, domain in enumerate(task.domains):
        here = batch["objects_label"] // 2 == number
        right = (found[here] == batch["objects_label"][here] % 2).float().mean()
        assert figures[f"accuracy_{domain}"] == pytest.approx(float(right))


def test_streams_are_those_of_the_layout():
    small, large = classifier(image_size=32), classifier(arch="resnet18", width=8, image_size=224)
    train, held_out = small.streams()["objects"], small.validation_streams()["objects"]
    assert (train.augment, train.size, train.load_size, train.part) == ("cifar", 32, 32, "train")
    assert (held_out.augment, held_out.load_size, held_out.part, held_out.centre) == ("none", 32, "validation", True)
    train, held_out = large.streams()["objects"], large.validation_streams()["objects"]
    assert (train.augment, train.size, train.load_size) == ("imagenet", 224, 0)
    assert (held_out.size, held_out.load_size, held_out.centre) == (224, 256, True)
    plain = classifier(augment="none").streams()["objects"]
    assert (plain.augment, plain.centre) == ("none", True)
    assert on_meta_device(Classify).size == 32


def test_colours_are_shifted_by_the_given_or_the_data_set_s_own_statistics():
    given = classifier(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    assert given.network.get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    measured, batch = classifier(normalise="dataset"), textures(8, 16, seed=0)
    measured.calibrate(batch)
    inner = batch["objects"][..., 2:-2, 2:-2]
    assert_close(measured.network.get_buffer("mean").flatten(), inner.mean((0, 2, 3)))
    assert_close(measured.network.get_buffer("std").flatten(), inner.std((0, 2, 3)), rtol=1e-3, atol=1e-4)
    plain = classifier().eval()
    shifted = (batch["objects"] - torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]) / torch.tensor(
        [0.2023, 0.1994, 0.2010]
    )[:, None, None]
    assert_close(plain.network(batch["objects"]), plain.network.network(shifted), rtol=1e-4, atol=1e-5)


def test_the_black_border_of_random_crops_is_no_part_of_the_data_set_s_statistics(tmp_path: Path):
    grey = (torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4).expand(-1, 3, 16, 16)
    for number, name in enumerate("ab"):
        write_pictures(tmp_path / name, grey[number::2])
    task = classifier(("a", "b"), normalise="dataset", batch_size=64, val_fraction=0.0)
    with Batches(task.streams(), {"objects": FolderSource(tmp_path, labelled=True)}, seed=0) as batches:
        batch = batches.at(0)
    assert (batch["objects"] == 0).any()
    task.calibrate(batch)
    assert (task.network.get_buffer("mean") - 0.5).abs().max() < 0.1
    assert task.network.get_buffer("std").max() < 0.1


def test_a_small_picture_is_not_continued_before_it_is_classified(tmp_path: Path):
    method, task_name = find_task("srm/classify")
    write_model(tmp_path, classifier(), method, task_name)
    model, content = load_model(tmp_path), textures(1, 16, seed=0)["objects"]
    shares = model.picture(content).maps["classes"].flatten()
    assert sorted(shares.tolist()) == pytest.approx(sorted(model.class_table(content).values()))


def test_a_classifier_looks_at_the_middle_of_a_picture():
    image = photos(1, 64)[..., :48]
    assert_close(middle(image, 48, 40), image[..., 12:52, 4:44])
    task = classifier().eval()
    picture = task.stylize(photos(1, 64), [], NoControls())
    assert picture.image is None
    assert_close(picture.maps["classes"].flatten(), task.network(resize(photos(1, 64), 16, 16)).softmax(1)[0])


def test_a_preview_shows_the_pictures_the_confusion_and_the_gates():
    run = Run(classifier(), seed=0)
    run.evaluate([textures(8, 16, seed=0)])
    grid = dict(run.preview(textures(2, 16, seed=0)))
    assert list(grid) == ["object-1", "object-2", "confusion", "gates"]
    assert grid["confusion"].shape == (3, 160, 160)
    assert_close(grid["confusion"][0, ::40, :].sum(1), torch.full((4,), 40.0)), "rows sum to 1"


@pytest.mark.parametrize("folds", [0, 3])
def test_folds_hold_out_every_picture_once(tmp_path: Path, folds: int):
    for number, name in enumerate(("a", "b")):
        write_pictures(tmp_path / name, photos(7, 24, seed=number))
    source = FolderSource(tmp_path, labelled=True)
    shown: list[Tensor] = []
    for fold in range(max(folds, 1)):
        task = classifier(("a", "b"), folds=folds, fold=fold, batch_size=4)
        with Batches(task.validation_streams(), {"objects": source}, seed=0) as batches:
            shown += [picture for batch in batches.round() for picture in batch["objects"]]
        with Batches(task.streams(), {"objects": source}, seed=0) as batches:
            assert set(Counter(batches.at(0)["objects_label"].tolist())) <= {0, 1}
    different = len({tuple(picture.flatten().tolist()) for picture in shown})
    assert len(shown) == different, "each held-out picture is shown once"
    assert (different == 14) == (folds == 3)


# --- gates, and the command line ---


def test_gates_as_a_picture_have_a_line_a_picture_and_a_column_a_channel():
    found = {"first": torch.tensor([[0.0, 1.0], [0.25, 0.75]]), "second": torch.rand(2, 4)}
    drawn = gates.picture(found)
    height = 2 * 2 * gates.LINE_PX + gates.BETWEEN_PX
    assert drawn.shape == (1, 1, height, 4)
    assert drawn[0, 0, 0].tolist() == [0, 0, 1, 1], "two channels are as wide as four"
    assert drawn[0, 0, gates.LINE_PX].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert_close(drawn[0, 0, -1], found["second"][1])


def test_gates_in_figures_name_what_opens_and_closes_a_channel():
    network = nn.ModuleDict({"gate": StyleRecalibration(2)})
    network["gate"].weight.data = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    values = torch.tensor([[0.1, 0.5], [0.9, 0.4], [0.5, 0.6]])
    found = gates.figures(network, {"gate": values}, ["a", "b", "c"])["gate"]
    assert found["most_open"] == ["b", "c"]
    assert found["least_open"] == ["a", "b"]
    assert found["mean"] == pytest.approx([0.5, 0.5])
    assert found["sigma_share"] == [0.75, None]
    assert sum(found["histogram"]) == 6
    assert found["histogram"][9] == 1


@pytest.mark.parametrize("name", ["srm/train", "srm/classify"])
def test_gates_are_written_from_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    task = small_task(name)
    method, task_name = find_task(name)
    write_model(tmp_path / "model", task, method, task_name)
    write_pictures(tmp_path / "photos", photos(3, 40))
    call = ["gates", str(tmp_path / "model"), "--content", str(tmp_path / "photos"), "--out", str(tmp_path / "gates")]
    assert main([*call, "--pictures", "2"]) == 0
    written = json.loads((tmp_path / "gates" / "gates.json").read_text())
    assert written["pictures"] == [str(tmp_path / "photos" / f"{n}.png") for n in (0, 1)]
    with watched(task.eval()) as seen:
        task.stylize(photos(1, 40), [], task.Controls())
    assert set(written["layers"]) == set(seen)
    assert all(layer["mean"] == pytest.approx([0.5] * len(layer["mean"])) for layer in written["layers"].values())
    assert (tmp_path / "gates" / "gates.png").exists()


def test_a_model_without_gates_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(tmp_path / "photos", photos(1, 40))
    for name, settings, words in (
        ("srm/train", {"recalibration": "none"}, "it was trained with recalibration none"),
        ("adain/train", {}, "it takes its style from a picture"),
    ):
        method, task_name = find_task(name)
        write_model(tmp_path / "model", small_task(name, **settings), method, task_name)
        out = ["--out", str(tmp_path / "gates")]
        assert main(["gates", str(tmp_path / "model"), "--content", str(tmp_path / "photos"), *out]) == 1
        assert words in capsys.readouterr().err


def test_classes_are_told_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    method, task_name = find_task("srm/classify")
    write_model(tmp_path / "model", classifier(), method, task_name)
    save_picture(photos(1, 40), tmp_path / "photo.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.png").rename(tmp_path / "photos" / "photo.png")
    call = ["classify", str(tmp_path / "model"), "--content", str(tmp_path / "photos")]
    assert main([*call, "--top", "2", "--json", str(tmp_path / "classes.json")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (table,) = json.loads((tmp_path / "classes.json").read_text()).values()
    assert set(table) == set(CLASSES)
    assert sum(table.values()) == pytest.approx(1)
    first, second, *_ = table
    assert line.endswith(f"photo.png: {first} {table[first]:.3f}, {second} {table[second]:.3f}")


def test_labelled_folders_are_scored_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    method, task_name = find_task("srm/classify")
    folders = ("art__cup", "art__dog", "real__cup", "real__dog")
    write_model(tmp_path / "model", classifier(folders, domain_level=True), method, task_name)
    model = load_model(tmp_path / "model")
    held_out = {"dog": photos(3, 40), "real__cup": photos(2, 40, seed=1)}
    for name, pictures in held_out.items():
        write_pictures(tmp_path / "photos" / name, pictures)
    call = ["classify", str(tmp_path / "model"), "--content", str(tmp_path / "photos")]
    assert main([*call, "--labelled", "--json", str(tmp_path / "scores.json")]) == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    told = {name: [next(iter(model.class_table(p[None]))) for p in pictures] for name, pictures in held_out.items()}
    rows = [[told[name].count(found) for found in ("cup", "dog")] for name in ("real__cup", "dog")]
    assert written["confusion"] == rows
    assert written["class_names"] == ["cup", "dog"]
    assert written["class_accuracy"] == pytest.approx({"cup": rows[0][0] / 2, "dog": rows[1][1] / 3})
    assert written["accuracy"] == (rows[0][0] + rows[1][1]) / 5
    assert len(written["pictures"]) == 5
    assert f"accuracy {written['accuracy']:.4f} of 5 pictures" in capsys.readouterr().out
    (tmp_path / "photos" / "dog").rename(tmp_path / "photos" / "hen")
    assert main([*call, "--labelled"]) == 1, "check 12: other classes than the model's"
    assert "hen/0.png: its folder is called like none of the model's classes: cup, dog" in capsys.readouterr().err


def test_a_folder_of_classes_becomes_a_classifier(tmp_path: Path):
    for label, name in enumerate(CLASSES):
        batch = textures(40, 16, seed=label)
        write_pictures(tmp_path / "objects" / name, batch["objects"][batch["objects_label"] == label])
    settings = [f"{key}={value}" for key, value in {**SMALL["srm/classify"], "steps": 6, "checkpoint_every": 3}.items()]
    call = ["train", "srm/classify", "--objects", str(tmp_path / "objects"), "--out", str(tmp_path / "out")]
    assert main([*call, "--set", *settings]) == 0
    model = load_model(tmp_path / "out" / "model")
    facts = model.description.facts
    assert facts["classes"] == {"objects": list(CLASSES)}
    assert torch.tensor(facts["confusion"]).sum() >= 4
    assert set(model.class_table(photos(1, 40))) == set(CLASSES)
    assert replace(model.task.config, steps=1).arch == "resnet8"


def test_the_style_encoder_may_be_any():
    for name in ("small-narrow", "random"):
        task = build_task(
            Train,
            build(TrainConfig, {"encoder": name, "width": 8, "res_blocks": 1}),
            seed=0,
            encoder=load_encoder(name),
            style_image=paintings(1, 48),
        )
        assert task.config.style_weight == 1000.0
