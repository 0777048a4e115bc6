from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from stylemodels.encoders import load_encoder
from stylemodels.export import write_model
from stylemodels.methods import find_task
from stylemodels.quality import (
    Measures,
    content_distance,
    evaluate_model,
    gram_distance,
    histogram_distance,
    measure,
    perceptual_distance,
    relative_content_distance,
    ssim,
    statistics_distance,
    table,
)
from stylemodels.stylize import Model, load_model
from tests.stylemodels.toy import paintings, photos, small_task

ENCODER = load_encoder("random")


def maps(seed: int, height: int = 6, width: int = 5) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shape = {"relu1_1": (1, 3, 2 * height, 2 * width), "relu2_1": (1, 4, height, width)}
    return {tap: torch.rand(*sides, generator=random, dtype=torch.float64) for tap, sides in shape.items()}


def model_of(name: str, folder: Path) -> Model:
    method, task = find_task(name)
    write_model(folder, small_task(name), method, task)
    return load_model(folder)


def test_content_distance_is_twice_what_the_channels_lack_in_correlation():
    a, b = maps(0)["relu2_1"], maps(1)["relu2_1"]
    correlations = [np.corrcoef(a[0, c].flatten(), b[0, c].flatten())[0, 1] for c in range(4)]
    # the statistics' eps of 1e-5 makes the difference
    assert content_distance(a, b).item() == pytest.approx(2 * (1 - np.mean(correlations)), rel=1e-3)
    assert content_distance(a, 3 * a + 2).item() < 1e-7


def test_gram_distance_agrees_with_numpy():
    output, style = maps(0), maps(1, 3, 7)
    terms = []
    for tap in style:
        f, g = (np.asarray(x[tap][0]).reshape(x[tap].shape[1], -1) for x in (output, style))
        own, wanted = f @ f.T / f.size, g @ g.T / g.size
        terms.append(((own - wanted) ** 2).sum() / (wanted**2).sum())
    assert gram_distance(output, style).item() == pytest.approx(np.mean(terms), rel=1e-10)
    assert gram_distance({tap: x.tile(1, 1, 2, 3) for tap, x in style.items()}, style).item() < 1e-20


def test_statistics_distance_agrees_with_numpy():
    output, style = maps(0), maps(1, 3, 7)
    terms = []
    for tap in style:
        f, g = (np.asarray(x[tap][0]).reshape(x[tap].shape[1], -1) for x in (output, style))
        own, wanted = (np.concatenate([x.mean(1), np.sqrt(x.var(1) + 1e-5)]) for x in (f, g))
        terms.append(((own - wanted) ** 2).sum() / (wanted**2).sum())
    assert statistics_distance(output, style).item() == pytest.approx(np.mean(terms), rel=1e-10)


def test_the_style_distances_do_not_depend_on_the_encoder_s_scale():
    output, style = maps(0), maps(1)
    scaled = [{tap: 7 * x for tap, x in features.items()} for features in (output, style)]
    assert_close(gram_distance(*scaled), gram_distance(output, style))
    assert_close(statistics_distance(*scaled), statistics_distance(output, style), rtol=1e-3, atol=0)


def test_perceptual_distance_compares_directions_position_by_position():
    first, second = maps(0), maps(1)
    terms = []
    for tap in first:
        a, b = (np.asarray(x[tap][0]).reshape(x[tap].shape[1], -1) for x in (first, second))
        cosines = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
        terms.append((2 - 2 * cosines).mean())
    assert perceptual_distance(first, second).item() == pytest.approx(np.mean(terms), rel=1e-10)
    assert perceptual_distance(first, {tap: 5 * x for tap, x in first.items()}).item() < 1e-20


def test_ssim_agrees_with_a_loop_over_windows():
    first, second = photos(1, 16).double()[..., :14], photos(1, 16, seed=1).double()[..., :14]
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for channel in range(3):
        for top in range(6):
            for left in range(4):
                a, b = (np.asarray(x[0, channel, top : top + 11, left : left + 11]) for x in (first, second))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 1e-4)
                    * (2 * covariance + 9e-4)
                    / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
                )
    assert ssim(first, second).item() == pytest.approx(np.mean(values), rel=1e-9)
    assert ssim(first, first).item() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="11"):
        ssim(first[..., :10], second[..., :10])


def test_colours_are_counted_wherever_they_are():
    first, second = photos(1, 32), paintings(1, 48)
    edges = [np.linspace(0, 1, 9)] * 3
    counts = [np.histogramdd(np.asarray(x[0]).reshape(3, -1).T, bins=edges)[0] for x in (first, second)]
    overlap = np.sqrt(counts[0] / counts[0].sum() * counts[1] / counts[1].sum()).sum()
    assert histogram_distance(first, second).item() == pytest.approx(np.sqrt(1 - overlap), rel=1e-6)
    assert histogram_distance(first, first.flip(-1)).item() < 1e-6
    assert histogram_distance(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 9, 2)).item() == 1


def test_the_content_itself_and_the_style_itself_are_the_ends_of_the_scales():
    content, style = photos(1, 64), paintings(1, 64)
    untouched, painted = measure(content, content, style, ENCODER), measure(style, content, style, ENCODER)
    assert (untouched.content_loss, untouched.perceptual) == (0, 0)
    assert untouched.ssim == pytest.approx(1, abs=1e-5)
    assert (painted.style_loss, painted.statistics, painted.colour) == pytest.approx((0, 0, 0), abs=1e-6)
    assert untouched.style_loss > 0 < painted.content_loss
    assert painted.ssim < 0.9


def test_every_pair_is_measured_beside_the_content_itself_and_gatys(tmp_path: Path):
    model = model_of("adain/train", tmp_path)
    contents, styles = (list(torch.split(pictures, 1)) for pictures in (photos(2, 64), paintings(2, 48)))
    rows = evaluate_model(model, contents, styles, encoder=ENCODER, gatys_steps=15, size=32)
    who = ["content itself", "adain/train", "gatys, 15 steps"]
    assert [(row.pair, row.picture) for row in rows] == [(pair, name) for pair in ("1", "2", "mean") for name in who]
    by_name = {(row.pair, row.picture): row.measures for row in rows}
    for name in who:
        first, second, mean = (by_name[pair, name].style_loss for pair in ("1", "2", "mean"))
        assert mean == pytest.approx((first + second) / 2)
    assert by_name["mean", who[2]].style_loss < by_name["mean", who[0]].style_loss

    lines = table(rows).splitlines()
    assert lines[0].split() == ["pair", "picture", *Measures.__dataclass_fields__]
    assert len(lines) == 1 + len(rows)
    assert len({len(line) for line in lines}) == 1, "the columns stand under each other"
    assert f"{by_name['1', who[1]].style_loss:.4f}" in lines[2]


def test_a_model_that_is_a_style_draws_the_contents_alone(tmp_path: Path):
    model = model_of("johnson/train", tmp_path)
    rows = evaluate_model(model, [photos(1, 64)], [paintings(1, 48)], encoder=ENCODER, size=0)
    assert [row.picture for row in rows[:2]] == ["content itself", "johnson/train"]


def test_pairs_that_are_none_are_refused(tmp_path: Path):
    model = model_of("johnson/train", tmp_path)
    for count in (0, 1):
        with pytest.raises(ValueError, match=rf"pairs: {count} contents and 0 styles"):
            evaluate_model(model, [photos(1, 32)] * count, [], encoder=ENCODER)


@pytest.mark.parametrize(
    ("picture", "content", "style", "says"),
    [
        ((32, 32), (32, 32), (1, 1), r"style: sides of \(1, 1\)"),
        ((16, 32), (16, 32), (32, 32), r"content: sides of \(16, 32\)"),
        ((32, 48), (32, 32), (32, 32), r"picture: \(1, 3, 32, 48\) was given for a content of \(1, 3, 32, 32\)"),
    ],
)
def test_pictures_that_cannot_be_measured_are_refused(
    picture: tuple[int, int], content: tuple[int, int], style: tuple[int, int], says: str
):
    with pytest.raises(ValueError, match=says):
        measure(torch.rand(1, 3, *picture), torch.rand(1, 3, *content), torch.rand(1, 3, *style), ENCODER)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_pictures_have_finite_measures(value: float):
    constant = torch.full((1, 3, 32, 64), value)
    for style in (constant, paintings(1, 32)):
        measures = measure(constant, constant, style, ENCODER)
        assert np.isfinite(list(vars(measures).values())).all()


def test_check_10_drawings_that_are_the_artworks_have_no_relative_distance_and_order_does_not_matter():
    """Of the content transformation block's checks."""
    random = torch.Generator().manual_seed(0)
    artworks, labels = torch.randn(9, 5, generator=random), torch.arange(9) % 3
    assert float(relative_content_distance(artworks, labels, artworks, labels)) == 0
    drawn, shown = torch.randn(6, 5, generator=random), torch.arange(6) % 3
    distance = relative_content_distance(drawn, shown, artworks, labels)
    near = [min((d - a).norm() for a, m in zip(artworks, labels, strict=True) if m == c)
            for d, c in zip(drawn, shown, strict=True)]  # fmt: skip
    far = [(a - b).norm() for a, m in zip(artworks, labels, strict=True)
           for b, c in zip(artworks, labels, strict=True) if m != c]  # fmt: skip
    assert_close(distance, torch.stack(near).mean() / torch.stack(far).mean())
    order, other = torch.randperm(9, generator=random), torch.randperm(6, generator=random)
    assert_close(relative_content_distance(drawn[other], shown[other], artworks[order], labels[order]), distance)


def test_relative_content_distance_needs_artworks_of_every_class_and_of_two():
    vectors, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="none of class 2"):
        relative_content_distance(vectors, torch.tensor([0, 1, 2, 0]), vectors, labels)
    with pytest.raises(ValueError, match="all show the same"):
        relative_content_distance(vectors, labels * 0, vectors, labels * 0)
