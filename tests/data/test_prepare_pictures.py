# SPDX-License-Identifier: Apache-2.0
"""Pictures of every make come out upright, RGB and small enough; broken ones have a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cots_jax.data.prepare import pictures
from cots_jax.data.prepare.pictures import PictureError, normalise_picture, strict_decoding


def _bytes(picture: Image.Image, form: str, **more) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def _halves(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", size, "red")
    picture.paste("blue", (size[0] // 2, 0, *size))
    return picture.convert(mode)


def _open(data: bytes, longest_side: int = 64) -> Image.Image:
    picture = Image.open(io.BytesIO(normalise_picture(data, longest_side)))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    return picture


def _near(picture: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    found = np.asarray(picture)[at[1], at[0]].astype(int)
    return bool(np.abs(found - np.asarray(colour)).max() <= 12)


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def test_a_fitting_jpeg_keeps_its_bytes():
    data = _bytes(_halves(), "JPEG", quality=35)
    assert normalise_picture(data, 40) is data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_every_format_is_shrunk_to_the_longest_side_and_never_enlarged(form):
    data = _bytes(_halves(size=(400, 200)), form)
    assert _open(data, 64).size == (64, 32)
    assert _open(data, 1000).size == (400, 200)
    assert _near(_open(data), (5, 16), RED)
    assert _near(_open(data), (58, 16), BLUE)


def test_a_strip_keeps_at_least_one_pixel_across():
    assert _open(_bytes(Image.new("RGB", (3000, 2)), "PNG"), 64).size == (64, 1)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone(form, orientation):
    undo = {
        1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4,
    }[orientation]  # fmt: skip
    upright = _halves(size=(60, 30))
    upright.paste("green", (0, 0, 30, 15))
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = _open(_bytes(stored, form, exif=exif))
    assert seen.size == (60, 30)
    assert _near(seen, (8, 6), (0, 128, 0))
    assert _near(seen, (8, 24), RED)
    assert _near(seen, (50, 6), BLUE)


def test_a_broken_exif_block_does_not_cost_the_picture():
    data = _bytes(_halves(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with strict_decoding():
        assert _open(data).size == (40, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparency_lies_over_white(mode, form):
    drawn = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (0, 0, 20, 20))
    if (mode, form) == ("PA", "PNG"):
        drawn, mode = drawn.convert("P", palette=Image.Palette.ADAPTIVE), "P"
        data = _bytes(drawn, form, transparency=drawn.getpixel((30, 10)))
    else:
        data = _bytes(drawn.convert(mode if mode != "PA" else "RGBA"), form)
    seen = _open(data)
    assert _near(seen, (5, 10), (0, 0, 0))
    assert _near(seen, (35, 10), WHITE)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(mode):
    white_half = Image.new("RGB", (40, 20), "black")
    white_half.paste("white", (20, 0, 40, 20))
    seen = _open(_bytes(white_half.convert(mode), "JPEG" if mode == "CMYK" else "PNG"))
    assert _near(seen, (5, 10), (0, 0, 0))
    assert _near(seen, (35, 10), WHITE)


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).repeat(8)[None].repeat(16, 0)
    seen = np.asarray(_open(_bytes(Image.fromarray(ramp), "PNG"), 4096)).astype(int)
    assert np.abs(seen[8, ::8, 0] - np.arange(256)).max() <= 3


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue", "green")]
    for form in ("GIF", "WEBP"):
        data = _bytes(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
        assert _near(_open(data), (20, 10), RED)


def _huge_png(side: int) -> bytes:
    """A sound header of side x side pixels before next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 20_000, 60_000])
def test_bombs_are_too_large(side):
    with strict_decoding(), pytest.raises(PictureError, match="picture_too_large"):
        normalise_picture(_huge_png(side), 64)


def test_too_many_bytes_are_too_large(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    with pytest.raises(PictureError, match="picture_too_large"):
        normalise_picture(_bytes(_halves(size=(300, 300)), "PNG"), 64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!doctype html><p>404",
        _bytes(_halves(), "BMP"),
        _bytes(_halves(), "TIFF"),
        _bytes(_halves(size=(400, 400)), "JPEG")[:-500],
        _bytes(Image.effect_noise((100, 100), 80), "PNG")[:-300],
        _bytes(Image.effect_noise((100, 100), 80), "WEBP")[:-300],
    ],
    ids=["empty", "stub", "svg", "html", "bmp", "tiff", "cut jpeg", "cut png", "cut webp"],
)
def test_what_is_no_whole_picture_is_unreadable(data):
    with strict_decoding(), pytest.raises(PictureError, match="picture_unreadable"):
        normalise_picture(data, 64)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_flipped_bytes_give_a_picture_or_a_reason(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
    broken = bytearray(_bytes(_halves(size=(50, 50)), form))
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with strict_decoding():
        try:
            assert max(_open(bytes(broken)).size) <= 64
        except PictureError as reason:
            assert str(reason) in ("picture_unreadable", "picture_too_large")
