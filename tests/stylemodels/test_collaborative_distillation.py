"""Collaborative Distillation: training. Acceptance checks of its specification by their numbers; the others stand in
`test_collaborative_stylisation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.testing import assert_close

from stylemodels.describe import on_meta_device
from stylemodels.encoders import Encoder, load_encoder
from stylemodels.features import adain
from stylemodels.methods.collaborative_distillation import Distill, DistillConfig, TrainDecoder
from stylemodels.settings import build
from stylemodels.students import StageEncoder, layers_of
from stylemodels.train import Run, build_task
from stylemodels.vgg import VGG_WIDTHS, Vgg, randomise
from tests.stylemodels.toy import (
    advance,
    base_of,
    batch_of,
    fixed_batch,
    paintings,
    photos,
    same,
    small_run,
    small_task,
)

DISTILL, TRAIN_DECODER = "collaborative-distillation/distill", "collaborative-distillation/train-decoder"
ALL = [5, 4, 3, 2, 1]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_check_1_parameter_counts_are_the_published_ones():
    task = on_meta_device(Distill)
    assert isinstance(task, Distill)
    counted = {
        stage: (
            parameters(task.se(stage)),
            parameters(task.embeddings[str(stage)]),
            parameters(task.decoders[str(stage)]),
            parameters(task.collaborators[str(stage)]),
            parameters(StageEncoder(VGG_WIDTHS[:stage])),
        )
        for stage in ALL
    }
    assert counted == {
        1: (684, 1_600, 651, 1_731, 1_804),
        2: (7_420, 5_312, 7_379, 112_451, 112_588),
        3: (35_164, 21_952, 35_091, 555_075, 555_340),
        4: (219_804, 88_000, 219_667, 3_505_219, 3_505_740),
        5: (810_140, 154_048, 810_003, 12_944_451, 12_944_972),
    }


def test_check_6_a_step_of_se_moves_all_of_se_and_q_and_nothing_else():
    run = small_run(DISTILL, stages=[3], bd_steps=[1], lr=1e-2)
    advance(run, 1)
    task = run.task
    assert isinstance(task, Distill)
    assert task.phase == "se3"
    before = {name: value.clone() for name, value in task.state_dict().items()}
    terms = task(fixed_batch(task))
    gradients = task.gradients(torch.stack(list(terms.values())).sum()).values
    expected = {p for name in task.se(3).names for p in task.se(3).layer(name).parameters()}
    expected |= set(task.embeddings["3"].parameters())
    assert set(gradients) == expected
    assert all(bool(gradient.any()) for gradient in gradients.values())
    advance(run, 1)
    moved = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    learned = {f"encoders.3.{name}.{kind}" for name in task.se(3).names for kind in ("weight", "bias")}
    learned |= {f"embeddings.3.conv{block}1_aux.{kind}" for block in (1, 2, 3) for kind in ("weight", "bias")}
    assert moved == learned, "BE, BD, SD and conv0 stay as they are"


def values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in terms.items()}


def mean_square(first: Tensor, second: Tensor) -> float:
    return float(np.square(first.detach().double().numpy() - second.detach().double().numpy()).mean())


def test_check_7_the_terms_of_every_phase_are_those_of_an_independent_formula():
    task = small_task(DISTILL, stages=[2], beta=7.0, lambda_pixel=3.0, lambda_perc=0.5, lambda_perc_decoder=0.2)
    assert isinstance(task, Distill)
    taps, x = ["relu1_1", "relu2_1"], photos(2, 32)
    be, se, bd, sd = task.encoder, task.se(2), task.collaborators["2"], task.decoders["2"]
    wanted = be(x, taps)
    small = dict(zip(taps, se.features(x), strict=True))
    q = {f"relu{i}_1": task.embeddings["2"].get_submodule(f"conv{i}1_aux") for i in (1, 2)}

    def l_r(output: Tensor, weight: float) -> dict[str, float]:
        again = be(output, taps)
        perceptual = sum(mean_square(again[tap], wanted[tap]) for tap in taps)
        return {"pixel_loss": 3.0 * mean_square(output, x), "perceptual_loss": weight * perceptual}

    embed = 7.0 * sum(mean_square(q[tap](small[tap]), wanted[tap]) for tap in taps)
    expected = {
        "bd2": l_r(bd(wanted["relu2_1"]), 0.5),
        "se2": {"embed_loss": embed, **l_r(bd(q["relu2_1"](small["relu2_1"])), 0.5)},
        "sd2": l_r(sd(small["relu2_1"]), 0.2),
    }
    for phase, terms in expected.items():
        task.begin(phase, 1)  # not the first step: nothing is taken over
        assert values(task({"content": x})) == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize(("gram_norm", "divisor"), [("hw", 1), ("chw", 8)])
def test_check_7_the_adain_form_has_the_style_terms_of_equation_2(gram_norm: str, divisor: int):
    task = small_task(DISTILL, scheme="adain", stages=[4], gram_norm=gram_norm, lambda_style=5.0, beta=2.0)
    assert isinstance(task, Distill)
    batch = {"content": photos(2, 32), "style": paintings(2, 32)}
    taps = [f"relu{block}_1" for block in (1, 2, 3, 4)]
    content, style = task.encoder(batch["content"], taps), task.encoder(batch["style"], taps)

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[2]

    def l_st(output: Tensor) -> dict[str, float]:
        own = task.encoder(output, taps)
        # channels double from tap to tap, so with C*H*W every term has its own divisor
        widths = {tap: 1 if divisor == 1 else own[tap].shape[1] for tap in taps}
        grams = [mean_square(gram(own[tap]) / widths[tap], gram(style[tap]) / widths[tap]) for tap in taps]
        return {"content_loss": mean_square(own["relu4_1"], content["relu4_1"]), "style_loss": 5.0 * sum(grams)}

    embedded = [task.embedded(batch[name], 4) for name in ("content", "style")]
    errors = [mean_square(e[tap], f[tap]) for e, f in zip(embedded, (content, style), strict=True) for tap in taps]
    bd, se, sd = task.collaborators["4"], task.se(4), task.decoders["4"]
    expected = {
        "bd4": l_st(bd(adain(content["relu4_1"], style["relu4_1"]))),
        "se4": {"embed_loss": 2.0 * sum(errors)} | l_st(bd(adain(embedded[0]["relu4_1"], embedded[1]["relu4_1"]))),
        "sd4": l_st(sd(adain(se(batch["content"]), se(batch["style"])))),
    }
    for phase, terms in expected.items():
        task.begin(phase, 1)
        assert values(task(batch)) == pytest.approx(terms, rel=1e-4)


def toy_distillation(widths: tuple[int, ...], bd_steps: int, se_steps: int) -> list[dict[str, float]]:
    """Stage 3 under a random teacher of three levels, 64 px pictures of smooth colours in batches of 8; all terms."""
    vgg = Vgg((2, 2, 4), widths, padding="reflect", pooling="max")
    randomise(vgg)
    teacher = Encoder("random", {f"relu{block}_1": width for block, width in enumerate(widths, start=1)}, vgg)
    settings = {"encoder": "random", "stages": [3], "batch_size": 8, "content_size": 64, "load_size": 64, "lr": 1e-3}
    config = build(DistillConfig, {**settings, "bd_steps": [bd_steps], "se_steps": [se_steps], "steps": 1})
    run = Run(build_task(Distill, config, seed=0, encoder=teacher), seed=0)
    random = torch.Generator().manual_seed(0)
    return [
        run.advance({"content": smooth(torch.rand(8, 3, 4, 4, generator=random))}) for _ in range(run.total_steps - 1)
    ]


def smooth(cells: Tensor) -> Tensor:
    return interpolate(cells, size=(64, 64), mode="bilinear", align_corners=True)


@pytest.mark.slow
def test_check_8_a_toy_distillation_learns():
    terms = toy_distillation((64, 128, 256), 150, 120)
    bd, se = terms[:150], terms[150:]
    assert bd[-1]["pixel_loss"] < 0.03
    assert se[-1]["embed_loss"] < 0.3 * se[0]["embed_loss"]
    assert se[-1]["pixel_loss"] < 0.03


def test_check_8_in_short_a_narrow_toy_distillation_learns():
    terms = toy_distillation((16, 32, 64), 15, 12)
    bd, se = terms[:15], terms[15:]
    assert bd[-1]["pixel_loss"] < bd[0]["pixel_loss"]
    assert se[-1]["embed_loss"] < se[0]["embed_loss"]


def test_check_9_pruning_keeps_the_filters_with_the_largest_l1_norms():
    encoder = load_encoder("random")
    task = small_task(DISTILL, stages=[3])
    assert isinstance(task, Distill)
    x = photos(1, 32)
    theirs, se = layers_of(encoder), task.se(3)
    assert theirs is not None
    inputs = np.arange(3)
    for name in se.names:
        weight = theirs[f"{name}.weight"].numpy()
        norms = np.abs(weight).sum((1, 2, 3))
        kept = np.sort(np.argsort(norms)[len(norms) - se.layer(name).out_channels :])
        np.testing.assert_array_equal(se.layer(name).weight.detach().numpy(), weight[kept][:, inputs])
        np.testing.assert_array_equal(se.layer(name).bias.detach().numpy(), theirs[f"{name}.bias"].numpy()[kept])
        if name == "conv11":
            first = encoder(x, ["relu1_1"])["relu1_1"]
            assert_close(se.features(x)[0], first[:, kept], rtol=1e-4, atol=1e-5)
        inputs = kept


def test_the_small_decoder_starts_as_the_collaborator_s_strongest_filters():
    run = small_run(DISTILL, stages=[2], bd_steps=[2], se_steps=[1])
    advance(run, 3)
    task = run.task
    assert isinstance(task, Distill)
    assert task.phase == "sd2"
    bd, sd = task.collaborators["2"].state_dict(), task.decoders["2"].state_dict()
    inputs = bd["conv21.weight"].abs().sum((0, 2, 3)).topk(4).indices.sort().values
    for name in ("conv21", "conv12", "conv11"):
        kept = bd[f"{name}.weight"].abs().sum((1, 2, 3)).topk(len(sd[f"{name}.weight"])).indices.sort().values
        assert torch.equal(sd[f"{name}.weight"], bd[f"{name}.weight"][kept][:, inputs])
        inputs = kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "adain"}, "AdaIN form has stage 4 alone"),
        ({"stages": []}, "at least one"),
        ({"stages": [2, 2]}, "each once"),
        ({"stages": [2, 1], "se_steps": [5]}, "se_steps: 1 numbers were given for 2 stages"),
        ({"width_div": 1, "stages": [2]}, "teacher's own widths .* is a copy"),
        ({"encoder": "small"}, "allowed are encoder and random"),
        ({"init": "encoder"}, "only small has Q"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        small_task(DISTILL, **{"stages": ALL, **settings})


def test_a_student_that_starts_as_the_small_encoder_gives_its_features_and_embeds_them_as_it_does():
    task = small_task(DISTILL, encoder="small", init="encoder", stages=[3, 1], collaborator_div=0)
    narrow = load_encoder("small-narrow")
    assert isinstance(task, Distill)
    x = photos(1, 48)
    assert task.se(3).widths == (16, 24, 48)
    assert task.se(1).widths == (24,)
    taps = ["relu1_1", "relu2_1", "relu3_1"]
    for own, wanted in zip(task.se(3).features(x), narrow(x, taps).values(), strict=True):
        assert_close(own, wanted, rtol=1e-4, atol=1e-4)
    for tap, embedded in task.embedded(x, 3).items():
        assert_close(embedded.relu(), task.encoder(x, taps)[tap], rtol=1e-3, atol=1e-3)
    assert_close(task.se(1)(x)[:, :16], narrow(x, ["relu1_1"])["relu1_1"], rtol=1e-4, atol=1e-4)


def test_without_a_collaborator_there_is_no_bd_phase_and_the_embedding_alone_is_learned():
    task = small_task(DISTILL, stages=[2, 1], collaborator_div=0, init="random", sd_steps=[7, 8], steps=5)
    assert [(phase.name, phase.steps) for phase in task.phases()] == [("se2", 5), ("sd2", 7), ("se1", 5), ("sd1", 8)]
    task.begin("se2", 0)
    assert set(task(fixed_batch(task))) == {"embed_loss"}


def test_a_warm_start_takes_over_what_fits_from_the_stage_before():
    run = small_run(DISTILL, stages=[2, 3], warm_start=True, bd_steps=[0, 0], se_steps=[0, 0], sd_steps=[2, 2])
    advance(run, 2)
    before, now = (run.task.get_submodule(f"decoders.{stage}").state_dict() for stage in (2, 3))
    assert run.task.phase == "sd3"
    fitting = {name: value for name, value in before.items() if now[name].shape == value.shape}
    assert {name.partition(".")[0] for name in fitting} == {"conv21", "conv12", "conv11"}
    assert all(torch.equal(now[name], value) for name, value in fitting.items())


def test_the_rate_rises_and_falls_from_the_start_of_each_phase():
    task = small_task(DISTILL, lr_decay=0.5, warmup=4)
    scales = []
    for step in range(7):
        task.begin("sd2", step)
        scales.append(task.lr_scale("sd"))
    assert scales == pytest.approx([0.25, 0.5 / 1.5, 0.75 / 2, 1 / 2.5, 1 / 3, 1 / 3.5, 1 / 4])


@torch.no_grad()
def test_layers_of_a_decoder_that_keep_the_width_begin_near_the_identity():
    decoder = small_task(DISTILL, stages=[3]).get_submodule("decoders.3")
    features = torch.rand(1, 4, 6, 7)
    kept = decoder.get_submodule("conv22")(features)
    assert float((kept - features).norm() / features.norm()) < 0.5
    assert float(decoder(torch.rand(2, 8, 8, 8)).std((2, 3)).min()) > 0, "no two places get the same"


def test_train_decoder_without_a_base_decodes_the_encoder_itself():
    task = small_task(TRAIN_DECODER, stages=[3, 1])
    assert isinstance(task, TrainDecoder)
    x = photos(1, 32)
    for stage in (3, 1):
        assert_close(task.se(stage)(x), task.encoder(x, [f"relu{stage}_1"])[f"relu{stage}_1"], rtol=1e-4, atol=1e-4)
    assert [phase.name for phase in task.phases()] == ["sd3", "sd1"]
    with pytest.raises(ValueError, match="init: 'random' is a base model's, and none was given"):
        small_task(TRAIN_DECODER, init="random")


def test_train_decoder_goes_on_from_the_base_s_pairs_and_leaves_its_encoders_alone():
    trained = small_task(DISTILL, stages=[2], width_div=2, seed=3)
    run = small_run(TRAIN_DECODER, base=base_of(trained, DISTILL))
    assert (run.task.config.width_div, run.task.config.init) == (2, "l1_prune")
    assert same(run.task.model_tensors(), trained.model_tensors())
    advance(run, 2)
    after = run.task.model_tensors()
    moved = {name for name, value in trained.model_tensors().items() if not torch.equal(after[name], value)}
    assert moved == {name for name in after if name.startswith("decoders.")}


@pytest.mark.parametrize("scheme", ["wct", "adain"])
def test_the_preview_shows_reconstructions_first_and_styles_once_a_decoder_learns(scheme: str):
    stage = 4 if scheme == "adain" else 2
    run = small_run(DISTILL, scheme=scheme, stages=[stage], steps=1)
    seen = {}
    for _ in range(3):
        grid = run.preview(batch_of(run.task.preview_streams()))
        seen[run.task.phase] = {name.partition("-")[0] for name, _ in grid}
        if run.step < 2:
            advance(run, 1)
    assert seen[f"bd{stage}"] == seen[f"se{stage}"] == {"style", "content", "reconstruction"}
    assert seen[f"sd{stage}"] == {"style", "content", "reconstruction", "result"}
