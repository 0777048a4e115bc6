"""Linear transformation: losses, training and the filter; checks 6 to 9 and 15 of paper 09."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.method import Base, Style
from stylemodels.methods.linear import PhotoControls, StylizeControls, TrainConfig, style_term
from stylemodels.raster import Raster
from stylemodels.settings import build
from tests.stylemodels.linear_models import model, model_of, trained, with_filter
from tests.stylemodels.toy import advance, base_of, batch_of, paintings, photos, same, small_run, small_task


def features(*shape: int, seed: int = 0) -> Tensor:
    """Like an encoder's: not negative, mean near 1."""
    return 1.25 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).abs()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_check_6_the_style_term_is_the_paper_s(reduction: str):
    output, style = features(3, 5, 6, 7).numpy(), features(3, 5, 4, 9, seed=1).numpy()

    def statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = values.reshape(5, -1)
        return flat.mean(1), flat @ flat.T / flat.size

    total = 0.0
    for own, target in zip(output, style, strict=True):
        for mine, other in zip(statistics(own), statistics(target), strict=True):
            squares = (mine - other) ** 2
            total += float(squares.sum() if reduction == "sum" else squares.mean())
    got = style_term(torch.from_numpy(output), torch.from_numpy(style), reduction)
    assert got.item() == pytest.approx(total / 3, rel=1e-5)


def test_check_6_terms_are_weighted_and_summed_over_their_layers():
    settings = {"content_layers": ["relu3_1", "relu4_1"], "content_weight": 0.5, "style_weight": 0.25}
    task = small_task("linear/train", **settings)
    task.begin("transform", 0)
    batch = batch_of(task.streams())
    terms = task(batch)
    taps = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    with torch.no_grad():
        content, style = task.encoder(batch["content"], taps), task.encoder(batch["style"], taps)
        output = task.encoder(task.decoder(task.transform(content["relu3_1"], style["relu3_1"])), taps)
    content_loss = sum(float((output[tap] - content[tap]).square().mean()) for tap in taps[2:])
    style_loss = sum(float(style_term(output[tap], style[tap], "sum")) for tap in taps)
    assert terms["content_loss"].item() == pytest.approx(0.5 * content_loss, rel=1e-5)
    assert terms["style_loss"].item() == pytest.approx(0.25 * style_loss, rel=1e-5)


def test_check_7_the_gradient_reaches_the_module_and_nothing_else():
    run = small_run("linear/train", decoder_steps=2)
    advance(run, 2)
    before = {name: p.detach().clone() for name, p in run.task.named_parameters()}
    terms = run.task(batch_of(run.streams(), 2))
    gradients = run.task.gradients(torch.stack(list(terms.values())).sum()).values
    transform = dict(run.task.transform.named_parameters())
    assert {name.partition(".")[0] for name in transform} == {"compress", "unzip", "cnet", "snet"}
    assert gradients.keys() == set(transform.values())
    assert all(gradient.count_nonzero() for gradient in gradients.values())
    advance(run, 1)
    for name, parameter in run.task.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("transform."), name


def test_check_8_the_rate_falls_as_published():
    task = small_task("linear/train", lr=1e-4)
    assert task.config.lr_decay == 1e-5
    for phase in ("decoder", "transform"):
        for step, rate in ((0, 1e-4), (100_000, 5e-5)):
            task.begin(phase, step)
            assert task.config.lr * task.lr_scale(phase) == pytest.approx(rate)


def test_check_9_in_short_the_style_loss_falls():
    terms = trained().terms
    assert all(np.isfinite(list(step.values())).all() for step in terms)
    assert sum(t["style_loss"] for t in terms[-9:]) < 0.75 * sum(t["style_loss"] for t in terms[:9])


@pytest.mark.slow
def test_check_9_the_style_loss_falls_by_more_than_half_and_the_content_stays():
    settings = {
        "encoder": "small-narrow",
        "layer": "r31",
        "matrix_size": 32,
        "content_size": 128,
        "style_size": 128,
        "load_size": 128,
        "batch_size": 4,
        "lr": 1e-3,
    }
    run = small_run("linear/train", decoder_steps=200, steps=320, **settings)
    advance(run, 200)
    pictures = {"content": photos(6, 128), "style": paintings(6, 128)}
    chosen = torch.Generator().manual_seed(0)
    terms = []
    for _ in range(320):
        pairs = [torch.randperm(6, generator=chosen)[:4] for _ in pictures]
        batch = {name: all_six[pick] for (name, all_six), pick in zip(pictures.items(), pairs, strict=True)}
        terms.append(run.advance(batch))

    def mean(term: str, start: int) -> float:
        return sum(step[term] for step in terms[start : start + 20]) / 20

    assert mean("style_loss", 200) < 0.6 * mean("style_loss", 0)
    assert mean("style_loss", 300) < 0.45 * mean("style_loss", 0)
    assert mean("content_loss", 300) < 1.2 * mean("content_loss", 0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layer": "r51"}, "layer"),
        ({"style_layers": ["relu4_2"]}, "style_layers"),
        ({"content_layers": ["relu6_1"]}, "content_layers"),
        ({"matrix_size": 3}, "matrix_size"),
    ],
)
def test_check_15_unknown_layers_and_sizes_are_refused(settings: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        build(TrainConfig, settings)


def test_check_15_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="matrix_size: 64 was given, but encoder random has 32 channels at r31"):
        small_task("linear/train", matrix_size=64)
    with pytest.raises(ValueError, match="style_layers: none was given"):
        small_task("linear/train", style_layers=[])
    with pytest.raises(ValueError, match="decoder_steps: 0 was given without a base model"):
        small_run("linear/train", decoder_steps=0)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_check_15_alpha_lies_between_0_and_1(alpha: float):
    with pytest.raises(ValueError, match="alpha"):
        model().stylize(photos(1, 48), [Style(paintings(1, 40))], {"alpha": alpha})


def test_a_base_model_brings_the_decoder_and_its_phase_is_passed_over():
    base = base_of(trained().task, "linear/train")
    run = small_run("linear/train", base=base, decoder_steps=None, steps=3, matrix_size=4)
    assert (run.task.phase, run.total_steps) == ("transform", 3)
    advance(run, 3)
    assert same(run.task.decoder.state_dict(), trained().task.decoder.state_dict())
    assert small_run("linear/train", base=base, decoder_steps=2, steps=3).task.phase == "decoder"


def test_a_filter_model_holds_all_that_photographs_need():
    tensors = with_filter().model_tensors()
    assert {name.partition(".")[0] for name in tensors} == {"decoder", "transform", "spn"}
    assert same({n: v for n, v in tensors.items() if not n.startswith("spn.")}, trained().task.model_tensors())
    run = small_run("linear/train-filter", base=base_of(trained().task, "linear/train"))
    assert {name.partition(".")[0] for name in run.snapshot().weights} == {"spn"}, "a checkpoint repeats no base model"


def test_the_filter_s_loss_is_the_summed_squared_error_of_the_filtered_reconstruction():
    batch = batch_of(with_filter().streams())
    photo = batch["content"]
    distorted = with_filter().decoder(with_filter().encode(photo))
    guide = torch.cat([whitened(one) for one in photo])
    expected = (with_filter().spn(distorted, guide) - photo).square().sum()
    assert with_filter()(batch)["filter_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def whitened(picture: Tensor) -> Tensor:
    """(3, H, W) -> (1, 3, H, W)."""
    flat = picture.flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(flat) + torch.eye(3))
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    return (root @ (flat - flat.mean(1, keepdim=True))).view(1, *picture.shape).float()


def test_a_photo_is_filtered_then_smoothed_and_an_image_is_neither():
    content, styles = photos(1, 48), [Style(paintings(1, 40))]
    transfer = with_filter().stylize(content, styles, PhotoControls(mode="image"))
    photo = with_filter().stylize(content, styles, PhotoControls(smooth_radius=4))
    filtered = with_filter().stylize(content, styles, PhotoControls(smooth_radius=0))
    smooth = with_filter().stylize(content, styles, PhotoControls(smooth_radius=4, spn=False))
    assert transfer.maps == {}
    assert torch.equal(photo.maps["transfer"], transfer.image)
    assert torch.equal(photo.maps["filtered"], filtered.image)
    with torch.inference_mode():
        expected = with_filter().spn(transfer.image, whitened(content[0])).clamp(0, 1)
    assert_close(filtered.image, expected, rtol=0, atol=1e-5)
    assert torch.equal(smooth.maps["filtered"], transfer.image.clamp(0, 1))
    assert not torch.equal(photo.image, smooth.image)


def test_a_photo_is_not_drawn_in_tiles_but_an_image_is(tmp_path: Path):
    source, target = (Raster(tmp_path / name, 64, 64) for name in ("source", "target"))
    source.write(0, 0, photos(1, 64))
    styles = [Style(paintings(1, 40))]
    with pytest.raises(ValueError, match="tile: in mode photo colours flow over the whole picture"):
        with_filter().stylize_tiles(source, target, styles, PhotoControls(), tile=48)
    with_filter().stylize_tiles(source, target, styles, PhotoControls(mode="image"), tile=48)
    whole = with_filter().stylize(photos(1, 64), styles, PhotoControls(mode="image")).image
    assert_close(target.read(0, 0, 64, 64), whole, rtol=0, atol=1e-5)


ODD_PICTURES = {
    "one pixel": torch.full((1, 3, 1, 1), 0.7),
    "constant": torch.full((1, 3, 40, 40), 0.2),
    "a strip": photos(1, 320)[..., :16, :],
    "odd sides": photos(1, 61)[..., :45, :],
}


@pytest.mark.parametrize("picture", ODD_PICTURES.values(), ids=ODD_PICTURES)
@pytest.mark.parametrize("photo", [False, True])
def test_odd_pictures_give_finite_ones(picture: Tensor, photo: bool):
    drawing = model_of(with_filter(), "linear/train-filter") if photo else model()
    assert drawing.stylize(photos(1, 45)[..., :33, :], [Style(picture)]).isfinite().all()
    if min(picture.shape[-2:]) >= 16:
        result = drawing.stylize(picture, [Style(paintings(1, 40))])
        assert result.shape == picture.shape
        assert result.isfinite().all()


def test_onnx_is_told_the_transfer_but_not_the_filter():
    form = trained().task.onnx_form()
    content, style = photos(1, 48), paintings(1, 40)
    assert_close(form(content, style), trained().task.stylize(content, [Style(style)], StylizeControls()).image)
    assert "recurrence" in with_filter().onnx_form()


def test_a_base_model_of_another_layer_is_refused():
    base = base_of(trained().task, "linear/train")
    other = Base(base.method, base.task, {**base.config, "layer": "r41"}, base.tensors)
    with pytest.raises(ValueError, match="is missing"):
        small_task("linear/train", base=other, layer="r41")
