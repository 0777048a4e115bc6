"""ICC profiles: sRGB's own, and whether a picture's is that."""

from __future__ import annotations

import struct
from functools import cache
from io import BytesIO

from PIL import ImageCms


@cache
def srgb_profile() -> bytes:
    """sRGB's ICC profile, always the same bytes: the date that LittleCMS writes into it is replaced by 2000-01-01."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def is_srgb(profile: bytes) -> bool:
    """Whether it calls itself sRGB. Raises OSError or ImageCms.PyCMSError for a damaged one."""
    return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
