# SPDX-License-Identifier: Apache-2.0
"""Pictures as users have them to what a tower sees: the path that `prepare` and evaluation take."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cots_jax.data.decoding import decode_opened, decode_picture
from cots_jax.data.prepare.pictures import (
    FORMATS,
    MAX_BYTES,
    ORIENTATION,
    PictureError,
    is_small_jpeg,
    normalise_picture,
    strict_decoding,
    to_rgb,
)
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.threads import in_order
from cots_jax.errors import UserError

Given = str | os.PathLike[str] | Image.Image | np.ndarray


def decode_file(data: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The picture of a file's bytes, as evaluation would see it after `prepare`.

    That is by way of a JPEG of at most 256 pixels, as `prepare` makes by default, or of twice the
    tower's size where that is more (own choice), so that an original and its record give the same
    bits. PictureError. To be called within `strict_decoding`.
    """
    side = longest_side(size)
    # a small JPEG is opened once; decoders raise whatever they meet, and are asked again below
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        if is_small_jpeg(picture, side):
            return decode_opened(picture, size)
    return decode_picture(normalise_picture(data, side), size)


def longest_side(size: int) -> int:
    """Of the JPEG that stands between an original and a tower of this size."""
    return max(Settings.longest_side, 2 * size)


def decode_given(given: Iterable[Given], size: int) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
    """Pictures in any form to arrays, by threads, in order.

    Files by their paths; open PIL pictures; arrays [h, w, 3], or [h, w] for greys, of uint8.
    What is open already is taken as if it had been saved as PNG. UserError names the picture.
    """
    if isinstance(given, str | os.PathLike | Image.Image):
        raise UserError("one picture was given where a list of them is taken: write [picture]")
    with strict_decoding():
        yield from in_order(lambda item: _decode(*item, size), enumerate(given))


def _decode(number: int, picture: Given, size: int) -> UInt8[np.ndarray, "s s 3"]:
    by_path = isinstance(picture, str | os.PathLike)
    name = os.fspath(picture) if by_path else f"picture {number}"
    try:
        return decode_file(_read(pathlib.Path(picture)) if by_path else _png(picture, name), size)
    except PictureError as fault:
        raise UserError(f"{name} is no picture that can be used ({fault})") from fault


def _read(path: pathlib.Path) -> bytes:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"there is no picture {path}: name a file")
        if path.stat().st_size > MAX_BYTES:
            raise PictureError("picture_too_large")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend its rights") from error


def _png(picture: Image.Image | np.ndarray, name: str) -> bytes:
    """A picture that is open already as the bytes of a file."""
    if isinstance(picture, np.ndarray):
        shape = picture.shape
        if picture.dtype != np.uint8 or 0 in shape or (shape[2:] != (3,) and len(shape) != 2):
            raise UserError(
                f"{name} is an array of {picture.dtype} {list(shape)}: give uint8, [height, "
                "width, 3]"
            )
        picture = Image.fromarray(picture)
    out = io.BytesIO()
    try:
        turned = Image.Exif()
        turned[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
        to_rgb(picture).save(out, "PNG", compress_level=1, exif=turned)
    # a picture is decoded no earlier than here, and decoders raise whatever they meet
    except Exception as error:
        raise PictureError("picture_unreadable") from error
    return out.getvalue()
