# SPDX-License-Identifier: Apache-2.0
"""Copies of a picture look alike, other pictures do not, and the search misses none."""

import io
import itertools
import pathlib
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prepare_cases import jpeg

from cots_jax.data.prepare import looks
from cots_jax.data.prepare.looks import LOOK, Looks, look_of


def _saved(picture: Image.Image, form: str, **more) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def _copies(image: bytes) -> dict[str, bytes]:
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    quarter = picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.LANCZOS)
    squashed = picture.resize((picture.width, picture.height * 3 // 4))
    return {
        "the same": image,
        "PNG of the pixels": _saved(picture, "PNG"),
        "quality 20": _saved(picture, "JPEG", quality=20),
        "a quarter": _saved(quarter, "JPEG", quality=85),
        "squashed": _saved(squashed, "WEBP", quality=80),
    }


def test_a_copy_is_found_with_its_distance():
    known = Looks()
    for seed in range(20):
        known.add(look_of(jpeg(seed, (200, 160))))
    for name, copy in _copies(jpeg(7, (200, 160))).items():
        near = known.nearest(look_of(copy))
        assert near is not None, name
        assert near[0] == 7
        assert (near[1] == 0) or name not in ("the same", "PNG of the pixels")
    assert known.nearest(look_of(jpeg(99, (200, 160)))) is None
    assert len(known) == 20


def test_equal_pixels_have_equal_digests():
    copies = _copies(jpeg(3))
    pixels = {name: int(look_of(copy)["pixels"]) for name, copy in copies.items()}
    assert pixels["the same"] == pixels["PNG of the pixels"]
    assert len(set(pixels.values())) == 4


def test_blank_pictures_of_other_colours_are_others():
    known = Looks()
    known.add(look_of(_saved(Image.new("RGB", (40, 40), "white"), "PNG")))
    assert known.nearest(look_of(_saved(Image.new("RGB", (9, 30), "white"), "PNG"))) == (0, 0)
    assert known.nearest(look_of(_saved(Image.new("RGB", (40, 40), "black"), "PNG"))) is None
    assert known.nearest(look_of(_saved(Image.new("RGB", (1, 1), "red"), "PNG"))) is None


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 60))
def test_the_search_is_the_brute_force_one(seed, spread, flips):
    random = np.random.default_rng(seed)
    base = np.zeros((), LOOK)
    base["gradients"] = random.integers(0, 2**64, 4, np.uint64)
    base["colours"] = random.integers(0, 256, 48, np.uint8)
    many = np.repeat(base[None], 30)
    noise = random.integers(-spread, spread + 1, (30, 48))
    many["colours"] = np.clip(base["colours"].astype(int) + noise, 0, 255)
    for number in range(1, 30):
        for bit in random.integers(0, 256, random.integers(0, flips + 1)):
            many["gradients"][number, bit // 64] ^= np.uint64(1 << int(bit % 64))
    known = Looks()
    for number in range(1, 30):
        known.add(many[number, ...])
    bits = np.bitwise_count(many["gradients"] ^ many["gradients"][0]).sum(1)
    colour = np.abs(many["colours"].astype(int) - many["colours"][0].astype(int)).mean(1)
    fits = (bits <= looks.MOST_BITS) & (colour <= looks.MOST_COLOUR)
    expected = [(int(bits[i]), i - 1) for i in range(1, 30) if fits[i]]
    found = known.nearest(many[0, ...])
    assert found == (min(expected)[::-1] if expected else None)


def _photographs(shared_data: pathlib.Path, most: int) -> list[bytes]:
    with tarfile.open(shared_data / "flickr8k" / "images.tar") as tar:
        members = itertools.islice((member for member in tar if member.isreg()), most)
        return [tar.extractfile(member).read() for member in members]


@pytest.mark.slow
def test_the_figures_of_the_page_on_own_data(shared_data):
    pictures = _photographs(shared_data, 7000)
    known, twins = Looks(), []
    for picture in pictures:
        near = known.nearest(look_of(picture))
        if near is not None:
            twins.append(near[1])
        known.add(look_of(picture))
    assert (len(known), twins) == (7000, [0])
    missed = {"quality 20": 0, "a quarter": 0}
    for number in range(0, 7000, 7):
        copies = _copies(pictures[number])
        for name in missed:
            near = known.nearest(look_of(copies[name]))
            missed[name] += near is None or near[0] != number
    assert missed == {"quality 20": 3, "a quarter": 5}


def test_photographs(shared_data):
    pictures = _photographs(shared_data, 120)
    known = Looks()
    for picture in pictures:
        assert known.nearest(look_of(picture)) is None
        known.add(look_of(picture))
    for number in range(0, 120, 8):
        for name, copy in _copies(pictures[number]).items():
            near = known.nearest(look_of(copy))
            assert near is not None, name
            assert near[0] == number


@pytest.mark.parametrize("many", [1023, 1024, 1025])
def test_room_is_made(many):
    known = Looks()
    look = np.zeros((), LOOK)
    for number in range(many):
        look["gradients"] = (number, 0, 0, 0)
        known.add(look)
    look["gradients"] = (2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1)
    assert known.nearest(look) is None
    look["gradients"] = (many - 1, 0, 0, 0)
    assert known.nearest(look) == (many - 1, 0)
