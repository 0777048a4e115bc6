"""How one training picture is cut out and varied: the recipes that `Stream.augment` names.

Every recipe is a function of a picture (3, H, W), uint8, both sides at least `kept_least`, and of a random generator
that belongs to this one draw (that of "tpfr" also of one that belongs to a couple); it gives (3, size, size), uint8.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from stylemodels.images import scaled_to_shorter, to_float
from stylemodels.method import Stream

SCALE_JITTER = {"tpfr": 0.1, "ctb": 0.2, "ctb-artwork": 0.2}
COLOR_JITTER = 0.05
GREY = (0.299, 0.587, 0.114)  # how bright red, green and blue are

CTB_ENLARGED = {"ctb": 2, "ctb-artwork": 1}  # photographs are enlarged before the crop
CTB_LONGER_PX = 1800  # but no further than this,
CTB_SMALLEST_PX = 800  # and small ones so far at least
CTB_TURN_DEGREES = 13.5
CTB_SHEAR = 0.05

CIFAR_BORDER = 8  # a border of 4 px for 32: an eighth
IMAGENET_AREA = (0.08, 1.0)
IMAGENET_ASPECT = (3 / 4, 4 / 3)
IMAGENET_TRIES = 10


def stored_shorter(stream: Stream) -> int:
    """The shorter side that a picture is kept with, so that a scale drawn at random shrinks it; 0 keeps its own."""
    return math.ceil(stream.load_size * (1 + scale_jitter(stream)))


def kept_least(stream: Stream) -> int:
    """The shorter side that a picture is kept with at least: the crop's, or its own where the recipe enlarges that."""
    return 0 if stream.augment in CTB_ENLARGED else stream.size


def scale_jitter(stream: Stream) -> float:
    """How far the scale strays from 1; 0 where the recipe has one scale only."""
    if stream.augment not in SCALE_JITTER:
        return 0.0
    return SCALE_JITTER[stream.augment] if stream.scale_jitter is None else stream.scale_jitter


def color_jitter(stream: Stream) -> float:
    """How far colours stray."""
    return COLOR_JITTER if stream.color_jitter is None else stream.color_jitter


def cut(picture: Tensor, stream: Stream, random: np.random.Generator, couple: np.random.Generator) -> Tensor:
    """`picture` as the stream's recipe has it. couple: begins alike for the pictures that are loaded together."""
    match stream.augment:
        case "none":
            return crop(picture, stream, random)
        case "flip":
            return mirrored(crop(picture, stream, random), random)
        case "tpfr":
            return tpfr(picture, stream, random, couple)
        case "ctb" | "ctb-artwork":
            return ctb(picture, stream, random)
        case "cifar":
            return cifar(picture, stream, random)
        case "imagenet":
            return mirrored(resized_crop(picture, stream.size, random), random)


def crop(picture: Tensor, stream: Stream, random: np.random.Generator) -> Tensor:
    """A square at a random place, or the one in the middle."""
    free = [side - stream.size for side in picture.shape[1:]]
    top, left = [side // 2 for side in free] if stream.centre else [int(random.integers(side + 1)) for side in free]
    return picture[:, top : top + stream.size, left : left + stream.size]


def mirrored(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Left and right exchanged, every other time."""
    return picture.flip(2) if random.integers(2) == 1 else picture


def tpfr(picture: Tensor, stream: Stream, random: np.random.Generator, couple: np.random.Generator) -> Tensor:
    """Two-Stage Peer-Regularized Feature Recombination: a random scale, place, mirror image and shift of colours.

    The scale is the couple's: a photo and a painting that a critic compares do not differ in it.
    """
    jitter = scale_jitter(stream)
    nominal = stream.load_size or min(picture.shape[1:])
    scaled = _scaled(picture, int(nominal * couple.uniform(1 - jitter, 1 + jitter)), stream.size)
    piece = mirrored(crop(scaled, stream, random), random)
    return _levels(jittered(to_float(piece), color_jitter(stream), random))


def ctb(picture: Tensor, stream: Stream, random: np.random.Generator) -> Tensor:
    """A Content Transformation Block: a random scale, turn, shear, shift of hue, saturation and value, and mirroring.

    What a turn brings in from outside the picture is its mirror image.
    """
    jitter, shift = scale_jitter(stream), color_jitter(stream)
    nominal = stream.load_size or ctb_shorter(picture.shape[2], picture.shape[1], CTB_ENLARGED[stream.augment])
    scaled = _scaled(picture, round(nominal * random.uniform(1 - jitter, 1 + jitter)), stream.size)
    middle = [random.integers(side - stream.size + 1) + (stream.size - 1) / 2 for side in scaled.shape[1:]]
    turn = math.radians(random.uniform(-CTB_TURN_DEGREES, CTB_TURN_DEGREES)) * int(random.integers(2))
    shear = np.eye(2) + random.uniform(-CTB_SHEAR, CTB_SHEAR, (2, 2))
    piece = warped(to_float(scaled), shear @ rotation(turn), (middle[0], middle[1]), stream.size)
    hue, saturation, value = to_hsv(piece)
    by = random.uniform(-shift, shift, 3)
    moved = from_hsv(hue + by[0], (saturation + by[1]).clamp(0, 1), (value + by[2]).clamp(0, 1))
    return mirrored(_levels(moved), random)


def ctb_shorter(width: int, height: int, enlarged: int) -> int:
    """The shorter side after a picture was enlarged: so many times its own, the longer one 1800 px at most.

    Where that leaves the longer side below 800 px, the shorter one gets 800.
    """
    shorter, longer = min(width, height), max(width, height)
    zoom = min(enlarged, CTB_LONGER_PX / longer)
    return CTB_SMALLEST_PX if longer * zoom < CTB_SMALLEST_PX else round(shorter * zoom)


def cifar(picture: Tensor, stream: Stream, random: np.random.Generator) -> Tensor:
    """The middle of the picture in a black border of an eighth of its side; a random crop of that, and its mirror."""
    top, left = ((side - stream.size) // 2 for side in picture.shape[1:])
    middle = picture[:, top : top + stream.size, left : left + stream.size]
    framed = pad(middle, [stream.size // CIFAR_BORDER] * 4)
    return mirrored(crop(framed, stream, random), random)


def resized_crop(picture: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """A rectangle of a random share of the picture's area and a random aspect, brought to a square.

    Where ten tries do not fit into the picture, the largest rectangle of an allowed aspect in its middle.
    """
    height, width = picture.shape[1:]
    for _ in range(IMAGENET_TRIES):
        area = height * width * float(random.uniform(*IMAGENET_AREA))
        aspect = math.exp(random.uniform(math.log(IMAGENET_ASPECT[0]), math.log(IMAGENET_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
            return _square(picture[:, top : top + h, left : left + w], size)
    narrowest, widest = IMAGENET_ASPECT
    w, h = min(width, round(height * widest)), min(height, round(width / narrowest))
    top, left = (height - h) // 2, (width - w) // 2
    return _square(picture[:, top : top + h, left : left + w], size)


def rotation(radians: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The matrix that turns (y, x)."""
    return np.array([[math.cos(radians), math.sin(radians)], [-math.sin(radians), math.cos(radians)]])


def warped(
    image: Tensor, matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]], middle: tuple[float, float], size: int
) -> Tensor:
    """A square of `size` pixels out of `image` (3, H, W): what is at o from its middle was at `matrix` o from `middle`.

    Places are (y, x), in pixels. Bilinear; outside its borders the picture is mirrored.
    """
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    offsets = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)
    source = offsets @ torch.from_numpy(matrix).T + torch.tensor(middle, dtype=torch.float64)
    sides = torch.tensor(image.shape[1:], dtype=torch.float64)
    grid = ((2 * source + 1) / sides - 1).flip(-1)[None].to(image.dtype)
    return grid_sample(image[None], grid, padding_mode="reflection", align_corners=False)[0]


def jittered(image: Tensor, strength: float, random: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation (factors of 1 ± strength) and hue (± strength turns), in a random order."""
    factors = random.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    turn = float(random.uniform(-strength, strength))
    for which in random.permutation(4):
        if which == 3:
            hue, saturation, value = to_hsv(image)
            image = from_hsv(hue + turn, saturation, value)
        else:
            image = _towards(_anchor(image, which), image, float(factors[which]))
    return image


def _anchor(image: Tensor, which: int) -> Tensor:
    """What less brightness, contrast or saturation leads to: black, mean grey, the grey picture."""
    if which == 0:
        return torch.zeros_like(image)
    grey = (image * image.new_tensor(GREY)[:, None, None]).sum(0, keepdim=True)
    return grey.mean() if which == 1 else grey


def _towards(anchor: Tensor, image: Tensor, factor: float) -> Tensor:
    return (anchor + factor * (image - anchor)).clamp(0, 1)


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(3, H, W) in [0, 1] -> hue in turns, saturation, value: (H, W) each, in [0, 1]. Grey has the hue 0."""
    red, green, blue = image
    value, brightest = image.max(0)
    spread = value - image.amin(0)
    by = torch.where(spread > 0, spread, 1)
    sixths = torch.stack([(green - blue) / by, (blue - red) / by + 2, (red - green) / by + 4])
    hue = (sixths.gather(0, brightest[None])[0] / 6) % 1
    return torch.where(spread > 0, hue, 0), spread / torch.where(value > 0, value, 1), value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Back to (3, H, W). hue: in turns, any number."""
    channels = []
    for start in (5, 3, 1):
        sixth = (start + 6 * hue) % 6
        channels.append(value - value * saturation * torch.minimum(sixth, 4 - sixth).clamp(0, 1))
    return torch.stack(channels)


def _scaled(picture: Tensor, shorter: int, least: int) -> Tensor:
    """With the shorter side `shorter`, but `least` at least."""
    width, height = scaled_to_shorter(picture.shape[2], picture.shape[1], max(shorter, least))
    return _resized(picture, height, width)


def _square(picture: Tensor, size: int) -> Tensor:
    return _resized(picture, size, size)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    return interpolate(picture[None], size=(height, width), mode="bicubic", antialias=True)[0]


def _levels(image: Tensor) -> Tensor:
    return image.mul(255).round().clamp(0, 255).to(torch.uint8)
