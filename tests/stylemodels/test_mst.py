"""Multimodal Style Transfer: its losses, training and controls. What every method owes is in test_methods.py.

Checks 1 to 3 are in test_graphcut.py, 4 to 7 in test_substyles.py, 8 in test_kmeans.py.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Conv2d
from torch.testing import assert_close

from stylemodels.describe import describe_task, on_meta_device
from stylemodels.encoders import weightless_encoder
from stylemodels.export import describe_model
from stylemodels.features import mean_std
from stylemodels.method import Batch, Picture, Style
from stylemodels.methods.mst import METHOD, StylizeControls, Train, TrainConfig, weighed
from stylemodels.raster import Raster
from stylemodels.stylize import Model
from stylemodels.substyles import Grouping, recombined, rows, sub_styles
from tests.stylemodels.toy import advance, batch_of, fixed_batch, paintings, photos, same, small_run, small_task

CONTENT, STYLE = photos(1, 64), paintings(1, 48)


def mst(**settings: Any) -> Train:
    task = small_task("mst/train", **settings)
    assert isinstance(task, Train)
    return task


@pytest.fixture(scope="module")
def task() -> Train:
    return mst()


@pytest.fixture(scope="module")
def model(task: Train) -> Model:
    return Model(task.eval().requires_grad_(False), describe_model(task, METHOD, "train"))


def drawn(task: Train, *styles: Style, content: Tensor = CONTENT, **controls: Any) -> Picture:
    return task.stylize(content, styles or [Style(STYLE)], StylizeControls(**controls))


def image(task: Train, *styles: Style, **controls: Any) -> Tensor:
    found = drawn(task, *styles, **controls).image
    assert found is not None
    return found


def targets(task: Train, batch: Batch) -> tuple[Tensor, Tensor]:
    return task.targets(task.encode(batch["content"]), task.encode(batch["style"]))


# --- 9: who learns ----------------------------------------------------------------------------------------------------


def test_check_9_the_networks_are_as_large_as_published():
    """Check 9: a decoder of 3,505,219 parameters, an encoder of 3,505,728 up to relu4_1."""
    decoder = on_meta_device(Train).get_submodule("decoder")
    assert sum(p.numel() for p in decoder.parameters()) == 3_505_219
    with torch.device("meta"):
        encoder = weightless_encoder("vgg19-normalised")
    layers = [layer for layer in encoder.modules() if isinstance(layer, Conv2d)][:9]
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 3_505_728


def test_check_9_the_decoder_alone_learns_and_no_gradient_crosses_the_transform():
    """Check 9: finite, non-zero gradients for all of it, none for the encoder, which stays as it is."""
    run = small_run("mst/train", warmup_recon_iters=0)
    task, batch = run.task, batch_of(run.streams())
    assert isinstance(task, Train)
    features, energies = targets(task, batch)
    assert not features.requires_grad
    assert not energies.requires_grad
    gradients = task.gradients(torch.stack(list(task(batch).values())).sum())
    assert set(gradients.values) == set(task.decoder.parameters())
    assert all(value.isfinite().all() and value.abs().sum() > 0 for value in gradients.values.values())
    before = {name: tensor.clone() for name, tensor in task.encoder.state_dict().items()}
    advance(run, 1)
    assert all(p.grad is None for p in task.encoder.parameters())
    assert same(task.encoder.state_dict(), before)


def test_targets_are_each_pair_s_own(task: Train):
    batch = fixed_batch(mst())
    features, energies = targets(task, batch)
    for n in range(2):
        own, painted = task.encode(batch["content"][n : n + 1]), task.encode(batch["style"][n : n + 1])
        alone = recombined(own, sub_styles([rows(painted)], task.config), (), task.config)
        assert_close(features[n : n + 1], alone.features, rtol=1e-4, atol=1e-4)
        assert_close(energies[n].tolist(), [alone.energies[0], alone.energies[-1]], rtol=1e-4, atol=1e-4)
    assert (energies[:, 1] <= energies[:, 0]).all()


# --- 10: the losses ---------------------------------------------------------------------------------------------------


def written_out(task: Train, batch: dict[str, Tensor], output: Tensor) -> tuple[float, float]:
    """l_c and l_s of equations 11 and 12 with squared norms, in NumPy."""
    taps = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    seen, content, style = (
        {tap: value.detach().double().numpy() for tap, value in task.encoder(pictures, taps).items()}
        for pictures in (output, batch["content"], batch["style"])
    )
    l_c = ((seen["relu4_1"] - content["relu4_1"]) ** 2).mean()
    l_s = 0.0
    for tap in taps:
        for statistic in (lambda x: x.mean((2, 3)), lambda x: np.sqrt(x.var((2, 3)) + 1e-6)):
            l_s += ((statistic(seen[tap]) - statistic(style[tap])) ** 2).sum(1).mean()
    return float(l_c), float(l_s)


def test_check_10_the_loss_terms_are_those_of_the_paper():
    """Check 10: sums over channels, biased variances plus 1e-6, means over the batch."""
    task = mst(warmup_recon_iters=0, content_weight=0.7, style_weight=0.03)
    batch = dict(fixed_batch(task))
    features, _ = targets(task, batch)
    l_c, l_s = written_out(task, batch, task.decoder(features))
    terms = {name: term.item() for name, term in task(batch).items()}
    assert terms == pytest.approx({"content_loss": 0.7 * l_c, "style_loss": 0.03 * l_s}, rel=1e-4)


def test_check_10_norms_and_reductions_can_be_chosen():
    """Equations 11 and 12 as printed have roots; means over channels weigh a tap by its width."""
    task = mst(warmup_recon_iters=0, batch_size=1, style_weight=1.0, style_layers=["relu3_1"])
    batch = dict(fixed_batch(task))
    mean, std = (
        (a - b).square().sum()
        for a, b in zip(
            mean_std(task.encoder(task.decoder(targets(task, batch)[0]), ["relu3_1"])["relu3_1"], 1e-6),
            mean_std(task.encoder(batch["style"], ["relu3_1"])["relu3_1"], 1e-6),
            strict=True,
        )
    )
    channels = task.encoder.channels["relu3_1"]
    for settings, expected in (
        ({"loss_norm": "squared", "style_reduction": "mean"}, (mean + std) / channels),
        ({"loss_norm": "l2", "style_reduction": "sum"}, mean.sqrt() + std.sqrt()),
        ({"loss_norm": "l2", "style_reduction": "mean"}, (mean.sqrt() + std.sqrt()) / channels**0.5),
    ):
        other = mst(warmup_recon_iters=0, batch_size=1, style_weight=1.0, style_layers=["relu3_1"], **settings)
        terms = other(batch)
        assert_close(terms["style_loss"], expected, rtol=1e-4, atol=1e-5)
        squared = task(batch)["content_loss"]
        assert_close(terms["content_loss"], squared.sqrt() if settings["loss_norm"] == "l2" else squared)


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_check_10_nothing_is_lost_where_all_pictures_are_one(norm: str, monkeypatch: pytest.MonkeyPatch):
    """Check 10: both terms are 0 when I_cs = I_c = I_s, and their gradients are numbers."""
    task = mst(loss_norm=norm)
    pictures = photos(2, 32)
    output = pictures.clone().requires_grad_()
    monkeypatch.setattr(task.decoder, "forward", lambda _: output)
    terms = task({"content": pictures, "style": pictures})
    assert [term.item() for term in terms.values()] == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), output)
    assert gradient.isfinite().all()


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_warmup_learns_to_undo_the_encoder_and_needs_no_styles():
    run = small_run("mst/train", warmup_recon_iters=3, steps=5)
    assert [(phase.name, phase.steps) for phase in run.phases] == [("warmup", 3), ("train", 5)]
    assert list(run.streams()) == ["content"]
    photo = batch_of(run.streams())["content"]
    terms = run.task({"content": photo})
    output = run.task.get_submodule("decoder")(run.task.encode(photo))
    assert_close(terms["pixel_loss"], (output - photo).square().mean())
    assert_close(terms["content_loss"], (run.task.encode(output) - run.task.encode(photo)).square().mean())
    advance(run, 3)
    assert list(run.streams()) == ["content", "style"]
    assert [phase.name for phase in small_run("mst/train", warmup_recon_iters=0).phases] == ["train"]


def test_the_rate_decays_as_published():
    task = mst(lr_decay=5e-5)
    for step, share in ((0, 1.0), (20_000, 0.5), (160_000, 1 / 9)):
        task.step = step
        assert task.lr_scale("decoder") == pytest.approx(share, rel=1e-12)


def test_every_step_says_what_the_cut_gained():
    terms = advance(small_run("mst/train", warmup_recon_iters=0), 1)[0]
    assert list(terms) == ["content_loss", "style_loss", "energy_before", "energy_after"]
    assert 0 < terms["energy_after"] <= terms["energy_before"]


def trained(size: int, warmup: int, steps: int) -> None:
    """Check 12: l_c falls, and relu4_1 of the drawn pictures is nearer to their style's statistics than the photos'."""
    sizes = {"content_size": size, "style_size": size, "load_size": size}
    run = small_run("mst/train", **sizes, warmup_recon_iters=warmup, steps=steps, lr=3e-3)
    terms = [run.advance(batch_of(run.streams(), step % 2)) for step in range(warmup + steps)]
    content_losses = [each["content_loss"] for each in terms[warmup:]]
    assert sum(content_losses[-10:]) < 0.97 * sum(content_losses[:10])
    task = run.task
    assert isinstance(task, Train)

    def statistics(picture: Tensor) -> Tensor:
        return torch.cat(mean_std(task.encode(picture)))

    reached = before = 0.0
    for step in range(2):
        batch = batch_of(run.streams(), step)
        for photo, style in zip(batch["content"].split(1), batch["style"].split(1), strict=True):
            picture = image(task, Style(style), content=photo, smooth_lambda=0.02)
            reached += float((statistics(picture) - statistics(style)).square().sum())
            before += float((statistics(photo) - statistics(style)).square().sum())
    assert reached < 0.8 * before


def test_check_12_a_short_training_learns_style_and_keeps_content():
    trained(32, warmup=20, steps=75)


@pytest.mark.slow
def test_check_12_a_training_learns_style_and_keeps_content():
    trained(64, warmup=40, steps=200)


def test_no_tap_for_the_style_is_refused():
    with pytest.raises(ValueError, match="style_layers: none was given"):
        mst(style_layers=[])


def test_what_groups_positions_is_the_same_in_training_and_at_work():
    shared = {field.name for field in fields(Grouping)}
    config, controls = (describe_task(Train)[kind]["properties"] for kind in ("config", "controls"))
    assert all(config[name] == controls[name] for name in shared)
    assert (TrainConfig().n_clusters, TrainConfig().smooth_lambda) == (3, 0.1)


# --- 7 and 11: controls -----------------------------------------------------------------------------------------------


def test_check_7_alpha_0_decodes_the_content_s_own_features_bit_for_bit(task: Train):
    """Check 7."""
    assert torch.equal(image(task, alpha=0.0), task.decoder(task.encode(CONTENT)))
    assert not torch.allclose(image(task, alpha=1.0), image(task, alpha=0.0), atol=1e-3)


def test_a_picture_is_the_decoded_features_of_its_groups(task: Train):
    s = Grouping(n_clusters=4, smooth_lambda=0.02)
    found = recombined(task.encode(CONTENT), sub_styles([rows(task.encode(STYLE))], s), (), s)
    picture = drawn(task, n_clusters=4, smooth_lambda=0.02)
    assert_close(picture.image, task.decoder(found.features))
    colours = picture.maps["labels"][0].flatten(1).T
    same_label = found.labels.flatten()[:, None] == found.labels.flatten()
    assert torch.equal((colours[:, None] == colours).all(-1), same_label)
    chosen = found.costs.gather(0, found.labels[None])[0]
    assert_close(picture.maps["distance"][0, 0], chosen.float(), rtol=1e-4, atol=1e-4)
    assert_close(picture.maps["sizes"], torch.tensor([(found.labels == k).float().mean() for k in range(4)]))
    assert_close(picture.maps["energies"], torch.tensor(found.energies))


def test_maps_show_the_labels_with_and_without_the_cut(task: Train):
    picture = drawn(task, smooth_lambda=10.0)
    assert picture.maps["labels"].shape == picture.maps["nearest"].shape == (1, 3, 8, 8)
    assert len(picture.maps["labels"].flatten(2).unique(dim=2)[0, 0]) == 1
    assert len(picture.maps["nearest"].flatten(2).unique(dim=2)[0, 0]) > 1
    assert all(0 <= value.min() <= value.max() <= 1 for value in picture.maps.values() if value.ndim == 4)
    free = drawn(task, smooth_lambda=0.0).maps
    assert torch.equal(free["labels"], free["nearest"])


@pytest.mark.parametrize(
    "controls",
    [
        {"n_clusters": 1},
        {"n_clusters": 6},
        {"smooth_lambda": 0},
        {"clusters": [1, 3]},
        {"cluster_alphas": [0.2, 0.2, 0.2]},
        {"transform": "adain"},
        {"kmeans_metric": "spherical"},
        {"matcher": "argmin"},
        {"neighbourhood": "chain"},
        {"min_cluster_size": 1000},
        {"kmeans_inits": 10},
        {"kmeans_max_samples": 16},
        {"kmeans_seed": 1},
        {"eig_rel_eps": 0.1},
        {"eig_dtype": "float32"},
        {"strength": 0.5},
    ],
    ids=str,
)
def test_controls_are_reached_by_name(model: Model, controls: dict[str, Any]):
    base = {"smooth_lambda": 0.01}
    plain, other = (model.stylize(CONTENT, [Style(STYLE)], base | c) for c in ({}, controls))
    assert not torch.equal(plain, other)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"n_clusters": 0}, "n_clusters: 0 was given"),
        ({"alpha": 1.5}, "alpha: 1.5 was given"),
        ({"smooth_lambda": -0.1}, "smooth_lambda: -0.1 was given"),
        ({"clusters": [4]}, "clusters: there is no sub-style 4, n_clusters is 3"),
        ({"cluster_alphas": [2.0]}, "cluster_alphas/0: 2.0 was given"),
    ],
    ids=str,
)
def test_check_11_controls_out_of_range_are_refused(model: Model, controls: dict[str, Any], message: str):
    """Check 11."""
    with pytest.raises(ValueError, match=message):
        model.stylize(CONTENT, [Style(STYLE)], controls)


def test_check_11_small_and_odd_pictures_are_drawn_or_refused(model: Model, caplog: pytest.LogCaptureFixture):
    """Check 11: flat ones, styles of 8 x 8; no content below 16 px, no picture of other than three channels."""
    flat = torch.full((1, 3, 40, 33), 0.25)
    with caplog.at_level(logging.WARNING):
        for content, style in [(flat, STYLE), (CONTENT, flat), (flat, flat), (photos(1, 16), paintings(1, 8))]:
            result = model.stylize(content, [Style(style)], {"n_clusters": 16})
            assert result.shape == content.shape
            assert result.isfinite().all()
    assert "sub-styles instead of 16" in caplog.text
    with pytest.raises(ValueError, match="content: a picture of 8 x 8 px"):
        model.stylize(photos(1, 8), [Style(STYLE)])
    with pytest.raises(ValueError, match="content: a picture has the shape"):
        model.stylize(torch.rand(1, 1, 64, 64), [Style(STYLE)])
    with pytest.raises(ValueError, match="style 1: a picture has the shape"):
        model.stylize(CONTENT, [Style(torch.rand(1, 4, 64, 64))])


# --- several styles, video, tiles -------------------------------------------------------------------------------------


def test_several_styles_are_one_pool_of_positions(task: Train):
    first, second = paintings(2, 48).split(1)
    together = image(task, Style(first, 0.5), Style(second, 0.5))
    s = StylizeControls()
    pool = torch.cat([rows(task.encode(first)), rows(task.encode(second))])
    assert_close(together, task.decoder(recombined(task.encode(CONTENT), sub_styles([pool], s), (), s).features))
    assert torch.equal(image(task, Style(first, 1.0), Style(second, 0.0)), image(task, Style(first)))


def test_a_weight_is_how_much_of_a_style_takes_part():
    pools = [torch.arange(40.0)[:, None], torch.arange(100.0, 120)[:, None]]
    assert torch.equal(weighed(pools, [0.5, 0.5])[1], pools[1])
    half, whole = weighed(pools, [0.2, 0.4])
    assert torch.equal(whole, pools[1])
    assert len(half.unique()) == 20
    assert 5 <= (half < 20).sum() <= 15
    assert [len(part) for part in weighed(pools, [1.0, 0.0])] == [40, 0]


def test_masks_share_the_content_out_to_styles(task: Train):
    """Each side has the statistics that its own style has, as if the other were not there."""
    first, second = paintings(2, 48).split(1)
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    picture = drawn(task, Style(first, mask=left), Style(second, mask=1 - left), n_clusters=1, smooth_lambda=0.0)
    expected = task.encode(CONTENT)
    s = StylizeControls(n_clusters=1)
    for part, style in ((expected[..., :4], first), (expected[..., 4:], second)):
        part.copy_(recombined(part.clone(), sub_styles([rows(task.encode(style))], s), (), s).features)
    assert_close(picture.image, task.decoder(expected), rtol=1e-3, atol=1e-3)


def test_the_distance_that_is_shown_is_without_what_masks_add_to_it(task: Train):
    halves = [Style(STYLE, mask=torch.full((1, 1, 64, 64), 0.5)) for _ in range(2)]
    shown = [drawn(task, *styles, smooth_lambda=0.0).maps["distance"] for styles in (halves, [Style(STYLE)])]
    assert_close(*shown)


def test_the_sub_styles_of_a_video_are_found_once(task: Train, monkeypatch: pytest.MonkeyPatch):
    frames = list(photos(3, 32).split(1))
    alone = [drawn(task, content=frame).image for frame in frames]
    found: list[int] = []
    kept = task.sub_styles_of
    monkeypatch.setattr(task, "sub_styles_of", lambda *given: found.append(1) or kept(*given))
    pictures = list(task.stylize_video(iter(frames), [Style(STYLE)], StylizeControls()))
    assert all(torch.equal(one.image, other) for one, other in zip(pictures, alone, strict=True) if other is not None)
    assert len(found) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_tiles_give_the_whole_picture(task: Train, masked: bool, tmp_path: Path):
    content, mask = photos(1, 96), torch.zeros(1, 1, 96, 96)
    mask[:, :, :40] = 1
    styles = [Style(each, 0.5) for each in paintings(2, 64).split(1)]
    if masked:
        styles = [Style(each.image, mask=m) for each, m in zip(styles, (mask, 1 - mask), strict=True)]
    source, target = Raster(tmp_path / "source", 96, 96), Raster(tmp_path / "target", 96, 96)
    source.write(0, 0, content)
    controls = {"smooth_lambda": 0.03, "alpha": 0.8, "eig_rel_eps": 1e-2}
    task.stylize_tiles(source, target, styles, StylizeControls(**controls), tile=32)
    expected = image(task, *styles, content=content, **controls)
    assert_close(target.read(0, 0, 96, 96), expected, rtol=1e-3, atol=1e-3)


def test_the_preview_shows_labels_as_in_training():
    task = mst(n_clusters=2, smooth_lambda=0.0)
    task.begin("warmup", 0)
    names = [name for name, _ in task.preview(batch_of(task.preview_streams()))]
    pairs = [f"{what}-{n}-{m}" for n in (1, 2) for m in (1, 2) for what in ("result", "labels")]
    assert names == ["style-1", "style-2", "content-1", *pairs[:4], "content-2", *pairs[4:]]
