# SPDX-License-Identifier: Apache-2.0
"""One frame of a video, to be looked at."""

import contextlib
import pathlib
from typing import Any

from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video import (
    MAX_PIXELS,
    OPTIONS,
    RATE,
    decoder,
    decoding_errors,
    frame_jpeg,
    packets_of,
    picture_stream,
    seconds_of,
    whole_frames,
)

MOST_FRAMES = 1024  # decoded after a jump; own choice
# Seconds before the wanted time that it jumps to; some containers lead to a frame behind it.
LEADS = (0.0, 2.0, 10.0)


def still(path: pathlib.Path, seconds: float, longest_side: int) -> bytes:
    """JPEG of what a video shows so many seconds after its first frame. Raises PictureError.

    It jumps to a key frame before, where the container has an index; at most MOST_FRAMES are
    decoded from there. Near enough to be looked at: nothing is embedded from here
    (`video_pieces.py` decodes every frame for that).
    """
    av = decoder()
    for lead in LEADS:
        with contextlib.suppress(decoding_errors()):  # no index to jump by
            found = _still(av, path, seconds, longest_side, lead)
            if found is not None:
                return found
    try:
        found = _still(av, path, seconds, longest_side, None)
    except PictureError:
        raise
    # FFmpeg and PyAV raise whatever they meet in a broken file
    except Exception as error:
        raise PictureError("video_unreadable") from error
    if found is None:
        raise PictureError("video_no_frames")
    return found


def _still(
    av: Any, path: pathlib.Path, seconds: float, longest_side: int, lead: float | None
) -> bytes | None:
    """None where there is no frame, or the first one after a jump is too late.

    lead: of the jump; None for none.
    """
    with av.open(str(path), options=OPTIONS) as container:
        stream = picture_stream(container)
        begin = seconds_of(stream.start_time, stream.time_base)
        rate = float(stream.average_rate or RATE)
        if lead is not None:
            place = begin + max(0.0, seconds - lead)
            container.seek(int(place / stream.time_base), stream=stream)
        shown = None
        packets = packets_of(container, stream)
        frames = (frame for packet in packets for frame in whole_frames(av, packet))
        for number, frame in enumerate(frames):
            if frame.width * frame.height > MAX_PIXELS:
                raise PictureError("video_too_large")
            moment = number / rate if frame.time is None else frame.time - begin
            if shown is None and moment > seconds and lead is not None:
                return None
            if shown is not None and (moment > seconds or number == MOST_FRAMES):
                break
            shown = frame
        return None if shown is None else frame_jpeg(shown, stream, longest_side)
