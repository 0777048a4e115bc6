"""What goes in as a picture, and how it comes out."""

import struct
from io import BytesIO
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch.testing import assert_close

from stylemodels.images import (
    CONTENT_TYPES,
    OutputFormat,
    PictureInfo,
    decode,
    decode_for_crop,
    decode_squashed,
    encode,
    encode_jpeg,
    encode_png,
    encode_webp,
    inspect,
    load_picture,
    peek,
    resize,
    save_picture,
    to_float,
    to_uint8,
)
from stylemodels.profiles import srgb_profile
from tests import images


def pixels_of(data: bytes) -> np.ndarray:
    """A decoded picture as (H, W, 3)."""
    return decode(data).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("data", "format"),
    [(images.jpeg(), "JPEG"), (images.png(), "PNG"), (images.webp(), "WebP")],
    ids=["jpeg", "png", "webp"],
)
def test_jpeg_png_and_webp_are_pictures(data, format):
    assert inspect(data) == PictureInfo(64, 48, format)
    picture = load_picture(data)
    assert picture.shape == (1, 3, 48, 64)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < picture.max() <= 1


def test_lossless_pictures_come_out_as_they_went_in():
    pixels = images.photograph(33, 21)
    assert np.array_equal(pixels_of(images.encoded(pixels, "PNG")), pixels)
    assert np.array_equal(pixels_of(images.encoded(pixels, "WEBP", lossless=True)), pixels)


# EXIF: where the stored picture's row 0 and column 0 are when one looks at it.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_exif_says(orientation):
    stored = images.photograph(48, 32)
    data = images.rotated(stored, orientation)
    upright = UPRIGHT[orientation](stored)

    assert np.array_equal(pixels_of(data), upright)
    assert inspect(data)[:2] == (upright.shape[1], upright.shape[0])
    assert np.array_equal(decode_for_crop(data, 0, size=16).permute(1, 2, 0).numpy(), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_does_not_turn_a_picture():
    broken = images.encoded(images.photograph(48, 32), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    assert inspect(broken)[:2] == (48, 32)


def test_cmyk_looks_as_in_rgb():
    original = images.photograph(64, 48)
    difference = np.abs(pixels_of(images.cmyk_jpeg(64, 48)).astype(int) - original)
    assert difference.mean() < 6, "JPEG's loss and nothing like inverted inks"


def test_sixteen_bits_are_rounded_to_eight():
    values = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    picture = pixels_of(images.grey_16_bit_png(values))
    assert np.array_equal(picture[..., 0], np.round(values / 257).astype(np.uint8))
    assert np.array_equal(picture[..., 0], picture[..., 2])


def test_a_palette_becomes_its_colours():
    data = images.palette_png()
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels_of(data), expected)


def test_transparency_lies_on_white():
    pixels = images.photograph(32, 32)
    alpha = np.zeros((32, 32), dtype=np.uint8)
    alpha[:, 16:] = 255
    picture = pixels_of(images.transparent_png(pixels, alpha))
    assert (picture[:, :16] == 255).all()
    assert np.array_equal(picture[:, 16:], pixels[:, 16:])


def test_a_transparent_palette_lies_on_white():
    image = Image.fromarray(np.repeat([[0, 1]], 16, axis=0).repeat(16, axis=1).astype(np.uint8), "L").convert("P")
    image.putpalette([200, 10, 20, 30, 40, 50])
    picture = pixels_of(images.encoded(image, "PNG", transparency=0))
    assert (picture[:, :16] == 255).all()
    assert (picture[0, 31] == [30, 40, 50]).all()


def test_one_bit_and_grey_pictures_have_three_equal_channels():
    for mode in ("1", "L", "LA"):
        picture = pixels_of(images.encoded(Image.fromarray(images.photograph(32, 32)).convert(mode), "PNG"))
        assert np.array_equal(picture[..., 0], picture[..., 1])
        assert picture.std() > 0


def linear_profile() -> bytes:
    """An RGB profile with sRGB's primaries and no curve: its 128 is sRGB's 188."""
    profile = bytearray(srgb_profile())
    curve = struct.pack(">4sIII", b"curv", 0, 0, 0)  # no entries: the identity
    count = struct.unpack_from(">I", profile, 128)[0]
    for entry in range(132, 132 + 12 * count, 12):
        tag, _, _ = struct.unpack_from(">4sII", profile, entry)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            struct.pack_into(">4sII", profile, entry, tag, len(profile), len(curve))
        if tag == b"desc":
            offset, size = struct.unpack_from(">II", profile, entry + 4)
            profile[offset + 28 : offset + size] = bytes(size - 28)
    profile += curve
    struct.pack_into(">I", profile, 0, len(profile))
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_taken_from_the_picture_s_profile_to_srgb(mode):
    linear = Image.fromarray(np.full((16, 16, 3), 128, dtype=np.uint8)).convert(mode)
    picture = pixels_of(images.encoded(linear, "PNG", icc_profile=linear_profile()))
    expected = 255 * (1.055 * (128 / 255) ** (1 / 2.4) - 0.055)
    assert np.abs(picture.astype(float) - expected).max() <= 1.5


def test_a_damaged_or_foreign_profile_is_passed_over():
    pixels = images.photograph(32, 32)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"nonsense", srgb_profile()[:200], lab):
        assert np.array_equal(pixels_of(images.encoded(pixels, "PNG", icc_profile=profile)), pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (images.text(), "not a JPEG, PNG or WebP"),
        (b"", "not a JPEG, PNG or WebP"),
        (images.encoded(images.photograph(32, 32), "BMP"), "not a JPEG, PNG or WebP"),
        (images.encoded(images.photograph(32, 32), "GIF"), "not a JPEG, PNG or WebP"),
        (images.jpeg()[:20], "not a readable JPEG"),
        (images.truncated(images.jpeg()), "cut off"),
        (images.truncated(images.png()), "cut off"),
        (images.truncated(images.webp()), "WebP|cut off"),
        (images.jpeg(15, 40), "too small: 15 x 40"),
        (images.jpeg(400, 17), "too long: 400 x 17"),
        (images.animated_webp(), "animated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_with_the_reason(data, reason):
    with pytest.raises(ValueError, match=reason):
        inspect(data)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb = images.header_bomb()
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="too large: 30000 x 30000"):
        inspect(bomb)
    with pytest.raises(ValueError, match="too large"):
        load_picture(bomb)


def test_limits_can_be_moved():
    assert inspect(images.jpeg(8, 8), min_side=8)[:2] == (8, 8)
    with pytest.raises(ValueError, match="too large"):
        inspect(images.jpeg(64, 48), max_pixels=3000)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd EXIF and the like
def test_damaged_bytes_are_refused_or_decoded_and_nothing_else():
    """Flips and cuts anywhere: whatever Pillow raises is a ValueError here, and what is accepted can be loaded."""
    random = np.random.default_rng(0)
    exif = images.rotated(images.photograph(40, 30), 6, "JPEG")
    accepted = 0
    for original in (images.jpeg(40, 30), exif, images.png(40, 30), images.webp(40, 30), images.palette_png(40, 30)):
        for _ in range(300):
            data = bytearray(original)
            for position in random.integers(0, len(data), random.integers(1, 6)):
                data[position] = random.integers(256)
            data = bytes(data[: random.integers(1, len(data) + 1)] if random.integers(2) else data)
            try:
                info = inspect(data)
            except ValueError:
                continue
            accepted += 1
            assert load_picture(data).shape == (1, 3, info.height, info.width)
            assert min(decode_for_crop(data, 20, size=16).shape[1:]) == 20
    assert accepted > 20


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_scaled_for_a_crop_has_the_wanted_shorter_side(orientation):
    data = images.rotated(images.photograph(300, 200), orientation, "JPEG")
    small, own = ((3, 50, 75), (3, 200, 300)) if orientation == 1 else ((3, 75, 50), (3, 300, 200))
    assert decode_for_crop(data, 50, size=32).shape == small
    assert decode_for_crop(data, 0, size=32).shape == own
    assert min(decode_for_crop(data, 0, size=256).shape[1:]) == 256, "too small a picture is enlarged"
    assert decode_squashed(data, 40).shape == (3, 40, 40)


def test_a_scaled_decode_shows_what_a_full_one_does():
    data = images.jpeg(640, 480)
    for size in (60, 100, 239, 240, 480):
        scaled = to_float(decode_for_crop(data, size, size=16))[None]
        full = resize(load_picture(data), *scaled.shape[-2:])
        assert (scaled - full).abs().mean() < 0.01


def test_a_small_crop_never_costs_a_full_decode(monkeypatch):
    loaded = []
    whole = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, *a, **k: loaded.append(self.size) or whole(self, *a, **k))
    decode_for_crop(images.jpeg(1600, 1200), 256, size=256)
    assert loaded == [(400, 300)], "a quarter, the smallest scale of JPEG's that is no smaller than 256"


def test_decoding_is_deterministic():
    data = images.jpeg(301, 203)
    assert torch.equal(decode_for_crop(data, 64, size=64), decode_for_crop(data, 64, size=64))


def test_values_are_rounded_and_not_truncated():
    levels = torch.tensor([0.0, 0.4, 0.6, 1.4, 254.6, 255.0, 300.0, -3.0]) / 255
    image = levels.view(1, 1, -1).expand(3, 1, -1)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 1, 1, 255, 255, 255, 0]


def test_float_and_back_is_the_identity():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 256).expand(3, 1, 256)
    assert torch.equal(to_uint8(to_float(levels)), levels.permute(1, 2, 0))


@pytest.mark.parametrize("image", [torch.zeros(3, 4), torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4)], ids=str)
def test_only_one_picture_can_be_encoded(image):
    with pytest.raises(ValueError, match="shape"):
        to_uint8(image)


def test_a_picture_that_is_not_a_number_is_not_written():
    with pytest.raises(ValueError, match="not numbers"):
        encode_png(torch.full((3, 8, 8), float("nan")))


def test_written_pictures_come_back(tmp_path):
    image = load_picture(images.png(40, 30))
    for name, tolerance in (("a.png", 0.0), ("a.jpg", 0.03), ("a.JPEG", 0.03), ("a.webp", 0.03)):
        save_picture(image, tmp_path / name)
        assert_close(load_picture(tmp_path / name).mean(), image.mean(), atol=0.002, rtol=0)
        assert (load_picture(tmp_path / name) - image).abs().mean() <= tolerance
    with pytest.raises(ValueError, match=r"a\.gif: pictures are written as \.png, \.jpg"):
        save_picture(image, tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize(("format", "kind"), [("png", "PNG"), ("png16", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_every_format_has_its_content_type(format, kind):
    data = encode(load_picture(images.png(40, 30)), format)
    assert Image.open(BytesIO(data)).format == kind
    assert CONTENT_TYPES[format] == Image.MIME[kind]
    assert inspect(data)[:2] == (40, 30)


def test_the_formats_are_these_and_others_are_refused():
    assert tuple(CONTENT_TYPES) == get_args(OutputFormat)
    with pytest.raises(ValueError, match="format: 'gif' was given, allowed are png, png16, jpeg, webp"):
        encode(torch.zeros(3, 16, 16), "gif")


def test_quality_is_a_choice():
    image = load_picture(images.png(128, 96))
    for format in ("jpeg", "webp"):
        assert len(encode(image, format, quality=40)) < len(encode(image, format))


@pytest.mark.parametrize(("format", "side"), [("webp", 16_384), ("jpeg", 65_501)])
def test_sides_that_a_format_cannot_have_are_refused(format, side):
    with pytest.raises(ValueError, match=f"{side} x 1 px cannot be written"):
        encode(torch.zeros(3, 1, side), format)


def test_a_strip_is_refused_by_whoever_reads_it():
    with pytest.raises(ValueError, match="too long: 400 x 17"):
        load_picture(images.jpeg(400, 17))


def test_a_header_tells_the_size_as_one_looks_at_it(tmp_path):
    (tmp_path / "turned.jpg").write_bytes(images.rotated(images.photograph(48, 32), 6, "JPEG"))
    assert peek(tmp_path / "turned.jpg") == (PictureInfo(32, 48, "JPEG"), 6)
    (tmp_path / "bomb.png").write_bytes(images.header_bomb())
    assert peek(tmp_path / "bomb.png") == (PictureInfo(30_000, 30_000, "PNG"), 1), "nothing is decoded"
    (tmp_path / "text.png").write_bytes(images.text())
    with pytest.raises(ValueError, match="not a JPEG, PNG or WebP"):
        peek(tmp_path / "text.png")


def test_written_pictures_are_tagged_srgb_and_have_full_colour_resolution():
    image = load_picture(images.png(40, 30))
    for data in (encode_png(image), encode_png(image, bits=16), encode_jpeg(image), encode_webp(image)):
        profile = Image.open(BytesIO(data)).info["icc_profile"]
        assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    jpeg = Image.open(BytesIO(encode_jpeg(image)))
    assert [component[1:3] for component in jpeg.layer] == [(1, 1)] * 3
    assert jpeg.quantization[0][0] <= 3, "quality 95"


def test_the_same_picture_is_written_as_the_same_bytes():
    assert srgb_profile()[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    srgb_again = srgb_profile.__wrapped__()
    assert srgb_again == srgb_profile()


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.jpg"):
        load_picture(tmp_path / "nothing.jpg")
    (tmp_path / "text.jpg").write_bytes(images.text())
    with pytest.raises(ValueError, match=r"text\.jpg: not a JPEG"):
        load_picture(tmp_path / "text.jpg")
