# SPDX-License-Identifier: Apache-2.0
"""Stored pictures to arrays of the size that a tower sees."""

import io

import numpy as np
import PIL.Image
from jaxtyping import UInt8


def decode_picture(image: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Shorter side resized to `size`, centre of the longer side (own choice).

    Takes what `prepare` writes: upright RGB JPEGs.
    """
    with PIL.Image.open(io.BytesIO(image)) as opened:
        return decode_opened(opened, size)


def decode_opened(opened: PIL.Image.Image, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """`decode_picture` of a file of which the head alone was read so far."""
    # A large JPEG decodes far faster to half or a quarter; twice the size is filtered below.
    opened.draft("RGB", (2 * size, 2 * size))
    picture = opened if opened.mode == "RGB" else opened.convert("RGB")  # which copies RGB too
    width, height = picture.size
    if (width, height) == (size, size):
        return np.asarray(picture)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box))
