"""Gates on channels. The numbered checks are those of the paper's reproduction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d
from torch.testing import assert_close

from stylemodels.recalibration import (
    GatherExcite,
    SqueezeExcitation,
    StyleRecalibration,
    recalibration,
    style_parameters,
    watched,
)


def features(*shape: int, seed: int = 0) -> Tensor:
    """Channels of different means and contrasts, float64."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(*shape, generator=random, dtype=torch.float64)
    scale = 0.2 + 3 * torch.rand(*shape[:2], 1, 1, generator=random, dtype=torch.float64)
    return noise * scale + torch.randn(*shape[:2], 1, 1, generator=random, dtype=torch.float64)


def learnt(channels: int, *, seed: int = 0, **options: float) -> StyleRecalibration:
    """An SRM whose parameters and running statistics are any, float64."""
    random = torch.Generator().manual_seed(seed)
    module = StyleRecalibration(channels, **options).double()
    for tensor in (*module.parameters(), module.norm.running_mean):
        tensor.data.copy_(torch.randn(tensor.shape, generator=random, dtype=torch.float64))
    module.norm.running_var.copy_(0.5 + torch.rand(channels, generator=random, dtype=torch.float64))
    return module


def by_hand(module: StyleRecalibration, x: Tensor, *, training: bool) -> Tensor:
    """The gates, one number after the other."""
    count, channels = x.shape[:2]
    z = torch.zeros(count, channels, dtype=torch.float64)
    for n in range(count):
        for c in range(channels):
            values = x[n, c].flatten().tolist()
            mu = sum(values) / len(values)
            sigma = (sum((v - mu) ** 2 for v in values) / len(values) + 1e-5) ** 0.5
            z[n, c] = module.weight[c, 0] * mu + module.weight[c, 1] * sigma
    gates = torch.zeros_like(z)
    for c in range(channels):
        if training:
            mean = z[:, c].sum() / count
            var = ((z[:, c] - mean) ** 2).sum() / count
        else:
            mean, var = module.norm.running_mean[c], module.norm.running_var[c]
        gates[:, c] = module.norm.weight[c] * (z[:, c] - mean) / (var + 1e-5).sqrt() + module.norm.bias[c]
    return 1 / (1 + (-gates).exp())


def test_check_1_an_srm_has_four_parameters_a_channel_and_its_rivals_the_published_many():
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(StyleRecalibration(24)) == 4 * 24
    assert sum(t.numel() for t in StyleRecalibration(24).state_dict().values()) == 6 * 24 + 1
    assert count(SqueezeExcitation(64)) == 2 * 64**2 // 16 + 64 // 16 + 64
    assert count(GatherExcite(24, side=7)) == 24 * 7**2 + 3 * 24
    assert count(recalibration("none", 24)) == 0
    assert SqueezeExcitation(8).squeeze.out_features == 1, "C // r, but one at least (check 12)"


@pytest.mark.parametrize("training", [True, False])
def test_check_2_at_the_start_every_gate_is_a_half(training: bool):
    module = StyleRecalibration(5).train(training)
    x = features(3, 5, 6, 7).float()
    assert torch.equal(module.gates(x), torch.full((3, 5), 0.5))
    assert torch.equal(module(x), x / 2)


@pytest.mark.parametrize("training", [True, False])
def test_check_3_the_gates_are_those_of_the_formula(training: bool):
    module, x = learnt(4).train(training), features(3, 4, 5, 6)
    expected = by_hand(module, x, training=training)
    assert_close(module.gates(x), expected, rtol=0, atol=1e-10)
    assert_close(module(x), x * expected[..., None, None])


def test_check_3_channel_wise_integration_is_a_depthwise_convolution_over_mean_and_std():
    module, x = learnt(6).eval(), features(2, 6, 8, 8)
    pooled = torch.stack([x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-5).sqrt()], 2)
    z = conv1d(pooled, module.weight[:, None], groups=6)[..., 0]
    assert_close(module.gates(x), module.norm(z).sigmoid(), rtol=0, atol=1e-6)


def test_check_4_channels_do_not_see_each_other():
    module, x = learnt(4).eval(), features(1, 4, 3, 3)
    jacobian = torch.autograd.functional.jacobian(module, x)[0, :, :, :, 0].abs().sum((1, 2, 4, 5))  # (out, in)
    assert torch.equal(jacobian > 0, torch.eye(4, dtype=torch.bool))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = learnt(4).eval()
    for tensor, of in zip(shuffled.state_dict().values(), module.state_dict().values(), strict=True):
        tensor.copy_(of[order] if of.ndim else of)
    assert_close(shuffled(x[:, order]), module(x)[:, order])
    rival = SqueezeExcitation(4, reduction=1).double()
    rival.squeeze.bias.data.fill_(5)
    crossed = torch.autograd.functional.jacobian(rival, x)[0, :, :, :, 0].abs().sum((1, 2, 4, 5))
    assert (crossed > 0).sum() > 4, "SE mixes channels"


def test_check_5_contrast_opens_other_gates_and_order_does_not():
    module, x = learnt(4).eval(), features(1, 4, 6, 6)
    mean = x.mean((2, 3), keepdim=True)
    stronger = mean + 2 * (x - mean)
    rival = SqueezeExcitation(4).double()
    assert_close(rival.gates(x), rival.gates(stronger))
    assert (module.gates(x) - module.gates(stronger)).abs().max() > 0.01
    shuffled = x.flatten(2)[..., torch.randperm(36, generator=torch.Generator().manual_seed(0))].view_as(x)
    assert_close(module.gates(shuffled), module.gates(x))


def test_check_6_the_scale_of_the_weights_does_not_matter_in_training():
    module, x = learnt(4).train(), 100 * features(8, 4, 6, 6)
    before = module.gates(x)
    module.weight.data.mul_(5)
    assert (module.gates(x) - before).abs().max() < 1e-3


@pytest.mark.parametrize(
    "x",
    [torch.full((3, 4, 5, 5), 0.7), torch.zeros(3, 4, 5, 5), features(3, 4, 1, 1).float()],
    ids=["constant", "zero", "1x1"],
)
@pytest.mark.parametrize("correction", [0, 1])
def test_check_7_gradients_are_finite_on_flat_channels(x: Tensor, correction: int):
    module = learnt(4, correction=correction).float().train()
    x = x.clone().requires_grad_()
    module(x).square().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_check_7_gains_learn_from_the_second_step_and_statistics_run_in_training_only():
    module, x = StyleRecalibration(4).double(), features(6, 4, 5, 5)
    goal = features(6, 4, 5, 5, seed=1)
    for step in (1, 2):
        module.zero_grad()
        (module(x) - goal).square().mean().backward()
        moved = {name: bool(p.grad.abs().max() > 0) for name, p in module.named_parameters()}
        assert moved == {"weight": True, "norm.weight": step == 2, "norm.bias": True}
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.01 * parameter.grad
    before = module.norm.running_mean.clone()
    module.eval()(x)
    assert torch.equal(module.norm.running_mean, before)
    module.train()(x)
    assert not torch.equal(module.norm.running_mean, before)


def test_the_published_code_s_variance_is_larger_by_one_position():
    x = features(2, 3, 4, 4)
    ours, theirs = learnt(3).eval(), learnt(3, correction=1).eval()
    scaled = x.mean((2, 3), keepdim=True) + (x - x.mean((2, 3), keepdim=True)) * (16 / 15) ** 0.5
    assert_close(theirs.gates(x), ours.gates(scaled), rtol=1e-10, atol=1e-12)


def test_check_12_one_picture_and_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match="batch_size: 1 picture was given, the gates of SRM learn from 2"):
        StyleRecalibration(4)(torch.rand(1, 4, 3, 3))
    with pytest.raises(ValueError, match="recalibration ge: a map of 6 x 8 was given, its gates are built for 7"):
        GatherExcite(4, side=7)(torch.rand(2, 4, 6, 8))


def test_rivals_gate_as_they_are_defined():
    x = features(2, 32, 7, 7)
    se = SqueezeExcitation(32).double()
    hidden = (x.mean((2, 3)) @ se.squeeze.weight.T + se.squeeze.bias).clamp(min=0)
    assert_close(se.gates(x), (hidden @ se.excite.weight.T + se.excite.bias).sigmoid())
    ge = GatherExcite(32, side=7).double().eval()
    gathered = (x * ge.gather.weight[:, 0]).sum((2, 3)) + ge.gather.bias
    assert_close(ge.gates(x), (gathered / (1 + 1e-5) ** 0.5).sigmoid())


@pytest.mark.parametrize("kind", ["srm", "se"])
def test_watching_sees_the_gates_of_every_pass_and_ends(kind: str):
    make: Callable[[], nn.Module] = lambda: recalibration(kind, 4)  # noqa: E731
    network = nn.Sequential(make(), nn.ReLU(), make()).eval()
    x = features(2, 4, 5, 5).float()
    with watched(network) as seen:
        network(x)
        network(x[:1])
    network(x)
    shapes = {name: [tuple(g.shape) for g in gates] for name, gates in seen.items()}
    assert shapes == {"0": [(2, 4), (1, 4)], "2": [(2, 4), (1, 4)]}
    assert len(style_parameters(network)) == (6 if kind == "srm" else 0)
