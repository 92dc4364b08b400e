# SPDX-License-Identifier: Apache-2.0
"""What a picture looks like, in 88 bytes, and those that look alike.

Own choice throughout, after the difference hash: each of 16 x 16 cells says whether the grey right
of it is brighter, and 4 x 4 cells keep their colour. Among the 7,000 photographs of Flickr8k's
train and val one pair lies within both limits, and it is one picture twice; of 1,000 copies saved
at JPEG quality 20 three lie beyond them, of 1,000 at a quarter of their side five. What was
cropped, mirrored or recoloured is not found. Drawings with one outline are too much alike for it.
"""

import hashlib
import io
from array import array
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

CELLS, COLOUR_CELLS = 16, 4
STEP = 2  # grey levels of 255: less is noise, above all in flat parts
MOST_BITS = 32  # of 256 that may differ
MOST_COLOUR = 4  # mean difference of the colour cells that may be, of 255
REGION = 2 * MOST_COLOUR  # grey levels; see _regions
LOOK = np.dtype(
    [
        ("pixels", np.uint64),  # of the sha256 over size and pixels
        ("gradients", np.uint64, (CELLS * CELLS // 64,)),
        ("colours", np.uint8, (COLOUR_CELLS * COLOUR_CELLS * 3,)),
    ]
)
Look = np.ndarray  # one value of LOOK, without axes


def look_of(image: bytes) -> Look:
    """The look of a stored picture."""
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    box = Image.Resampling.BOX
    grey = np.asarray(picture.convert("L").resize((CELLS + 1, CELLS), box), np.int16)
    look = np.zeros((), LOOK)
    look["pixels"] = digest_number(repr(picture.size).encode() + picture.tobytes())
    look["gradients"] = np.packbits(grey[:, 1:] > grey[:, :-1] + STEP).view(np.uint64)
    look["colours"] = np.asarray(picture.resize((COLOUR_CELLS, COLOUR_CELLS), box)).reshape(-1)
    return look


def digest_number(data: bytes) -> int:
    """The first 64 bits of the sha256: among 10 million pictures a chance of 3 in a million that
    any two agree by accident."""
    return number_of(hashlib.sha256(data).digest())


def number_of(digest: bytes) -> int:
    """The first 64 bits of a sha256."""
    return int.from_bytes(digest[:8], "big")


class Looks:
    """Pictures to be compared with: finds the nearest of those that look alike.

    Memory is some 100 bytes a picture; a search compares about a thirtieth of them.
    """

    def __init__(self) -> None:
        self._looks = np.zeros(1024, LOOK)
        self._length = 0
        self._regions: dict[tuple[int, int], array[int]] = {}

    def __len__(self) -> int:
        return self._length

    def add(self, look: Look) -> None:
        """Numbers pictures from 0 in the order in which they are added."""
        if self._length == len(self._looks):
            self._looks = np.resize(self._looks, 2 * self._length)
        self._looks[self._length] = look
        self._regions.setdefault(region_of(look), array("I")).append(self._length)
        self._length += 1

    def nearest(self, look: Look) -> tuple[int, int] | None:
        """(number, bits that differ) of the nearest picture within the limits, the first of
        several; None where there is none."""
        near = [self._regions[place] for place in _around(look) if place in self._regions]
        if not near:
            return None
        rows = np.concatenate([np.asarray(part, np.uint32) for part in near])
        found = self._looks["gradients"][rows] ^ look["gradients"]
        bits = np.bitwise_count(found).sum(axis=1, dtype=np.int64)
        rows, bits = rows[bits <= MOST_BITS], bits[bits <= MOST_BITS]
        there = self._looks["colours"][rows].astype(np.int16)
        differ = np.abs(there - look["colours"].astype(np.int16)).mean(axis=1)
        rows, bits = rows[differ <= MOST_COLOUR], bits[differ <= MOST_COLOUR]
        if not len(rows):
            return None
        best = np.lexsort((rows, bits))[0]
        return int(rows[best]), int(bits[best])


def _halves(look: Look) -> UInt8[np.ndarray, "2 c"]:
    return look["colours"].reshape(2, -1)


def region_of(look: Look) -> tuple[int, int]:
    """The mean grey of the upper and of the lower half, in steps of REGION.

    Colours that differ by MOST_COLOUR in the mean over both differ by twice as much in one half
    at most, so that all pictures within the limit lie in the same region or in one beside it.
    """
    upper, lower = _halves(look).mean(axis=1) // REGION
    return int(upper), int(lower)


def _around(look: Look) -> Iterator[tuple[int, int]]:
    upper, lower = region_of(look)
    for above in (-1, 0, 1):
        for below in (-1, 0, 1):
            yield upper + above, lower + below
