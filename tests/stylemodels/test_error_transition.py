"""ETNet's networks: checks 1, 2, 4 and 6 of its reproduction, each block against an independent formula."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.testing import assert_close

from stylemodels.attention import attention_map
from stylemodels.error_encoder import TAPS, Errors
from stylemodels.error_transition import CrossAttention, Diffusion, ErrorTransition, Fusion, truncated_normal_

PUBLISHED = dict(zip(TAPS, (64, 128, 256, 512), strict=True))
NARROW = dict(zip(TAPS, (8, 16, 32, 64), strict=True))


def network(coarser_scales: int, channels: Mapping[str, int] = NARROW, *, start_std: float = 0.1) -> ErrorTransition:
    torch.manual_seed(0)
    return ErrorTransition(channels, coarser_scales, start_std=start_std, form="sdpa", chunk=16)


def signals(scales: int, side: int = 32, *, count: int = 1) -> tuple[dict[str, Tensor], list[Errors]]:
    """Features of a picture of `side` pixels, and errors of so many scales, the coarsest first."""
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random)

    features = {tap: normal(c, side >> n, side >> n).relu() for n, (tap, c) in enumerate(NARROW.items())}
    style = [{tap: normal(c, c) for tap, c in NARROW.items()} for _ in range(scales)]
    sides = [side >> (3 + n) for n in range(scales)][::-1]
    return features, [
        Errors(normal(64, s, s), {t: d + d.mT for t, d in ds.items()}) for s, ds in zip(sides, style, strict=True)
    ]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_check_1_blocks_and_levels_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        coarse, middle, fine = (network(n, PUBLISHED) for n in range(3))
    assert [parameters(each) for each in (coarse, middle, fine)] == [7_065_667, 8_586_819, 10_107_971]
    fusions = (fine.fuse4, fine.fuse3, fine.fuse2, fine.fuse1)
    assert [parameters(each) for each in fusions] == [540_672, 135_168, 33_792, 8_448]
    decoders = (fine.decode4, fine.decode3, fine.decode2, fine.decode1)
    assert [parameters(each) for each in decoders] == [2_577_408, 885_376, 811_712, 186_371]
    assert [parameters(step.decode) for step in fine.steps] == [980_480, 980_480]
    assert (parameters(fine.diffuse), parameters(fine.diffuse.to_errors)) == (1_886_720, 525_568)


def test_a_fusion_multiplies_every_position_s_row_by_the_weights_and_the_style_error():
    torch.manual_seed(0)
    fusion = Fusion(8).double()
    nn.init.normal_(fusion.weight)
    errors, style_error = torch.randn(2, 8, 3, 4, dtype=torch.float64), torch.randn(2, 8, 8, dtype=torch.float64)
    spread = fusion.bottleneck(errors)
    product = torch.empty_like(spread)
    for n in range(2):
        for row in range(3):
            for column in range(4):
                product[n, :, row, column] = spread[n, :, row, column] @ (fusion.weight @ style_error[n])
    expected = fusion.bottleneck(product)
    assert_close(fusion(errors, style_error), torch.where(expected > 0, expected, 0.1 * expected))


@pytest.mark.parametrize("missing", ["content", "style"])
def test_check_4_the_fusion_is_a_product_that_is_nothing_where_either_error_is_nothing(missing: str):
    torch.manual_seed(0)
    errors, style_error = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 8)
    fused = Fusion(8)(errors * (missing != "content"), style_error * (missing != "style"))
    assert not fused.any()


def test_check_2_attention_adds_to_every_position_what_it_finds_in_the_target():
    torch.manual_seed(0)
    block = CrossAttention(8, "sdpa", 16).double()
    source, target = torch.randn(2, 1, 8, 3, 4, dtype=torch.float64)
    weights = attention_map(block.f(source), block.g(target))
    assert weights.shape == (1, 12, 12)
    assert_close(weights.sum(-1), torch.ones(1, 12, dtype=torch.float64), rtol=0, atol=1e-12)
    logits = block.f(source)[0].flatten(1).T @ block.g(target)[0].flatten(1)
    assert_close(weights[0], logits.exp() / logits.exp().sum(1, keepdim=True))
    found = (weights[0] @ block.h(target)[0].flatten(1).T).T.view(1, 4, 3, 4)
    assert_close(block(source, target), target + block.out(found))


@pytest.mark.parametrize("form", ["full", "chunked"])
def test_the_forms_of_attention_agree(form: str):
    torch.manual_seed(0)
    block = Diffusion(8, "sdpa", 5)
    errors, features = torch.randn(2, 1, 8, 4, 4)
    expected = block(errors, features)
    for attention in (block.to_features, block.to_errors):
        attention.form = form
    assert_close(block(errors, features), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("coarser_scales", [0, 1, 2])
def test_a_level_gives_a_residual_of_its_own_size_from_the_errors_of_all_scales_below(coarser_scales: int):
    level = network(coarser_scales)
    features, errors = signals(coarser_scales + 1, 64, count=2)
    residual = level(features, errors)
    assert residual.shape == (2, 3, 64, 64)
    for place in range(len(errors)):
        without = [scale.none() if n == place else scale for n, scale in enumerate(errors)]
        assert not torch.equal(level(features, without), residual), f"scale {place} matters"


class Written:
    """A level as published, from nothing but its weights by name."""

    def __init__(self, level: ErrorTransition) -> None:
        self.weights = dict(level.named_parameters())

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        padded = pad(x, (weight.shape[-1] // 2,) * 4, mode="reflect")
        return conv2d(padded, weight, self.weights.get(f"{name}.bias"))

    def bottleneck(self, name: str, x: Tensor) -> Tensor:
        inner = lrelu(self.conv(f"{name}.conv", lrelu(self.conv(f"{name}.reduce", x))))
        shortcut = self.conv(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in self.weights else x
        return self.conv(f"{name}.expand", inner) + shortcut

    def residual(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.conv2", lrelu(self.conv(f"{name}.conv1", x))) + x

    def doubled(self, name: str, x: Tensor) -> Tensor:
        """RS, u, RS of a decoder."""
        x = self.residual(f"{name}.1", x).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return self.residual(f"{name}.3", x)

    def fused(self, name: str, x: Tensor, error: Tensor) -> Tensor:
        rows = self.bottleneck(f"{name}.bottleneck", x)
        product = torch.einsum("ncyx,cd,nde->neyx", rows, self.weights[f"{name}.weight"], error)
        return lrelu(self.bottleneck(f"{name}.bottleneck", product))

    def step(self, name: str, x: Tensor, error: Tensor) -> Tensor:
        x = lrelu(self.bottleneck(f"{name}.decode.0", self.fused(f"{name}.fuse", x, error)))
        return lrelu(self.bottleneck(f"{name}.decode.5", lrelu(self.doubled(f"{name}.decode", x))))

    def attended(self, name: str, source: Tensor, target: Tensor) -> Tensor:
        f, g, h = (self.conv(f"{name}.{n}", x).flatten(2) for n, x in (("f", source), ("g", target), ("h", target)))
        found = h @ (f.mT @ g).softmax(2).mT
        return self.conv(f"{name}.out", found.unflatten(2, source.shape[2:])) + target

    def diffused(self, errors: Tensor, features: Tensor) -> Tensor:
        e, t = self.bottleneck("diffuse.of_errors", errors), self.bottleneck("diffuse.of_features", features)
        both = self.attended("diffuse.to_features", e, t) + self.attended("diffuse.to_errors", t, e)
        return lrelu(self.bottleneck("diffuse.merge", lrelu(both)))

    def decode4(self, x: Tensor) -> Tensor:
        return self.doubled("decode4", lrelu(self.bottleneck("decode4.0", x)))

    def decode3(self, x: Tensor) -> Tensor:
        return self.doubled("decode3", lrelu(self.conv("decode3.0.0", x)))

    def decode2(self, x: Tensor) -> Tensor:
        doubled = self.doubled("decode2", lrelu(self.conv("decode2.0.0", x)))
        return lrelu(self.conv("decode2.5.0", lrelu(doubled)))

    def decode1(self, x: Tensor) -> Tensor:
        x = lrelu(self.residual("decode1.2", lrelu(self.residual("decode1.0", x))))
        return self.conv("decode1.5", lrelu(self.conv("decode1.4.0", x)))


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def test_a_level_with_two_coarser_scales_is_what_is_published():
    level = network(2).double()
    for parameter in level.parameters():
        nn.init.normal_(parameter, std=0.1)
    features, errors = signals(3, 64)
    f1, f2, f3, f4 = (features[tap].double() for tap in TAPS)
    c3, c2, c1 = (scale.content.double() for scale in errors)
    s3, s2, (d1, d2, d3, d4) = ([scale.style[tap].double() / 10 for tap in TAPS] for scale in errors)
    w = Written(level)
    e = w.step("steps.0", c3, s3[3]) + c2
    e = w.step("steps.1", e, s2[3]) + c1
    e4 = w.fused("fuse4", e, d4)
    e3 = w.fused("fuse3", w.decode4(e4), d3)
    e2 = w.fused("fuse2", w.decode3(e3), d2)
    e1 = w.fused("fuse1", w.decode2(e2), d1)
    h = lrelu(w.decode4(w.diffused(e4, f4)) + f3 + e3)
    h = lrelu(w.decode3(h) + f2 + e2)
    h = lrelu(w.decode2(h) + f1 + e1)
    scales = zip((c3, c2, c1), (s3, s2, (d1, d2, d3, d4)), strict=True)
    given = [Errors(content, dict(zip(TAPS, style, strict=True))) for content, style in scales]
    assert_close(level(dict(zip(TAPS, (f1, f2, f3, f4), strict=True)), given), w.decode1(h))


def test_samples_of_a_batch_do_not_mix():
    level = network(1).double()
    features, errors = signals(2, count=2)
    features = {tap: f.double() for tap, f in features.items()}
    errors = [Errors(e.content.double(), {tap: d.double() for tap, d in e.style.items()}) for e in errors]
    first = [Errors(e.content[:1], {tap: d[:1] for tap, d in e.style.items()}) for e in errors]
    assert_close(level({tap: f[:1] for tap, f in features.items()}, first), level(features, errors)[:1])


def test_check_6_the_error_path_and_the_image_path_share_the_decoders():
    level = network(0)
    features, errors = signals(1)
    assert len({name for name in level.state_dict() if name.startswith("decode4.0.reduce")}) == 1
    for name in ("decode4", "decode3", "decode2"):
        decoder = level.get_submodule(name)
        results: list[Tensor] = []
        hook = decoder.register_forward_hook(lambda *call, into=results: into.append(call[-1]))
        level(features, errors)
        with torch.no_grad():
            next(decoder.parameters()).add_(0.1)
        level(features, errors)
        hook.remove()
        before, after = results[:2], results[2:]
        assert len(before) == len(after) == 2, f"{name} is used on the error path and on the image path"
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_level_starts_with_the_published_weights_and_almost_no_residual():
    level = network(1, start_std=0.001)
    features, errors = signals(2)
    assert level(features, errors).abs().max() < 1e-2
    for module in level.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.abs().max() <= 0.002
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, Fusion):
            assert 0 <= module.weight.min() <= module.weight.max() <= 0.001
    widest, fusion = level.decode4[1].conv1.weight, level.fuse4.weight
    assert_close(widest.std().item(), 0.8796e-3, rtol=0.05, atol=0)  # of a normal number within two deviations
    assert_close(fusion.mean().item(), 0.5e-3, rtol=0.05, atol=0)


def test_numbers_that_are_cut_off_at_two_deviations_keep_the_distribution_in_between():
    drawn = truncated_normal_(torch.empty(200_000, dtype=torch.float64), 0.1, torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 0.2
    inside = torch.erf(torch.tensor(0.5, dtype=torch.float64).sqrt()) / torch.erf(torch.tensor(2.0).sqrt())
    assert_close(float((drawn.abs() < 0.1).double().mean()), float(inside), rtol=0, atol=0.005)
    assert abs(float(drawn.mean())) < 0.001
