"""What the networks of the content transformation block minimise: equations 8 to 10 and both steps, written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.adversarial import Verdict
from stylemodels.ctb_networks import projection
from stylemodels.methods.ctb import Train, signed
from stylemodels.train import Run
from tests.stylemodels.toy import paintings, photos, small_task

WINDOW = 256
LABELS, OTHERS = torch.tensor([1, 0]), torch.tensor([1, 1])
WEIGHTS = {"w_pxl": 3.0, "w_fp": 5.0, "w_adv_style": 7.0, "w_scene": 11.0, "w_adv_cont": 13.0, "w_object": 17.0}
PHOTOS, ARTWORKS = signed(photos(2, 64)).double(), signed(paintings(2, 64)).double()


def made(**settings: Any) -> Train:
    task = small_task("ctb/train", t_identity_init=False, **WEIGHTS, **settings)
    assert isinstance(task, Train)
    Run(task.double(), seed=0)
    return task


@pytest.fixture
def task() -> Train:
    return made()


def real(verdict: Verdict) -> Tensor:
    """log D."""
    return verdict.logits.sigmoid().log().mean()


def fake(verdict: Verdict) -> Tensor:
    """log(1 - D)."""
    return (1 - verdict.logits.sigmoid()).log().mean()


def missed(verdict: Verdict, labels: Tensor) -> Tensor:
    """-log of the probability of each picture's own class."""
    assert verdict.classes is not None
    return -verdict.classes.softmax(1)[torch.arange(2), labels].log().mean()


def gradients(task: Train, learner: str, loss: Tensor) -> list[Tensor]:
    own = [p for group in task.active[learner].param_groups for p in group["params"]]
    return list(torch.autograd.grad(loss, own))


def assert_learnt(task: Train, learner: str, expected: list[Tensor]) -> None:
    """Adam's first moment after its first step is (1 - beta1) times the gradient."""
    optimizer = task.active[learner]
    moments = [optimizer.state[p]["exp_avg"] for group in optimizer.param_groups for p in group["params"]]
    longest = max(float(gradient.abs().max()) for gradient in expected)  # others may be rounding and nothing else
    for moment, gradient in zip(moments, expected, strict=True):
        assert_close(moment / (1 - task.config.beta1), gradient, rtol=1e-6, atol=1e-10 * longest)


def assert_told(terms: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    told = {name: terms[name].item() for name in expected}
    assert told == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-6)


def test_step_1_for_e_and_d_is_the_pixel_the_fixpoint_and_the_style_term(task: Train):
    """Equation 10, L_pxl between averages over 10 x 10 pixels, and equation 8 in the form that does not saturate."""
    code = task.encoder(PHOTOS, WINDOW)
    drawn = task.decoder(task.transform(code, WINDOW), WINDOW)
    averages = [picture.unfold(2, 10, 1).unfold(3, 10, 1).mean((-1, -2)) for picture in (drawn, PHOTOS)]
    verdict = task.critics["style"](drawn, WINDOW)
    expected = {
        "pixel_loss": (averages[0] - averages[1]).square().mean(),
        "fixpoint_loss": (task.encoder(drawn, WINDOW) - code).square().mean(),
        "style_loss": -real(verdict),
        "scene_loss": missed(verdict, LABELS),
    }
    pixel, fixpoint, style, scene = expected.values()
    wanted = gradients(task, "generator", 3 * pixel + 5 * fixpoint + 7 * style + 11 * scene)
    assert_told(task.draw_style(PHOTOS, LABELS), expected)
    assert_learnt(task, "generator", wanted)


def test_step_1_for_d_s_is_equation_8_and_the_scenes_of_photos(task: Train):
    """D_s(y), not D_s(y | s): of artworks no scene is asked."""
    judge = task.critics["style"]
    drawn = task.decoder(task.transform(task.encoder(PHOTOS, WINDOW), WINDOW), WINDOW).detach()
    expected = {
        "style_discriminator_loss": -real(judge(ARTWORKS, WINDOW)) - fake(judge(drawn, WINDOW)),
        "photo_scene_loss": missed(judge(PHOTOS, WINDOW), LABELS),
    }
    adversarial, scene = expected.values()
    wanted = gradients(task, "style_discriminator", 7 * adversarial + 11 * scene)
    assert_told(task.judge_style(PHOTOS, LABELS, ARTWORKS), expected)
    assert_learnt(task, "style_discriminator", wanted)


def test_step_2_for_t_is_the_content_and_the_style_term(task: Train):
    """Equations 9 and 8 in the form that does not saturate."""
    moved = task.transform(task.encoder(PHOTOS, WINDOW).detach(), WINDOW)
    verdict = task.critics["content"](moved, WINDOW)
    expected = {
        "content_loss": -real(verdict),
        "object_loss": missed(verdict, LABELS),
        "transform_style_loss": -real(task.critics["style"](task.decoder(moved, WINDOW), WINDOW)),
    }
    content, shown, style = expected.values()
    wanted = gradients(task, "transform", 13 * content + 17 * shown + 7 * style)
    assert_told(task.transform_content(PHOTOS, LABELS), expected)
    assert_learnt(task, "transform", wanted)


def test_step_2_for_d_c_is_equation_9_and_the_classes_of_artworks(task: Train):
    judge, code = task.critics["content"], task.encoder(ARTWORKS, WINDOW).detach()
    moved = task.transform(task.encoder(PHOTOS, WINDOW), WINDOW).detach()
    expected = {
        "content_discriminator_loss": -real(judge(code, WINDOW)) - fake(judge(moved, WINDOW)),
        "artwork_loss": missed(judge(code, WINDOW), OTHERS),
    }
    adversarial, classes = expected.values()
    wanted = gradients(task, "content_discriminator", 13 * adversarial + 17 * classes)
    assert_told(task.judge_content(PHOTOS, LABELS, ARTWORKS, OTHERS), expected)
    assert_learnt(task, "content_discriminator", wanted)


def test_discriminators_that_are_told_classes_hear_them_of_both_sides_but_no_scene_of_an_artwork():
    """Equations 8 and 9 as they stand: D_s(y), D_s(x^ | s), D_c(E(y) | c), D_c(T(E(x)) | c)."""
    task = made(conditioning="projection", lr=1e-12)
    style, content = task.critics["style"], task.critics["content"]
    for judge in (style, content):
        torch.nn.init.normal_(judge.get_parameter("embedding.weight"))
    moved, painted = task.transform(task.encoder(PHOTOS, WINDOW), WINDOW), task.encoder(ARTWORKS, WINDOW)
    drawn = task.decoder(moved, WINDOW)
    of_scene, of_photo = style(drawn, WINDOW, LABELS), content(moved, WINDOW, LABELS)
    told = -real(style(ARTWORKS, WINDOW)) - fake(of_scene)
    assert_told(task.judge_style(PHOTOS, LABELS, ARTWORKS), {"style_discriminator_loss": told})
    assert_told(task.draw_style(PHOTOS, LABELS), {"style_loss": -real(of_scene)})
    told = -real(content(painted, WINDOW, OTHERS)) - fake(of_photo)
    assert_told(task.judge_content(PHOTOS, LABELS, ARTWORKS, OTHERS), {"content_discriminator_loss": told})
    expected = {"content_loss": -real(of_photo), "transform_style_loss": -real(style(drawn, WINDOW))}
    assert_told(task.transform_content(PHOTOS, LABELS), expected)


def test_what_a_class_adds_to_the_logits_is_its_product_with_the_mean_features():
    embedding, features = torch.nn.Embedding(3, 5), torch.randn(2, 5, 4, 6)
    expected = torch.stack([embedding.weight[label] @ features[n].mean((1, 2)) for n, label in enumerate(LABELS)])
    assert_close(torch.as_tensor(projection(embedding, features, LABELS)), expected.view(2, 1, 1, 1))


def test_photos_that_are_no_artworks_are_a_third_term_of_d_s():
    task = made(photo_as_fake=True, conditioning="none")
    judge = task.critics["style"]
    drawn = task.decoder(task.transform(task.encoder(PHOTOS, WINDOW), WINDOW), WINDOW).detach()
    terms = [-real(judge(ARTWORKS, WINDOW)), -fake(judge(drawn, WINDOW)), -fake(judge(PHOTOS, WINDOW))]
    wanted = gradients(task, "style_discriminator", 7 * torch.stack(terms).sum())
    assert_told(task.judge_style(PHOTOS, LABELS, ARTWORKS), {"photo_as_fake_loss": terms[2]})
    assert_learnt(task, "style_discriminator", wanted)


def test_check_8_each_step_s_gate_counts_what_its_discriminator_wins_whoever_moves():
    task = made(dsr=0.8, dsr_momentum=0.25, lr=1e-12)
    style, content = task.critics["style"], task.critics["content"]
    moved, painted = task.transform(task.encoder(PHOTOS, WINDOW), WINDOW), task.encoder(ARTWORKS, WINDOW)
    for judge, artworks, made_up, judged, opposed, gate in (
        (style, ARTWORKS, task.decoder(moved, WINDOW), task.judge_style, task.draw_style, task.style_gate),
        (content, painted, moved, task.judge_content, task.transform_content, task.content_gate),
    ):
        taken, seen_through = (judge(picture, WINDOW).logits for picture in (artworks, made_up))
        shares = [(taken > 0).double().mean().item(), (seen_through <= 0).double().mean().item()]
        expected = 0.75 * float(gate.rate) + 0.25 * sum(shares) / 2
        judged(*((PHOTOS, LABELS, ARTWORKS, OTHERS) if judge is content else (PHOTOS, LABELS, ARTWORKS)))
        assert float(gate.rate) == pytest.approx(expected, abs=1e-9)
        opposed(PHOTOS, LABELS)
        assert float(gate.rate) == pytest.approx(0.75 * expected + 0.25 * shares[1], abs=1e-9)
