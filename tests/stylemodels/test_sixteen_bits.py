"""Pictures of 16 bits a channel, in and out."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image
from torch.testing import assert_close

from stylemodels import vips
from stylemodels.images import decode, encode, encode_png, inspect, load_picture, save_picture, to_float
from stylemodels.profiles import srgb_profile
from tests import images
from tests.stylemodels.test_images import UPRIGHT, linear_profile


@pytest.mark.parametrize(("suffix", "bits"), [(".tif", 8), (".tiff", 16)])
def test_tiff_is_written_without_loss(tmp_path, suffix, bits):
    levels = deep_levels(33, 21) >> (16 - bits)
    image = torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1) / (2**bits - 1)
    save_picture(image, tmp_path / f"a{suffix}", bits=bits)
    back = pyvips.Image.tiffload(str(tmp_path / f"a{suffix}"))
    assert np.array_equal(back.numpy(), levels)
    assert back.get("icc-profile-data") == srgb_profile()


def deep_levels(width, height, seed=0):
    """(H, W, 3), uint16, of all 65,536 levels."""
    return np.random.default_rng(seed).integers(0, 65536, (height, width, 3)).astype(np.uint16)


def as_picture(levels):
    """(H, W, 3) of 16 bits -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1)[None] / 65535


def deep_png(levels, **options):
    """Any bands of 16 bits as a PNG, by libvips."""
    space = {1: "grey16", 2: "grey16", 3: "rgb16", 4: "rgb16"}[levels.shape[2]]
    image = pyvips.Image.new_from_array(levels).copy(interpretation=space)
    for name, value in options.items():
        image.set_type(pyvips.GValue.blob_type if isinstance(value, bytes) else pyvips.GValue.gint_type, name, value)
    return image.pngsave_buffer()


def test_sixteen_bits_a_channel_come_in_whole():
    levels = deep_levels(33, 21)
    assert torch.equal(load_picture(deep_png(levels)), as_picture(levels))
    gray = levels[..., :1]
    assert torch.equal(load_picture(deep_png(gray)), as_picture(gray).expand(1, 3, 21, 33))
    assert torch.equal(load_picture(images.grey_16_bit_png(gray[..., 0])), as_picture(gray).expand(1, 3, 21, 33))


def test_sixteen_bits_with_transparency_lie_on_white():
    levels = np.dstack([deep_levels(32, 32), np.full((32, 32), 65535, np.uint16)])
    levels[:, :16, 3], levels[:, 16:24, 3] = 0, 32768
    picture = load_picture(deep_png(levels))
    expected = as_picture(levels[..., :3])
    assert (picture[..., :16] == 1).all()
    assert_close(picture[..., 16:24], (expected[..., 16:24] * 32768 + 32767) / 65535, atol=2e-5, rtol=0)
    assert torch.equal(picture[..., 24:], expected[..., 24:])


def test_sixteen_bits_come_from_their_profile_to_srgb_and_keep_their_precision():
    ramp = np.repeat(np.arange(20_000, 20_256, dtype=np.uint16)[None, :, None], 16, axis=0).repeat(3, axis=2)
    picture = load_picture(deep_png(ramp, **{"icc-profile-data": linear_profile()}))
    linear = ramp[0, :, 0] / 65535
    expected = 1.055 * linear ** (1 / 2.4) - 0.055
    assert np.abs(picture[0, 0, 0].numpy() - expected).max() < 3e-4
    assert len(picture.unique()) > 100, "more levels than 8 bits have in so short a ramp"


@pytest.mark.parametrize("orientation", [3, 6])
def test_sixteen_bits_are_turned_as_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = bytearray(encode_png(as_picture(deep_levels(40, 30)), bits=16))
    body = exif.tobytes()[6:]  # without "Exif\0\0", which PNG does not have
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    data[33:33] = chunk
    upright = np.ascontiguousarray(UPRIGHT[orientation](deep_levels(40, 30)))
    assert torch.equal(load_picture(bytes(data)), as_picture(upright))


def test_training_sees_eight_bits_of_sixteen():
    levels = deep_levels(40, 30)
    eight = decode(deep_png(levels))
    assert eight.dtype == torch.uint8
    assert np.array_equal(
        eight.permute(1, 2, 0).numpy(), np.asarray(Image.open(BytesIO(deep_png(levels))).convert("RGB"))
    )


def test_without_libvips_sixteen_bits_are_seen_as_eight(monkeypatch, tmp_path):
    monkeypatch.setattr(vips, "library", lambda: None)
    data = deep_png(deep_levels(40, 30))
    assert torch.equal(load_picture(data), to_float(decode(data))[None])
    with pytest.raises(ValueError, match=r"a\.tif: writing TIFF takes libvips, .* pip install 'stylefoundry\[large\]'"):
        save_picture(load_picture(data), tmp_path / "a.tif")


def test_a_cut_or_broken_picture_of_sixteen_bits_is_refused():
    data = deep_png(deep_levels(40, 30))
    with pytest.raises(ValueError, match="cut off"):
        load_picture(images.truncated(data))
    with pytest.raises(ValueError, match="too large"):
        load_picture(data, max_pixels=1000)


def test_sixteen_bits_are_written_and_come_back_whole(tmp_path):
    levels = deep_levels(33, 21)
    save_picture(as_picture(levels), tmp_path / "deep.png", bits=16)
    data = (tmp_path / "deep.png").read_bytes()
    assert data == encode_png(as_picture(levels), bits=16) == encode(as_picture(levels), "png16")
    assert np.array_equal(pyvips.Image.pngload_buffer(data).numpy(), levels), "as libvips reads it"
    assert torch.equal(load_picture(data), as_picture(levels))
    opened = Image.open(BytesIO(data))
    assert opened.info["icc_profile"] == srgb_profile()
    assert np.abs(np.asarray(opened).astype(int) - (levels >> 8)).max() <= 1, "as Pillow reads it"
    assert len(inspect(data)) == 3


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_formats_of_eight_bits_are_not_written_with_sixteen(tmp_path, suffix):
    with pytest.raises(ValueError, match=f"a{suffix}: 16 bits a channel were asked for"):
        save_picture(torch.zeros(3, 16, 16), tmp_path / f"a{suffix}", bits=16)
