# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video are looked at: one out of each of t equal segments.

Segments are counted in frames, so that the choice is exact in integers and asks no time stamps.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

FULL = 2**16  # offsets within a segment are in parts of it
MIDDLE = FULL // 2
DRAW = 0x6672616D  # tells these draws from others of the same seed and position
ALIGNED = 64  # bytes: JAX takes such an array on a CPU as it lies, and copies any other


class FrameChoice(enum.StrEnum):
    """Which stored frames of a video a table may be asked for."""

    DRAWN = "drawn"  # any of them, in training
    MIDDLE = "middle"  # the middle ones alone, in evaluation: the others are never decoded


def chosen_frames(counts: Int[np.ndarray, "b"], offsets: Int[np.ndarray, "b t"]) -> np.ndarray:
    """[b, t]: the frame of 0 … count - 1 at an offset of 0 … FULL - 1 in each of t segments.

    Ascending; all different where count >= t and a row's offsets are alike. With fewer frames than
    segments some are taken more than once; a picture, which is one frame, t times.
    """
    segments = offsets.shape[1]
    start = np.arange(segments, dtype=np.int64)[None] * FULL
    return (start + offsets) * counts[:, None] // (segments * FULL)


def middle_offsets(rows: int, segments: int) -> Int[np.ndarray, "b t"]:
    """What evaluation looks at."""
    return np.full((rows, segments), MIDDLE, np.int64)


def middle_frames(count: int, segments: int) -> Int[np.ndarray, "t"]:
    """The middle frame of each segment of one video."""
    return chosen_frames(np.array([count]), middle_offsets(1, segments))[0]


def drawn_offsets(
    seed: int, positions: Sequence[int] | np.ndarray, segments: int
) -> Int[np.ndarray, "b t"]:
    """Random offsets for the rows at these positions of the training order; of a row they depend
    on the seed and its position alone."""
    rows = [
        np.random.default_rng([seed, int(position), DRAW]).integers(0, FULL, segments)
        for position in positions
    ]
    return np.stack(rows)


def empty_frames(shape: tuple[int, ...], size: int) -> UInt8[np.ndarray, "b t s s 3"]:
    """Room for a batch of `shape` = (films, frames), which a CPU need not copy to its device."""
    shape = *shape, size, size, 3
    count = math.prod(shape)
    room = np.empty(count + ALIGNED, np.uint8)
    first = -room.ctypes.data % ALIGNED
    return room[first : first + count].reshape(shape)


@dataclasses.dataclass(frozen=True)
class DecodedFrames:
    """All frames of r records in one array, which may have room for more than a record has."""

    pictures: UInt8[np.ndarray, "f s s 3"]
    first: Int[np.ndarray, "r"]
    count: Int[np.ndarray, "r"]

    @classmethod
    def with_room(cls, room: Int[np.ndarray, "r"], size: int) -> "DecodedFrames":
        """Nothing is decoded yet. room: the most frames of each record; what is never written
        takes no memory."""
        first = np.cumsum(room) - room
        pictures = np.empty((int(room.sum()), size, size, 3), np.uint8)
        return cls(pictures, first, np.ones_like(room))

    def keep(self, row: int, frames: Sequence[np.ndarray]) -> None:
        """The frames of a record; rows may be written by any thread."""
        self.count[row] = len(frames)
        for place, frame in enumerate(frames, int(self.first[row])):
            self.pictures[place] = frame

    def chosen(
        self, rows: Int[np.ndarray, "b"], offsets: Int[np.ndarray, "b t"]
    ) -> UInt8[np.ndarray, "b t s s 3"]:
        """The frames at these offsets."""
        places = chosen_frames(self.count[rows], offsets)
        found = empty_frames(places.shape, self.pictures.shape[1])
        # "raise" would fill an array of its own first; rows are of the table, and places with them
        self.pictures.take(self.first[rows][:, None] + places, axis=0, out=found, mode="clip")
        return found
