"""Taps, widths and strides of the encoders, what passes through them, and what stands in for what."""

import hashlib
import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.testing import assert_close

from stylemodels.encoders import RANDOM_WIDTHS, SMALL_WIDTHS, encoders_description, load_encoder, stand_in
from stylemodels.images import load_picture
from stylemodels.vgg import (
    VGG16_DEPTHS,
    VGG19_DEPTHS,
    VGG_WIDTHS,
    Vgg,
    calibration_pictures,
    normalise,
    torchvision_names,
    vgg_channels,
)
from stylemodels.weights import Weights
from tests import images

READY = ("random", "small", "small-narrow")
SMALL_TAPS = [f"relu{block}_1" for block in range(1, 6)]


def photo(width: int = 64, height: int = 48, seed: int = 0) -> Tensor:
    return load_picture(images.png(width, height, seed))


@pytest.fixture(scope="module", params=READY)
def encoder(request):
    return load_encoder(request.param)


def test_every_tap_has_the_promised_channels_and_stride_and_is_never_negative(encoder):
    features = encoder(photo(96, 64), list(encoder.channels))
    assert list(features) == list(encoder.channels)
    for tap, values in features.items():
        stride = 2 ** (int(tap[4]) - 1)
        assert values.shape == (1, encoder.channels[tap], 64 // stride, 96 // stride)
        assert values.min() >= 0
        assert values.isfinite().all()


def test_taps_come_in_the_order_asked_for_and_are_the_same_alone(encoder):
    picture = photo()
    together = encoder(picture, ["relu4_1", "relu1_1"])
    assert list(together) == ["relu4_1", "relu1_1"]
    for tap, values in together.items():
        assert torch.equal(encoder(picture, [tap])[tap], values)


def test_nothing_is_computed_behind_the_deepest_tap(encoder):
    encoder = deepcopy(encoder)
    convolutions = [m for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d) and "aux" not in n]
    for module in convolutions[-3:]:
        module.weight.fill_(float("nan"))
    assert encoder(photo(), ["relu3_1"])["relu3_1"].isfinite().all()
    assert encoder(photo(), []) == {}


def test_no_parameter_learns_and_gradients_reach_the_picture_twice():
    encoder = load_encoder("random")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training
    picture = photo(32, 32).double().requires_grad_()
    encoder.double()
    (first,) = torch.autograd.grad(encoder(picture, ["relu2_1"])["relu2_1"].square().sum(), picture, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), picture)

    direction = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-5

    def gradient_square(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(encoder(x, ["relu2_1"])["relu2_1"].square().sum(), x)
        return gradient.square().sum()

    numeric = (gradient_square(picture + step * direction) - gradient_square(picture - step * direction)) / (2 * step)
    assert_close((second * direction).sum(), numeric, rtol=1e-3, atol=0.0)


def test_an_unknown_tap_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no tap 'relu1_2'; it has relu1_1, relu2_1"):
        load_encoder("small")(photo(), ["relu1_2"])


def test_too_small_a_picture_is_refused(encoder):
    with pytest.raises(ValueError, match="at least 32 px for relu5_1, this one's is 16"):
        encoder(torch.rand(1, 3, 16, 40), ["relu1_1", "relu5_1"])
    assert encoder(torch.rand(1, 3, 32, 40), ["relu5_1"])["relu5_1"].shape[-2:] == (2, 2)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="no encoder 'vgg11'; there are vgg19, vgg16"):
        load_encoder("vgg11")


# --- random ---


def test_random_has_an_eighth_of_vgg_s_widths_and_mean_activation_one():
    encoder = load_encoder("random")
    assert encoder.channels == {tap: width // 8 for tap, width in vgg_channels(VGG19_DEPTHS, VGG_WIDTHS).items()}
    features = encoder(calibration_pictures().float(), list(encoder.channels))
    for values in features.values():
        assert_close(values.mean((0, 2, 3)), torch.ones(values.shape[1]), rtol=2e-3, atol=0.0)


def test_random_tells_pictures_apart():
    encoder = load_encoder("random")
    one, other = (encoder(photo(seed=seed), ["relu4_1"])["relu4_1"] for seed in (1, 2))
    assert (one > 0).float().mean() > 0.2, "its filters are alive"
    assert (one - other).abs().mean() > 0.3 * one.mean()


def test_random_is_the_same_in_every_process_and_with_any_number_of_threads():
    program = (
        "import hashlib, torch; torch.set_num_threads(torch.get_num_threads() % 2 + 1);"
        "from stylemodels.encoders import load_encoder; parts = load_encoder('random').parameters();"
        "print(hashlib.sha256(b''.join(p.numpy().tobytes() for p in parts)).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = b"".join(parameter.numpy().tobytes() for parameter in load_encoder("random").parameters())
    assert elsewhere.strip() == hashlib.sha256(here).hexdigest()


def test_padding_and_pooling_are_what_was_asked_for():
    constant = torch.full((1, 3, 32, 32), 0.7)
    reflecting = load_encoder("random")(constant, ["relu3_1"])["relu3_1"]
    assert reflecting.std((2, 3)).max() < 1e-4 * reflecting.max(), "a reflected constant has no border"
    zero = load_encoder("random", padding="zero")(constant, ["relu3_1"])["relu3_1"]
    assert zero.std((2, 3)).max() > 0.01 * zero.max()

    picture = photo()
    strongest = load_encoder("random", pooling="max")(picture, ["relu2_1"])["relu2_1"]
    average = load_encoder("random", pooling="avg")(picture, ["relu2_1"])["relu2_1"]
    assert not torch.allclose(strongest, average)


# --- the small encoders ---


def test_small_has_vgg_s_widths_and_small_narrow_its_own():
    assert load_encoder("small").channels == dict(zip(SMALL_TAPS, VGG_WIDTHS, strict=True))
    assert load_encoder("small-narrow").channels == dict(zip(SMALL_TAPS, SMALL_WIDTHS, strict=True))


def test_small_answers_with_mean_activation_near_one_and_small_narrow_with_root_mean_square_near_one():
    # Generated pictures are not photographs: the card has the figures for those.
    pictures = torch.cat([photo(128, 96, seed) for seed in range(4)])
    for values in load_encoder("small")(pictures, SMALL_TAPS).values():
        assert 0.5 < values.mean() < 1.5
    for values in load_encoder("small-narrow")(pictures, SMALL_TAPS).values():
        assert 0.5 < values.square().mean().sqrt() < 1.5


def test_small_is_the_embedding_of_small_narrow():
    picture = photo()
    small, narrow = load_encoder("small"), load_encoder("small-narrow")
    own = narrow(picture, SMALL_TAPS)
    for block, (tap, embedded) in enumerate(small(picture, SMALL_TAPS).items(), start=1):
        q = small.network.small.get_submodule(f"conv{block}1_aux")
        raw = own[tap] * narrow.network.tap_rms[block - 1]
        assert_close(embedded, conv2d(raw, q.weight, q.bias).relu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choice", [{"padding": "zero"}, {"pooling": "avg"}])
def test_small_has_the_padding_and_pooling_it_was_trained_with(choice):
    with pytest.raises(ValueError, match="padding reflect and pooling max"):
        load_encoder("small", **choice)
    assert load_encoder("small", padding="reflect", pooling="max").name == "small"


# --- VGG ---


def write_vgg(folder: Path, name: str, depths: tuple[int, ...]) -> None:
    """A safetensors file with torchvision's names and shapes, and weights of no meaning."""
    network = Vgg(depths, VGG_WIDTHS, padding="zero", pooling="max")
    state = network.convolutions.state_dict()
    names = torchvision_names(depths)
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for ours, theirs in names.items():
        shape = state[f"{ours}.weight"].shape
        scale = (2 / shape[1:].numel()) ** 0.5
        tensors[f"{theirs}.weight"] = torch.randn(shape, generator=random) * scale
        tensors[f"{theirs}.bias"] = torch.rand(shape[0], generator=random) * 0.1
    save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def vgg_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_vgg(folder, "vgg16", VGG16_DEPTHS)
    write_vgg(folder, "vgg19", VGG19_DEPTHS)
    return folder


def test_torchvision_s_names_count_convolutions_relus_and_poolings():
    assert list(torchvision_names(VGG16_DEPTHS).values()) == [
        f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    ]
    assert list(torchvision_names(VGG19_DEPTHS).values())[-1] == "features.34"


def test_vgg16_up_to_relu4_3_has_7_635_264_parameters():
    with torch.device("meta"):
        network = Vgg(VGG16_DEPTHS, VGG_WIDTHS, padding="zero", pooling="max")
    taps = list(network.convolutions)
    counted = [network.convolutions[name] for name in taps[: taps.index("conv4_3") + 1]]
    assert sum(parameter.numel() for layer in counted for parameter in layer.parameters()) == 7_635_264
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_714_688


def test_vgg16_computes_what_torchvision_s_layers_do(vgg_folder):
    encoder = load_encoder("vgg16", Weights(vgg_folder))
    layers = nn.Sequential()
    for block, depth in enumerate(VGG16_DEPTHS, start=1):
        for index in range(1, depth + 1):
            own = encoder.network.convolutions[f"conv{block}_{index}"]
            convolution = nn.Conv2d(own.in_channels, own.out_channels, 3, padding=1)
            convolution.load_state_dict(own.state_dict())
            layers.extend([convolution, nn.ReLU()])
        layers.append(nn.MaxPool2d(2))
    picture = photo()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = layers[:23]((picture - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert_close(encoder(picture, ["relu4_3"])["relu4_3"], expected, rtol=1e-4, atol=1e-5)


def test_weights_go_where_torchvision_s_names_say(vgg_folder):
    tensors = load_file(vgg_folder / "vgg19.safetensors")
    encoder = load_encoder("vgg19", Weights(vgg_folder))
    assert torch.equal(encoder.network.convolutions["conv3_4"].weight, tensors["features.16.weight"])
    assert torch.equal(encoder.network.convolutions["conv5_1"].bias, tensors["features.28.bias"])


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "vgg19-normalised"])
def test_without_weights_vgg_says_what_to_do(name, tmp_path):
    file = "vgg16-397923af.pth" if name == "vgg16" else "vgg19-dcbb9e9d.pth"
    for weights in (None, Weights(tmp_path)):
        with pytest.raises(ValueError, match="needs its weights") as refusal:
            load_encoder(name, weights)
        for part in ("stylefoundry weights add", file, "encoder small"):
            assert part in str(refusal.value)


def test_weights_of_another_network_are_refused(vgg_folder, tmp_path):
    (tmp_path / "vgg19.safetensors").write_bytes((vgg_folder / "vgg16.safetensors").read_bytes())
    with pytest.raises(ValueError, match="not the weights of vgg19"):
        load_encoder("vgg19", Weights(tmp_path))


def test_normalising_gives_every_live_filter_mean_one_and_keeps_what_the_network_computes():
    network = Vgg(VGG19_DEPTHS, RANDOM_WIDTHS, padding="reflect", pooling="max")
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim == 1 else 2 / parameter[0].numel() ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=random) * spread)
        network.convolutions["conv2_1"].weight[3].zero_()
        network.convolutions["conv2_1"].bias[3] = -1.0
    pictures = calibration_pictures()
    taps = ["relu1_2", "relu2_1", "relu4_1"]
    before = network(pictures.float(), taps)
    normalise(network, pictures)
    after = network(pictures.float(), taps)
    for tap in taps:
        alive = before[tap].mean((0, 2, 3)) > 0
        means = before[tap].mean((0, 2, 3), keepdim=True)
        assert_close(after[tap].mean((0, 2, 3))[alive], torch.ones(int(alive.sum())), rtol=2e-3, atol=0.0)
        assert_close((after[tap] * means)[:, alive], before[tap][:, alive], rtol=2e-3, atol=2e-3)
    assert after["relu2_1"][:, 3].max() == 0, "a dead filter stays as it is"


def test_vgg19_normalised_is_vgg19_rescaled_and_reflects(vgg_folder):
    encoder = load_encoder("vgg19-normalised", Weights(vgg_folder))
    plain = load_encoder("vgg19", Weights(vgg_folder), padding="reflect")
    pictures = calibration_pictures().float()
    features = encoder(pictures, ["relu1_1", "relu4_1"])
    for values in features.values():
        means = values.mean((0, 2, 3))
        assert_close(means[means > 0], torch.ones(int((means > 0).sum())), rtol=2e-3, atol=0.0)
    one, other = features["relu4_1"][:, 0], plain(pictures, ["relu4_1"])["relu4_1"][:, 0]
    assert_close(one * other.mean(), other, rtol=5e-3, atol=1e-3)


# --- what stands in for what ---


@pytest.mark.parametrize(
    ("tap", "role", "expected"),
    [
        ("relu1_2", "style", "relu1_1"),
        ("relu2_2", "style", "relu2_1"),
        ("relu3_3", "style", "relu3_1"),
        ("relu4_3", "style", "relu4_1"),
        ("relu2_2", "content", "relu3_1"),
        ("relu3_3", "content", "relu4_1"),
        ("conv4_2", "content", "relu4_1"),
        ("relu4_1", "content", "relu4_1"),
        ("relu5_1", "style", "relu5_1"),
    ],
)
def test_the_small_encoders_replace_taps_that_they_lack(tap, role, expected):
    assert stand_in("small", tap, role) == expected
    assert stand_in("small-narrow", tap, role) == expected


def test_other_encoders_give_what_is_asked_for_or_refuse():
    assert stand_in("vgg16", "relu3_3", "style") == "relu3_3"
    assert stand_in("random", "conv4_2", "content") == "relu4_2", "taps are taken after the ReLU"
    with pytest.raises(ValueError, match="vgg16 has no tap 'relu3_4'"):
        stand_in("vgg16", "relu3_4", "style")
    with pytest.raises(ValueError, match="small has no tap 'relu6_1'"):
        stand_in("small", "relu6_1", "style")


def test_the_description_is_json_and_agrees_with_the_encoders(encoder):
    description = json.loads(json.dumps(encoders_description()))
    assert list(description) == ["vgg19", "vgg16", "vgg19-normalised", "small", "small-narrow", "random"]
    own = description[encoder.name]
    assert own["taps"] == encoder.channels
    assert own["needs_weights"] is None
    assert description["vgg19-normalised"]["needs_weights"] == "vgg19"
    for role, replaced in own["stand_ins"].items():
        for tap, other in replaced.items():
            assert stand_in(encoder.name, tap, role) == other
            assert other in encoder.channels
    for padding in own["padding"]:
        assert load_encoder(encoder.name, padding=padding).name == encoder.name
