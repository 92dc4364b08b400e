# SPDX-License-Identifier: Apache-2.0
"""Small copies of the indexed pictures, and pictures that were sent, unpacked within limits."""

import enum
import functools
import io
import threading

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cots_jax.collection.originals import Originals
from cots_jax.data.pictures import decode_file
from cots_jax.data.prepare.pictures import (
    FORMATS,
    JPEG_QUALITY,
    PictureError,
    normalise_picture,
)
from cots_jax.retrieval.index_files import Row
from cots_jax.serve.limits import PICTURE_PIXELS

KEPT = 1024  # small copies in memory, some 10 KB each


class Size(enum.StrEnum):
    """How large a copy is: for the grid, or for a look at one picture."""

    SMALL = "small"
    LARGE = "large"


SIDES = {Size.SMALL: 320, Size.LARGE: 1280}  # pixels of the longer side; nothing is enlarged


class Thumbnails:
    """JPEG copies of a collection's pictures. Any number of threads."""

    def __init__(self, originals: Originals):
        self._originals = originals
        self._reading = threading.Lock()  # a collection may find its rows on the first call
        self._small = functools.lru_cache(KEPT)(self._make)

    def jpeg(self, row: Row, place: int, size: Size) -> bytes:
        """A picture of the index; PictureError where it is gone or broken now."""
        if size is Size.SMALL:
            return self._small(row, place, SIDES[size])
        return self._make(row, place, SIDES[size])

    def _make(self, row: Row, place: int, side: int) -> bytes:
        with self._reading:
            original = self._originals.picture(row, place)
        small = normalise_picture(original, side)
        return _bare(small) if small is original or _has_comment(small) else small


def decode_sent(data: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """A picture that a client has sent, as an index would see it; PictureError.

    The number of pixels is known before one is unpacked.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            pixels = picture.width * picture.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("picture_too_large") from error
    except Exception as error:  # Pillow raises some dozen classes on broken files
        raise PictureError("picture_unreadable") from error
    if pixels > PICTURE_PIXELS:
        raise PictureError("picture_too_large")
    return decode_file(data, size)


def _has_comment(jpeg: bytes) -> bool:
    """Of what a picture has beside its pixels, Pillow takes this along into a copy."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return "comment" in picture.info


def _bare(jpeg: bytes) -> bytes:
    """The same picture without what cameras and people write beside it, such as the place."""
    out = io.BytesIO()
    try:
        with Image.open(io.BytesIO(jpeg)) as picture:
            bare = picture.convert("RGB")
            bare.save(out, "JPEG", quality=JPEG_QUALITY, icc_profile=None, comment=b"")
    except Exception as error:
        raise PictureError("picture_unreadable") from error
    return out.getvalue()
