# SPDX-License-Identifier: Apache-2.0
"""A folder of video files as a collection: a row for each piece of a few seconds."""

import contextlib
import math
import os
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from cots_jax.collection.sources import (
    VIDEOS,
    Content,
    Entry,
    Piece,
    Skipped,
    Source,
    View,
    folder_entries,
    stamp_of,
)
from cots_jax.data.decoding import decode_picture
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.video import VideoFile, decoder
from cots_jax.data.prepare.video_files import ENDINGS
from cots_jax.data.prepare.video_pieces import Cut, video_pieces
from cots_jax.errors import UserError

SECONDS = 8.0  # of a piece; own choice


@contextlib.contextmanager
def open_videos(folder: str, seconds: float, out: Path) -> Generator[Source]:
    """The video files of a folder and those below it, but for those below `out`; UserError."""
    decoder()  # whether there is one is said at once
    if not Path(folder).is_dir():
        raise UserError(f"--videos={folder} is no folder: give the one with the video files")
    if not (math.isfinite(seconds) and seconds >= 0.1):
        raise UserError(f"--seconds={seconds:g}: take pieces of 0.1 seconds or more")
    root, without = Path(folder).resolve(), out.resolve()
    location = {"kind": VIDEOS, "path": str(root), "seconds": seconds}
    entry = partial(_video_file, seconds)
    yield Source(location, lambda: folder_entries(root, without, entry))


def _video_file(seconds: float, path: Path, name: str, found: os.stat_result) -> Entry | Skipped:
    if path.suffix.lower() not in ENDINGS:
        return Skipped(name, "file_ending_unknown")
    return Entry(name, stamp_of(found), partial(_video, path, seconds))


def _video(path: Path, seconds: float) -> Content:
    digest = VideoFile(path, frames=1).digest().hex()
    return Content(digest, lambda view: list(_pieces(path, seconds, view)))


def _pieces(path: Path, seconds: float, view: View) -> Iterator[Piece]:
    """Frames go the way of `prepare`: by JPEGs of the size that it makes by default."""
    longest_side = max(Settings.longest_side, 2 * view.size)
    for piece in video_pieces(path, Cut(seconds, view.frames, longest_side)):
        frames = np.stack([decode_picture(jpeg, view.size) for jpeg in piece.jpegs])
        yield Piece(frames, piece.start, piece.end)
