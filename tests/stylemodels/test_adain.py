"""Adaptive instance normalization: the loss against its equations, controls, masks, tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.exchange import AdaINForm
from stylemodels.features import adain
from stylemodels.method import Style
from stylemodels.methods.adain import StylizeControls, Train
from stylemodels.raster import Raster
from stylemodels.whitening import Moments, adain_map
from tests.stylemodels.toy import batch_of, paintings, photos, small_run, small_task

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


def task() -> Train:
    made = small_task("adain/train")
    assert isinstance(made, Train)
    made.eval().requires_grad_(False)
    return made


def stylized(task: Train, content: Tensor, styles: list[Style], alpha: float = 1.0) -> Tensor:
    image = task.stylize(content, styles, StylizeControls(alpha=alpha)).image
    assert image is not None
    return image


def test_the_loss_agrees_with_equations_11_to_13_in_float64():
    adain_task = task().double()
    batch = {name: pictures.double() for name, pictures in batch_of(adain_task.streams()).items()}
    terms = adain_task(batch)

    content, style = (adain_task.encoder(batch[name], TAPS) for name in ("content", "style"))
    c, s = content["relu4_1"].flatten(2), style["relu4_1"].flatten(2)
    centred = c - c.mean(2, keepdim=True)
    spread = ((centred**2).mean(2, keepdim=True) + 1e-5).sqrt()
    wanted = ((s - s.mean(2, keepdim=True)) ** 2).mean(2, keepdim=True).add(1e-5).sqrt()
    target = (centred / spread * wanted + s.mean(2, keepdim=True)).view_as(content["relu4_1"])
    output = adain_task.encoder(adain_task.decoder(target), TAPS)
    expected = ((output["relu4_1"] - target) ** 2).mean()
    assert_close(terms["content_loss"], expected, rtol=1e-9, atol=1e-12)
    style_loss = torch.zeros((), dtype=torch.float64)
    for tap in TAPS:
        o, s = output[tap].flatten(2), style[tap].flatten(2)
        stds = [(x.var(2, correction=0) + 1e-5).sqrt() for x in (o, s)]
        style_loss = style_loss + ((o.mean(2) - s.mean(2)) ** 2).mean() + ((stds[0] - stds[1]) ** 2).mean()
    assert_close(terms["style_loss"], 10 * style_loss, rtol=1e-9, atol=1e-12)


def test_the_rate_decays_as_published():
    run = small_run("adain/train", lr=1e-4)
    for step, rate in ((0, 1e-4), (20_000, 5e-5), (160_000, 1e-4 / 9)):
        run.task.step = step
        assert 1e-4 * run.task.lr_scale("decoder") == pytest.approx(rate, rel=1e-12)


def test_alpha_0_decodes_the_content_s_own_features():
    adain_task, content = task(), photos(1, 48)
    own = adain_task.encoder(content, ["relu4_1"])["relu4_1"]
    assert torch.equal(stylized(adain_task, content, [Style(paintings(1, 40))], 0.0), adain_task.decoder(own))


def test_styles_mix_by_weight_and_by_mask():
    adain_task, content = task(), photos(1, 128)
    first, second = torch.split(paintings(2, 48), 1)
    alone = [stylized(adain_task, content, [Style(picture)]) for picture in (first, second)]
    whole = stylized(adain_task, content, [Style(first, 1.0), Style(second, 0.0)])
    assert_close(whole, alone[0], rtol=1e-4, atol=1e-4)

    left = torch.zeros(1, 1, 128, 128)
    left[..., :64] = 1
    parted = stylized(adain_task, content, [Style(first, mask=left), Style(second, mask=1 - left)])
    # the decoder looks four cells, 32 px, beyond its own
    assert_close(parted[..., :32], alone[0][..., :32], rtol=1e-4, atol=1e-4)
    assert_close(parted[..., 96:], alone[1][..., 96:], rtol=1e-4, atol=1e-4)


def test_adain_as_an_affine_map_of_moments_is_adain():
    random = torch.Generator().manual_seed(0)
    content, style = torch.randn(1, 6, 9, 7, generator=random), 3 * torch.randn(1, 6, 4, 5, generator=random) + 1
    content[:, 2] = 0.5  # a constant channel
    content, style = content.double(), style.double()
    expected = adain(content, style)
    assert_close(adain_map(Moments.of(content), Moments.of(style))(content), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("masks", [False, True])
def test_tiles_give_the_whole_frame_s_picture(masks: bool, tmp_path: Path):
    adain_task = task()
    content = photos(1, 208)[..., :176]
    styles = [Style(picture, 0.5) for picture in torch.split(paintings(2, 56), 1)]
    if masks:
        ramp = torch.linspace(0, 1, 176).expand(1, 1, 208, 176)
        styles = [replace(styles[0], mask=ramp), replace(styles[1], mask=1 - ramp)]
    source, target = (Raster(tmp_path / name, 208, 176) for name in ("source", "target"))
    source.write(0, 0, content)
    shares: list[float] = []
    adain_task.report = shares.append
    adain_task.stylize_tiles(source, target, styles, StylizeControls(alpha=0.7), tile=64)
    expected = stylized(adain_task, content, styles, 0.7)
    assert (target.read(0, 0, 208, 176) - expected).abs().max() < 1e-3 * expected.abs().max()
    assert shares == sorted(shares)
    assert shares[-1] == 1


@torch.inference_mode()
def test_the_onnx_form_is_the_model_at_its_defaults():
    adain_task, content, style = task(), photos(1, 48), paintings(1, 64)
    form = adain_task.onnx_form()
    assert isinstance(form, AdaINForm)
    assert_close(form(content, style), stylized(adain_task, content, [Style(style)]))


@pytest.mark.parametrize("style", [torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 16, 320)])
@pytest.mark.parametrize("content", [torch.full((1, 3, 32, 32), 0.5), torch.rand(1, 3, 16, 640)])
def test_constant_pictures_and_strips_give_finite_pictures(content: Tensor, style: Tensor):
    assert stylized(task(), content, [Style(style)]).isfinite().all()


def test_a_style_of_one_pixel_is_refused():
    with pytest.raises(ValueError, match="at least 16 px"):
        stylized(task(), photos(1, 32), [Style(torch.ones(1, 3, 1, 1))])
