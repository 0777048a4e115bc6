from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from stylemodels.encoders import load_encoder
from stylemodels.perceptual import PerceptualLoss
from tests.stylemodels.toy import paintings, photos


def test_the_two_terms_agree_with_einsum_in_float64():
    encoder = load_encoder("random").double()
    loss = PerceptualLoss(encoder, content_weight=3.0, style_weight=70.0)
    output, content, style = photos(2, 32, seed=1).double(), photos(2, 32).double(), paintings(1, 48).double()
    terms = loss(output, loss.content_target(content), loss.style_target(style))

    taps = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
    own, wanted, painted = (encoder(x, taps) for x in (output, content, style))
    expected = 3.0 * ((own["relu2_2"] - wanted["relu2_2"]) ** 2).sum() / own["relu2_2"].numel()
    assert_close(terms["content_loss"], expected, rtol=1e-10, atol=1e-12)
    expected = torch.zeros((), dtype=torch.float64)
    for tap in taps:
        (count, channels, *size), area = own[tap].shape, painted[tap][0, 0].numel()
        mine = torch.einsum("nihw,njhw->nij", own[tap], own[tap]) / (channels * size[0] * size[1])
        its = torch.einsum("ihw,jhw->ij", painted[tap][0], painted[tap][0]) / (channels * area)
        expected = expected + 70.0 * ((mine - its) ** 2).sum() / (count * channels**2)
    assert_close(terms["style_loss"], expected, rtol=1e-10, atol=1e-12)


def test_targets_have_no_gradient_and_the_output_s_terms_have_one():
    loss = PerceptualLoss(load_encoder("random"), content_weight=1.0, style_weight=1.0)
    content, style = photos(1, 32).requires_grad_(), paintings(1, 32).requires_grad_()
    features, grams = loss.content_target(content), loss.style_target(style)
    assert not features.requires_grad
    assert not any(gram.requires_grad for gram in grams.values())
    output = photos(1, 32, seed=1).requires_grad_()
    for term in loss(output, features, grams).values():
        (slope,) = torch.autograd.grad(term, output, retain_graph=True)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0


@pytest.mark.parametrize(
    ("encoder", "content", "style"),
    [
        ("random", "relu2_2", ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]),
        ("small-narrow", "relu3_1", ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]),
    ],
)
def test_the_taps_are_the_paper_s_or_what_stands_in_for_them(encoder: str, content: str, style: list[str]):
    loss = PerceptualLoss(load_encoder(encoder), content_weight=1.0, style_weight=1.0)
    assert loss.taps_used() == {"content": content, "style": style}
