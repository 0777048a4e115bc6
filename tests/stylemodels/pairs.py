"""Random encoders with their decoders for the tests of tiles and cascades, and how much memory a drawing takes.

As a program, in a process of its own: `python -m tests.stylemodels.pairs HEIGHT WIDTH TILE` draws a picture of that
size through all five levels (TILE 0: the whole frame at once) and prints the peak of the process's memory in MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from stylemodels import cascade
from stylemodels.blocks import MirroredDecoder
from stylemodels.cascade import Pair
from stylemodels.method import Style
from stylemodels.raster import Raster
from stylemodels.vgg import VGG19_DEPTHS, Vgg, randomise
from tests.stylemodels.frugal import printed
from tests.stylemodels.toy import paintings, photos

LEVELS = (5, 4, 3, 2, 1)
WIDTHS = (4, 6, 8, 8, 8)


def random_pairs(
    levels: Sequence[int] = LEVELS, *, widths: Sequence[int] = WIDTHS, dtype: torch.dtype = torch.float32
) -> list[Pair]:
    """Encoders in VGG-19's layout with mean activations of about 1, and decoders that keep values of that order."""
    network = Vgg(VGG19_DEPTHS, widths, padding="reflect", pooling="max")
    randomise(network)
    network.to(dtype).requires_grad_(False)
    return [Pair(up_to(network, level), random_decoder(widths[:level], dtype), level) for level in levels]


def up_to(network: Vgg, level: int) -> Callable[[Tensor], Tensor]:
    tap = f"relu{level}_1"
    return lambda images: network(images, [tap])[tap]


def random_decoder(widths: Sequence[int], dtype: torch.dtype) -> MirroredDecoder:
    """Its pictures lie around 0.5."""
    decoder = MirroredDecoder(widths[::-1]).to(dtype).requires_grad_(False)
    random = torch.Generator().manual_seed(len(widths))
    for parameter in decoder.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=random)
        else:
            nn.init.constant_(parameter, 0.1)
    last = decoder.get_submodule("conv11")
    last.weight.mul_(0.1)
    last.bias.fill_(0.5)
    return decoder


def peak_mib(height: int, width: int, tile: int) -> float:
    """The peak of the resident memory of a process that draws such a picture, MiB."""
    return float(printed("-m", "tests.stylemodels.pairs", str(height), str(width), str(tile)))


def own_peak_mib() -> float:
    """Of this process. `getrusage` would count what the parent had in memory when it made the process."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def fill(raster: Raster) -> None:
    """With the same photo again and again, piece by piece, each a little darker than the one before."""
    photo = photos(1, 256)
    pieces = [(top, left) for top in range(0, raster.height, 256) for left in range(0, raster.width, 256)]
    for number, (top, left) in enumerate(pieces):
        piece = photo[..., : raster.height - top, : raster.width - left]
        raster.write(top, left, piece * (1 - 0.5 * number / len(pieces)))


def main(height: int, width: int, tile: int) -> None:
    torch.set_num_threads(1)
    style, recipe = [Style(paintings(1, 128))], {"alpha": 1.0, "eps": 1e-5, "shrink": 0.0}
    with TemporaryDirectory() as folder:
        source, target = Raster(Path(folder) / "source", height, width), Raster(Path(folder) / "target", height, width)
        fill(source)
        if tile:
            cascade.draw_tiles(source, target, style, random_pairs(), tile=tile, **recipe)
        else:
            target.write(0, 0, cascade.draw(source.read(0, 0, height, width), style, random_pairs(), **recipe))
        assert target.read(height - 16, width - 16, 16, 16).isfinite().all()
    print(own_peak_mib())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
