"""Building blocks of networks that several methods share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


def reflect_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with bias that keeps the size (or halves it, rounding up) by reflecting the border."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect")


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm with gain and bias, without running statistics; in float32 also under autocast."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.to(self.weight.dtype))


class ResidualBlock(nn.Module):
    """y = x + IN(conv(relu(IN(conv(x))))), without a ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = reflect_conv(channels, channels, 3)
        self.in1 = InstanceNorm(channels)
        self.conv2 = reflect_conv(channels, channels, 3)
        self.in2 = InstanceNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        inner = relu(self.in1(self.conv1(features)))
        result: Tensor = features + self.in2(self.conv2(inner))
        return result


class FastStyleNetwork(nn.Module):
    """The feed-forward network of fast neural style, with nearest up-sampling and a sigmoid at the end.

    width: channels of the first layer. At 32 with five residual blocks it has 1,679,235 parameters, the published
    1.68M, of which 3,200 are the gains and biases of its instance norms.

    Images (N, 3, H, W) in [0, 1] give images (N, 3, 4*ceil(H/4), 4*ceil(W/4)) strictly inside (0, 1); sides from 5 px.
    Source: Johnson et al. 2016 (arXiv:1603.08155), as Zhang et al. 2019 (arXiv:1812.05233) use it.
    """

    def __init__(self, width: int = 32, res_blocks: int = 5) -> None:
        super().__init__()
        self.conv1 = reflect_conv(3, width, 9)
        self.in1 = InstanceNorm(width)
        self.conv2 = reflect_conv(width, 2 * width, 3, stride=2)
        self.in2 = InstanceNorm(2 * width)
        self.conv3 = reflect_conv(2 * width, 4 * width, 3, stride=2)
        self.in3 = InstanceNorm(4 * width)
        self.residual = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(res_blocks)))
        self.deconv1 = reflect_conv(4 * width, 2 * width, 3)
        self.in4 = InstanceNorm(2 * width)
        self.deconv2 = reflect_conv(2 * width, width, 3)
        self.in5 = InstanceNorm(width)
        self.deconv3 = reflect_conv(width, 3, 9)

    def forward(self, images: Tensor) -> Tensor:
        features = relu(self.in1(self.conv1(images)))
        features = relu(self.in2(self.conv2(features)))
        features = relu(self.in3(self.conv3(features)))
        features = self.residual(features)
        features = relu(self.in4(self.deconv1(interpolate(features, scale_factor=2))))
        features = relu(self.in5(self.deconv2(interpolate(features, scale_factor=2))))
        result: Tensor = self.deconv3(features).to(images.dtype).sigmoid()
        return result


def norm_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Gains and biases of all instance norms of a network, by their names in it."""
    return {
        f"{name}.{key}": parameter
        for name, module in network.named_modules()
        if isinstance(module, InstanceNorm)
        for key, parameter in module.named_parameters()
    }
