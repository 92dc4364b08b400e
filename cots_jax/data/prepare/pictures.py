# SPDX-License-Identifier: Apache-2.0
"""Pictures of any make to small upright RGB JPEGs, or a reason why not."""

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 89_478_485  # Pillow's own bound: a quarter GiB as RGB
MAX_BYTES = 2**28  # of one picture's file
JPEG_QUALITY = 90
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # EXIF 2.32, orientation: what undoes each value but 1
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class PictureError(Exception):
    """Why a picture is rejected: a reason that `rejects.jsonl` counts by."""


@contextmanager
def strict_decoding() -> Generator[None, None, None]:
    """Makes oversized pictures an error before their pixels are unpacked, and Pillow's remarks on
    sloppy files silent. To be entered once around all threads: filters are process-wide."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def normalise_picture(data: bytes, longest_side: int) -> bytes:
    """JPEG bytes of the picture: upright, RGB over white, at most `longest_side` pixels.

    Bytes that are such a JPEG already are returned as they are; nothing is ever enlarged; of an
    animation the first frame is taken. Raises PictureError.
    """
    if len(data) > MAX_BYTES:
        raise PictureError("picture_too_large")
    try:
        return _normalise(data, longest_side)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("picture_too_large") from error
    # decoders raise whatever they meet in a broken file: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise PictureError("picture_unreadable") from error


def _normalise(data: bytes, longest_side: int) -> bytes:
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise PictureError("picture_too_large")
        small, turn = is_small_jpeg(picture, longest_side), _turn(picture)
        # twice the size is still filtered properly below, and a large JPEG decodes far faster
        picture.draft("RGB", (2 * longest_side, 2 * longest_side))
        picture.load()
        if small:
            return data
        rgb = to_rgb(picture)
    return small_jpeg(rgb, turn, longest_side)


def is_small_jpeg(picture: Image.Image, longest_side: int) -> bool:
    """Whether a file that was just opened is what `normalise_picture` would make of it."""
    fits = picture.format == "JPEG" and picture.mode == "RGB" and max(picture.size) <= longest_side
    return fits and _turn(picture) is None


def small_jpeg(rgb: Image.Image, turn: Image.Transpose | None, longest_side: int) -> bytes:
    """JPEG bytes of an RGB picture, turned and shrunk to at most `longest_side` pixels."""
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    rgb.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _turn(picture: Image.Image) -> Image.Transpose | None:
    # cameras and editors write broken EXIF blocks around sound pictures
    try:
        return UPRIGHT.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:
        return None


def to_rgb(picture: Image.Image) -> Image.Image:
    """Eight-bit RGB: transparency over white, 16-bit greys scaled and not clipped."""
    if picture.mode in SIXTEEN_BIT_MODES:
        grey = np.clip(np.asarray(picture, np.float64) / 257, 0, 255).round()
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        return Image.alpha_composite(white, drawn).convert("RGB")
    return picture.convert("RGB")
