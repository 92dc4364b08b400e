# SPDX-License-Identifier: Apache-2.0
"""A video file cut into pieces of equal time, each with the JPEGs of a few of its frames.

Pieces are counted in seconds and not in frames, as `prepare` counts, since a hit is to be opened at
its time. The packets' time stamps say how long a video is, whatever its container says; every frame
is decoded in order. A damaged video has the pieces that decode. Own choice, all of it.
"""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video import (
    MAX_FRAMES,
    MAX_PIXELS,
    OPTIONS,
    RATE,
    decoder,
    frame_jpeg,
    packets_of,
    picture_stream,
    whole_frames,
)


@dataclass(frozen=True)
class VideoPiece:
    """The frames that are on the screen at the middles of equal parts of a piece."""

    start: float  # seconds from the video's first frame
    end: float
    jpegs: tuple[bytes, ...]


@dataclass(frozen=True)
class Cut:
    """How videos are cut: into pieces of about so many seconds, with so many frames each."""

    seconds: float
    frames: int
    longest_side: int  # pixels


def video_pieces(path: pathlib.Path, cut: Cut) -> list[VideoPiece]:
    """The pieces of a video, in their order.

    Memory is that of one frame, besides the JPEGs. Raises PictureError: `video_empty`,
    `video_unreadable`, `video_without_pictures`, `video_no_frames`, `video_too_large`,
    `video_too_long`.
    """
    av = decoder()
    try:
        if path.stat().st_size == 0:
            raise PictureError("video_empty")
        pieces = _video_pieces(av, path, cut)
    except PictureError:
        raise
    # FFmpeg and PyAV raise whatever they meet in a broken file
    except Exception as error:
        raise PictureError("video_unreadable") from error
    if not pieces:
        raise PictureError("video_no_frames")
    return pieces


def _video_pieces(av: Any, path: pathlib.Path, cut: Cut) -> list[VideoPiece]:
    clock = _clock(av, path)
    if not clock.packets:
        return []
    count = min(clock.packets, max(1, round(clock.length / cut.seconds)))
    edges = np.linspace(0, clock.length, count + 1)
    times = (np.arange(count * cut.frames) + 0.5) * clock.length / (count * cut.frames)
    jpegs: list[bytes] = []
    on_screen, last = None, 0.0
    with av.open(str(path), options=OPTIONS) as container:
        stream = picture_stream(container)
        for number, frame in enumerate(_frames(av, container, stream)):
            last = max(last, clock.time(frame, number))
            while on_screen is not None and len(jpegs) < len(times) and times[len(jpegs)] < last:
                jpegs.append(frame_jpeg(on_screen, stream, cut.longest_side))
            on_screen = frame
        if on_screen is None:
            return []
        begun = int(np.searchsorted(edges[:-1], last, side="right")) * cut.frames
        while len(jpegs) < begun:
            jpegs.append(frame_jpeg(on_screen, stream, cut.longest_side))
    return [
        VideoPiece(round(float(edges[piece]), 3), round(float(edges[piece + 1]), 3), chosen)
        for piece, chosen in enumerate(zip(*[iter(jpegs[:begun])] * cut.frames, strict=True))
    ]


def _frames(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    """All whole frames; PictureError for those beyond reason."""
    number = 0
    for packet in packets_of(container, stream):
        for frame in whole_frames(av, packet):
            if frame.width * frame.height > MAX_PIXELS:
                raise PictureError("video_too_large")
            if number == MAX_FRAMES:
                raise PictureError("video_too_long")
            number += 1
            yield frame


@dataclass(frozen=True)
class _Clock:
    """When frames are shown: seconds from the first one."""

    start: float  # the first time stamp
    length: float
    packets: int
    rate: float  # frames a second, where they have no time stamps

    def time(self, frame: Any, number: int) -> float:
        """Of the frame that is decoded as this one."""
        return number / self.rate if frame.time is None else frame.time - self.start


def _clock(av: Any, path: pathlib.Path) -> _Clock:
    """By the packets, of which none is decoded."""
    with av.open(str(path), options=OPTIONS) as container:
        stream = picture_stream(container)
        rate = float(stream.average_rate or RATE)
        packets = packets_of(container, stream)
        # what lies before the place where a clip was trimmed is decoded and not shown
        found = [packet.pts for packet in packets if packet.size and not packet.is_discard]
        stamps = [float(stamp * stream.time_base) for stamp in found if stamp is not None]
    if not stamps:
        return _Clock(0.0, len(found) / rate, len(found), rate)
    # the last frame is shown as long as those before it in the mean
    first, last = min(stamps), max(stamps)
    shown = (last - first) / (len(stamps) - 1) if last > first else 1 / rate
    return _Clock(first, last - first + shown, len(found), rate)
