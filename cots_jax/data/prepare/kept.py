# SPDX-License-Identifier: Apache-2.0
"""What is kept of a picture's or a video's file."""

from dataclasses import dataclass

from cots_jax.data.prepare.looks import digest_number, number_of
from cots_jax.data.prepare.pictures import normalise_picture
from cots_jax.data.prepare.video import VideoFile, video_frames


@dataclass(frozen=True)
class Kept:
    """The bytes of a record, and the number of the digest of the file that they come from."""

    file: int
    image: bytes
    frames: tuple[bytes, ...] = ()


def kept_of(file: bytes | VideoFile, longest_side: int) -> Kept:
    """The JPEG of a picture, or those of a video's frames and the middle one as its picture.

    Raises PictureError.
    """
    if isinstance(file, VideoFile):
        frames = video_frames(file, longest_side)
        return Kept(number_of(file.digest()), frames[len(frames) // 2], frames)
    return Kept(digest_number(file), normalise_picture(file, longest_side))
