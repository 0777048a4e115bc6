"""The transformation module of linear style transfer: which linear map of the features a pair of pictures asks for.

    T = snet(F_s - mean_s) cnet(F_c - mean_c)                   m x m each, from second moments of three convolutions
    F = unzip(T compress(F_c - mean_c)) + mean_s                one affine map A F_c + b, the same at every position

T has a factor of each picture's own, so a style is read once for all frames of a video, and a picture of any size needs
no more of its whole than two small statistics.
Source: Li et al. 2019 (arXiv:1808.04537), section 3.3, and the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from stylemodels import tiles
from stylemodels.features import at_least_float32
from stylemodels.method import Regions
from stylemodels.prepare import Size, nearest
from stylemodels.raster import Raster, Readable
from stylemodels.whitening import AffineMap

NET_HALO_CELLS = 3  # three convolutions look so far


class Side(NamedTuple):
    """What one of the two pictures brings to T."""

    matrix: Tensor  # (N, m, m)
    mean: Tensor  # (N, C, 1, 1)


class MatrixNet(nn.Module):
    """cnet or snet: centred features to an m x m matrix, through the second moment of three convolutions' output."""

    def __init__(self, channels: int, matrix_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, channels // 4, 3, padding=1)
        self.conv3 = nn.Conv2d(channels // 4, matrix_size, 3, padding=1)
        self.fc = nn.Linear(matrix_size**2, matrix_size**2)

    def features(self, centred: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, m, H, W)."""
        features: Tensor = self.conv3(relu(self.conv2(relu(self.conv1(centred)))))
        return features

    def matrix(self, second_moment: Tensor) -> Tensor:
        """(N, m, m) -> (N, m, m)."""
        with torch.autocast(second_moment.device.type, enabled=False):
            matrix: Tensor = self.fc(second_moment.flatten(1)).view_as(second_moment)
        return matrix

    def forward(self, centred: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, m, m)."""
        return self.matrix(second_moment(self.features(centred).flatten(2)))


class Transform(nn.Module):
    """The transformation module: compress, cnet, snet, unzip. Features are (N, C, H, W), of any two sizes."""

    def __init__(self, channels: int, matrix_size: int) -> None:
        super().__init__()
        self.compress = nn.Conv2d(channels, matrix_size, 1)
        self.cnet, self.snet = MatrixNet(channels, matrix_size), MatrixNet(channels, matrix_size)
        self.unzip = nn.Conv2d(matrix_size, channels, 1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Content features in the style of the style features, as large as the content's."""
        own, painted = side(self.cnet, content), side(self.snet, style)
        z = self.compress(at_least_float32(content) - own.mean)
        with torch.autocast(z.device.type, enabled=False):
            turned = (painted.matrix @ own.matrix @ at_least_float32(z).flatten(2)).reshape(z.shape)
        features: Tensor = self.unzip(turned) + painted.mean
        return features

    def folded(self, own: Side, painted: Side) -> AffineMap:
        """The whole module as one map A F_c + b, float64; rank of A: m at most."""
        unzip, compress = (conv.weight[:, :, 0, 0].double() for conv in (self.unzip, self.compress))
        assert self.unzip.bias is not None
        assert self.compress.bias is not None
        left = unzip @ painted.matrix.double() @ own.matrix.double()
        matrix = left @ compress
        offset = left @ self.compress.bias.double()[:, None] - matrix @ own.mean.double().flatten(2)
        bias = self.unzip.bias.double()[:, None] + painted.mean.double().flatten(2) + offset
        return AffineMap(matrix, bias[..., 0])

    def by_region(self, content: Tensor, style: Tensor, regions: Regions, min_cells: int) -> Tensor:
        """As `forward`, but each region of the content by the region of the same label in the style.

        Regions below `min_cells` positions in either map take the transformation of the whole picture, where the
        authors' code leaves them without a mean: dark.
        """
        features: Tensor = self(content, style)
        content_parts = parts_of(regions.content, content, min_cells)
        style_parts = parts_of(regions.style, style, min_cells)
        own, painted = centred_by_part(content, content_parts), centred_by_part(style, style_parts)
        z, own_output, painted_output = self.compress(own), self.cnet.features(own), self.snet.features(painted)
        for label in sorted(content_parts.keys() & style_parts.keys()):
            here, there = content_parts[label], style_parts[label]
            left = self.snet.matrix(second_moment(painted_output[..., there]))
            turned = left @ self.cnet.matrix(second_moment(own_output[..., here])) @ z[..., here]
            mean = style[..., there].mean(2, keepdim=True)
            features[..., here] = self.unzip(turned[..., None])[..., 0] + mean
        return features


def side(net: MatrixNet, features: Tensor) -> Side:
    """What a picture of these features (N, C, H, W) brings to T."""
    mean = at_least_float32(features).mean((2, 3), keepdim=True)
    return Side(net(at_least_float32(features) - mean), mean)


def second_moment(values: Tensor) -> Tensor:
    """f f^T / positions, not centred: (N, m, positions) -> (N, m, m)."""
    with torch.autocast(values.device.type, enabled=False):
        values = at_least_float32(values)
        return values @ values.transpose(1, 2) / values.shape[2]


def parts_of(labels: Tensor, features: Tensor, min_cells: int) -> dict[int, Tensor]:
    """Label -> where it lies among the positions of `features`, (h, w) of bool; for labels that are large enough."""
    cells = nearest(labels, Size(*features.shape[-2:]))[0, 0]
    found, counts = torch.unique(cells, return_counts=True)
    return {int(label): cells == label for label in found[counts >= min_cells]}


def centred_by_part(features: Tensor, parts: Mapping[int, Tensor]) -> Tensor:
    """Each part less its own mean; what belongs to none stays as it is."""
    centred = features.clone()
    for part in parts.values():
        centred[..., part] -= features[..., part].mean(2, keepdim=True)
    return centred


def tiled_side(net: MatrixNet, source: Readable, level: tiles.Level, path: Path, *, tile: int) -> tuple[Side, Raster]:
    """`side` of a picture of any size, and its features, in a new file at `path`.

    The mean comes first, then the second moment of the net's output. Exact: the net sees three cells around each tile,
    and its zero padding at the picture's border only.
    """
    kept = tiles.room_for_features(source, level, path)
    count = kept.height * kept.width
    total: Tensor | float = 0.0
    for place, features in tiles.feature_tiles(source, level, tile=tile):
        kept.write(place.top, place.left, features)
        total = total + features.double().sum((2, 3), keepdim=True)
    mean = (torch.as_tensor(total) / count).float()
    products: Tensor | float = 0.0
    for place in tiles.cells_of(source, level, tile):
        around = place.grown(NET_HALO_CELLS, kept.height, kept.width)
        output = net.features(kept.read(*around).to(mean) - mean)
        values = place.inside(around).of(output).flatten(2).double()
        products = products + values @ values.transpose(1, 2)
    return Side(net.matrix((torch.as_tensor(products) / count).float()), mean), kept
