# SPDX-License-Identifier: Apache-2.0
"""Pictures in any form to one array."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from cots_jax.data.decoding import decode_picture
from cots_jax.data.pictures import decode_file, decode_given
from cots_jax.data.prepare.pictures import ORIENTATION, normalise_picture, strict_decoding
from cots_jax.errors import UserError


def drawn(width: int = 60, height: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 2 * x + 3 * y], -1).astype(np.uint8)


def saved(picture: Image.Image, form: str, **more) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def exif(value: int) -> Image.Exif:
    turned = Image.Exif()
    turned[ORIENTATION] = value
    return turned


def one(given, size: int = 32) -> np.ndarray:
    (found,) = decode_given([given], size)
    return found


def test_a_record_gives_what_evaluation_sees(tmp_path: pathlib.Path) -> None:
    """What `prepare` has written passes as it is, and an original as its record."""
    original = saved(Image.fromarray(drawn(600, 400)), "PNG")
    with strict_decoding():
        record = normalise_picture(original, 256)
    evaluated = decode_picture(record, 32)
    (tmp_path / "a.jpg").write_bytes(record)
    (tmp_path / "a.png").write_bytes(original)
    np.testing.assert_array_equal(one(tmp_path / "a.jpg"), evaluated)
    np.testing.assert_array_equal(one(str(tmp_path / "a.png")), evaluated)
    np.testing.assert_array_equal(one(Image.open(io.BytesIO(original))), evaluated)
    np.testing.assert_array_equal(one(drawn(600, 400)), evaluated)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_right_way_up(orientation: int) -> None:
    data = saved(Image.fromarray(drawn()), "PNG", exif=exif(orientation))
    with strict_decoding():
        upright = decode_file(data, 32)
    np.testing.assert_array_equal(one(Image.open(io.BytesIO(data))), upright)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "YCbCr"])
def test_modes(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(drawn()[:, :, 0].astype(np.uint16) * 257)
    elif mode == "LA":
        picture = Image.fromarray(drawn()).convert("L").convert("LA")
    else:
        picture = Image.fromarray(drawn()).convert(mode)
    found = one(picture)
    assert (found.shape, found.dtype) == ((32, 32, 3), np.uint8)
    if mode not in ("CMYK", "YCbCr"):  # PNG has no such
        with strict_decoding():
            np.testing.assert_array_equal(found, decode_file(saved(picture, "PNG"), 32))


def test_transparency_lies_over_white() -> None:
    clear = Image.fromarray(np.zeros((20, 20, 4), np.uint8))
    np.testing.assert_array_equal(one(clear), 255)


def test_greys_and_nothing() -> None:
    grey = drawn()[:, :, 0]
    np.testing.assert_array_equal(one(grey), one(np.repeat(grey[:, :, None], 3, 2)))
    assert list(decode_given([], 32)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.png", "there is no picture none.png"),
        (".", "there is no picture ."),
        (
            np.zeros((4, 4, 3), np.float32),
            r"picture 0 is an array of float32 \[4, 4, 3\]: give uint8",
        ),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
    ],
)
def test_what_is_no_picture(given, said: str) -> None:
    with pytest.raises(UserError, match=said):
        one(given)


def test_a_broken_file_is_named(tmp_path: pathlib.Path) -> None:
    whole = saved(Image.fromarray(drawn()), "PNG")
    cut = whole[: len(whole) // 2]
    (tmp_path / "cut.png").write_bytes(cut)
    for given in (tmp_path / "cut.png", Image.open(io.BytesIO(cut))):
        with pytest.raises(UserError, match=r"no picture that can be used \(picture_unreadable"):
            one(given)


def test_one_picture_is_no_list() -> None:
    with pytest.raises(UserError, match=r"write \[picture\]"):
        list(decode_given("photo.png", 32))
