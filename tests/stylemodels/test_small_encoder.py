"""The distillation that made the small encoder, on a toy teacher, and the file it left."""

import json

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.checkpoint import load_tensors, save_tensors
from stylemodels.data import FolderSource
from stylemodels.encoders import SMALL_DEPTHS, SMALL_WIDTHS, SmallNetwork
from stylemodels.images import decode, load_picture, to_float
from stylemodels.small_encoder import (
    Crops,
    Recipe,
    compare,
    distil,
    embedded_features,
    embedding_losses,
    kept_filters,
    main,
    pruned,
    rate,
    split,
    tap_rms,
)
from stylemodels.vgg import VGG_WIDTHS
from stylemodels.weights import metadata, shipped_bytes, shipped_tensors
from tests import images

TEACHER_WIDTHS = (6, 8, 10, 12, 12)
STUDENT_WIDTHS = (4, 6, 8, 8, 8)
EMBEDDED_WIDTHS = (8, 12, 16, 20, 20)
TOY = Recipe(widths=STUDENT_WIDTHS, steps=50, batch_size=4, crop=32, lr=1e-2, warmup=5, bfloat16=False)


def layers() -> list[tuple[str, int]]:
    """Convolutions with their blocks, in order."""
    return [(f"conv{block}{index}", block) for block in range(1, 6) for index in range(1, SMALL_DEPTHS[block - 1] + 1)]


@torch.no_grad()
def toy_teacher() -> SmallNetwork:
    """Random, with a usable spread of activations; conv0 as in the published networks."""
    teacher = SmallNetwork(TEACHER_WIDTHS, EMBEDDED_WIDTHS).requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    for name, parameter in teacher.named_parameters():
        scale = 0.1 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5
        parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
        if name == "conv11.weight":
            parameter.mul_(1 / 128)
    teacher.conv0.weight.copy_(255 * torch.eye(3).flip(0).view(3, 3, 1, 1))
    teacher.conv0.bias.copy_(torch.tensor([-103.939, -116.779, -123.68]))
    return teacher


@pytest.fixture(scope="module")
def teacher() -> SmallNetwork:
    return toy_teacher()


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    return [decode(images.png(96, 80, seed)) for seed in range(6)]


@pytest.fixture(scope="module")
def trained(teacher, pictures) -> tuple[SmallNetwork, list[float]]:
    losses: list[float] = []
    student = distil(teacher, pictures, TOY, lambda step, terms: losses.append(float(terms.sum())))
    return student, losses


# --- pruning ---


def test_the_filters_with_the_largest_l1_norms_are_kept():
    weight = torch.zeros(5, 2, 3, 3)
    for index, size in enumerate((3.0, -9.0, 1.0, 4.0, -2.0)):
        weight[index, index % 2, 1, 1] = size
    assert kept_filters(weight, 3).tolist() == [0, 1, 3]


def test_pruning_keeps_the_strongest_filters_and_what_they_feed(teacher):
    student = pruned(teacher, STUDENT_WIDTHS)
    own, whole = student.state_dict(), teacher.state_dict()
    inputs = [0, 1, 2]
    for name, block in layers():
        norms = [float(filter.abs().sum()) for filter in whole[f"{name}.weight"]]
        strongest = sorted(range(len(norms)), key=lambda index: -norms[index])[: STUDENT_WIDTHS[block - 1]]
        kept = sorted(strongest)
        assert torch.equal(own[f"{name}.weight"], whole[f"{name}.weight"][kept][:, inputs])
        assert torch.equal(own[f"{name}.bias"], whole[f"{name}.bias"][kept])
        if name.endswith("1"):
            assert torch.equal(own[f"{name}_aux.weight"], whole[f"{name}_aux.weight"][:, kept])
            assert torch.equal(own[f"{name}_aux.bias"], whole[f"{name}_aux.bias"])
        inputs = kept
    assert torch.equal(own["conv0.weight"], whole["conv0.weight"])


def test_the_first_layer_of_a_pruned_network_is_the_teacher_s_at_these_channels(teacher):
    picture = load_picture(images.png(48, 48))
    kept = kept_filters(teacher.get_submodule("conv11").weight, STUDENT_WIDTHS[0])
    assert torch.equal(pruned(teacher, STUDENT_WIDTHS)(picture, 1)[0], teacher(picture, 1)[0][:, kept])


def test_a_block_may_keep_its_width(teacher):
    widths = (TEACHER_WIDTHS[0], *STUDENT_WIDTHS[1:])
    student = pruned(teacher, widths)
    picture = load_picture(images.png(48, 48))
    assert torch.equal(embedded_features(student, picture)[0], embedded_features(teacher, picture)[0]), "a copy"


def test_the_teacher_s_own_widths_are_refused_and_wider_ones_too(teacher):
    with pytest.raises(ValueError, match="are the teacher's own: pruning to them would be a copy"):
        pruned(teacher, TEACHER_WIDTHS)
    with pytest.raises(ValueError, match="exceed the teacher's"):
        pruned(teacher, (6, 8, 10, 12, 13))


# --- training ---


def test_the_loss_falls_by_half_and_more(trained):
    _, losses = trained
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_conv0_stays_bit_for_bit_and_everything_else_learns(teacher, trained):
    student, _ = trained
    start = pruned(teacher, STUDENT_WIDTHS).state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith("conv0."), name


def test_the_teacher_does_not_change(teacher, trained):
    for name, tensor in toy_teacher().state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor)


def test_the_same_seed_gives_the_same_student_and_another_seed_another(teacher, pictures):
    def weights(seed: int) -> Tensor:
        recipe = Recipe(widths=STUDENT_WIDTHS, steps=3, batch_size=2, crop=32, warmup=1, seed=seed)
        return distil(teacher, pictures, recipe, lambda step, terms: None).get_submodule("conv21").weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_loss_is_the_mean_square_error_over_the_teacher_s_mean_square():
    random = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(2, 3, 4, 5, generator=random) for _ in range(5)] for _ in range(2))
    squares = torch.stack([features.square().mean() for features in teacher])
    losses = embedding_losses(student, teacher, squares)
    for loss, own, other in zip(losses, student, teacher, strict=True):
        expected = ((own - other).double().numpy() ** 2).sum() / (other.double().numpy() ** 2).sum()
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_rate_rises_and_then_falls_to_nothing():
    recipe = Recipe(steps=1000, warmup=100)
    rates = [rate(step, recipe) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == rates[100] == 1
    assert rates[550] == pytest.approx(0.5)
    assert rates[1000] == pytest.approx(0)
    assert sorted(rates[100:], reverse=True) == rates[100:]


def test_crops_come_at_full_and_half_scale_and_too_small_pictures_are_refused(pictures):
    crops = Crops(pictures, TOY)
    assert crops.at(0).shape == (4, 3, 32, 32)
    assert torch.equal(crops.at(3), Crops(pictures, TOY).at(3))
    assert [half.shape for _, half in crops.scales] == [(3, 40, 48)] * 6
    with pytest.raises(ValueError, match="must have 192 px at least, one has 80"):
        Crops(pictures, Recipe())


# --- the report ---


def test_the_figures_are_the_pooled_ones(teacher, pictures):
    student = pruned(teacher, STUDENT_WIDTHS).requires_grad_(False)
    own = [embedded_features(student, to_float(p)[None])[3][0].flatten(1).double() for p in pictures]
    other = [embedded_features(teacher, to_float(p)[None])[3][0].flatten(1).double() for p in pictures]
    f, t = torch.cat(own, 1), torch.cat(other, 1)
    grams = [[x.relu() @ x.relu().T / x.shape[1] for x in features] for features in (own, other)]

    figures = compare(student, teacher, pictures)["relu4_1"]
    assert figures.error == pytest.approx(float((f - t).square().sum() / t.square().sum()), rel=1e-4)
    centred = t - t.mean(1, keepdim=True)
    assert figures.centred_error == pytest.approx(float((f - t).square().sum() / centred.square().sum()), rel=1e-3)
    relu_error = (f.relu() - t.relu()).square().sum() / t.relu().square().sum()
    assert figures.relu_error == pytest.approx(float(relu_error), rel=1e-4)
    gram_errors = sum(float((a - b).square().sum()) for a, b in zip(*grams, strict=True))
    gram_squares = sum(float(b.square().sum()) for b in grams[1])
    assert figures.gram_error == pytest.approx(gram_errors / gram_squares, rel=1e-4)
    assert figures.mean_activation == pytest.approx(float(f.relu().mean()), rel=1e-4)


def test_a_network_compared_with_itself_has_no_error(teacher, pictures):
    assert {figures.error for figures in compare(teacher, teacher, pictures).values()} == {0.0}


def test_tap_rms_makes_the_root_mean_square_of_every_tap_one(teacher, pictures):
    rms = tap_rms(teacher, pictures)
    features = [teacher(to_float(picture)[None]) for picture in pictures]
    for block in range(5):
        pooled = torch.cat([taps[block].flatten() for taps in features])
        assert_close((pooled / rms[block]).square().mean().sqrt(), torch.ones(()), rtol=1e-4, atol=0.0)


def test_every_tenth_picture_by_digest_is_held_out(tmp_path):
    images.write_photographs(tmp_path, 21)
    source = FolderSource(tmp_path)
    train, held_out = split(source)
    assert len(train) == 18
    for picture, index in zip(held_out, (0, 10, 20), strict=True):
        assert torch.equal(picture, decode(source.read(index)))


def test_the_command_writes_a_file_that_loads_and_says_how_it_was_made(tmp_path, capsys):
    """A teacher of the published shape, random; two steps."""
    torch.manual_seed(0)
    save_tensors(SmallNetwork((16, 32, 64, 128, 128)).state_dict(), tmp_path / "teacher.safetensors")
    images.write_photographs(tmp_path / "photos", 3, width=240, height=200)
    out = tmp_path / "small.safetensors"
    photos = tmp_path / "photos"
    files = [
        f"--teacher={tmp_path / 'teacher.safetensors'}",
        f"--content={photos}",
        f"--paintings={photos}",
        f"--out={out}",
    ]
    main([*files, "--steps=2", "--seed=7"])

    assert SmallNetwork.of(load_tensors(out)).widths == SMALL_WIDTHS
    about = metadata(out)
    assert json.loads(about["recipe"])["seed"] == 7
    assert set(json.loads(about["figures"])) == {"held_out", "paintings"}
    assert str(tmp_path) not in json.dumps(about), "no path of a machine"
    printed = capsys.readouterr().out
    assert printed.startswith("step 1: ")
    assert '"centred_error"' in printed


# --- the file that ships ---


def test_the_shipped_encoder_has_its_widths_and_574_124_parameters_with_its_embeddings():
    network = SmallNetwork.of(shipped_tensors())
    assert network.widths == SMALL_WIDTHS == (16, 24, 48, 96, 96)
    assert sum(parameter.numel() for parameter in network.parameters()) == 574_124
    picture = load_picture(images.jpeg(160, 128, quality=95))
    assert [tap.shape[1] for tap in embedded_features(network, picture)] == list(VGG_WIDTHS)


def test_the_shipped_encoder_is_as_near_to_its_teacher_as_was_aimed_at(tmp_path):
    aims = {"relu1_1": 0.01, "relu2_1": 0.03, "relu3_1": 0.08, "relu4_1": 0.06, "relu5_1": 0.18}
    (tmp_path / "small.safetensors").write_bytes(shipped_bytes())
    figures = json.loads(metadata(tmp_path / "small.safetensors")["figures"])
    assert {tap: figures["held_out"][tap]["error"] <= aim for tap, aim in aims.items()} == dict.fromkeys(aims, True)
    assert set(figures["paintings"]) == set(aims)
