# SPDX-License-Identifier: Apache-2.0
"""Video files that tests write themselves, and the grey levels by which frames are told apart."""

import io
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
STEP = 5  # grey levels between two frames: more than any of the codecs is off by
FIRST = 20


def levels(count: int) -> list[np.ndarray]:
    """Frames of one grey each, all different."""
    assert FIRST + STEP * count < 250
    return [np.full((HEIGHT, WIDTH, 3), FIRST + STEP * i, np.uint8) for i in range(count)]


def number_of(jpeg: bytes) -> int:
    """Which of the levels a frame shows."""
    grey = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), np.float64)
    return round((grey.mean() - FIRST) / STEP)


def write_film(
    path: pathlib.Path,
    frames: Sequence[np.ndarray],
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    aspect: str = "",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> pathlib.Path:
    """25 frames a second, or each at its time in 25ths of a second."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000  # enough to keep the levels apart
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels_of_frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_of_frame, format="rgb24")
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_trimmed(film: pathlib.Path, path: pathlib.Path, first: int) -> pathlib.Path:
    """A film without its frames before `first`, the packets copied as they are: those from the key
    frame on stay in the file, and its edit list leaves them out."""
    import av

    with av.open(str(film)) as whole, av.open(str(path), "w") as container:
        source = whole.streams.video[0]
        stream = container.add_stream_from_template(source)
        begin = round(first / 25 / source.time_base)
        whole.seek(begin, stream=source)
        for packet in whole.demux(source):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - begin,
                    packet.dts - begin,
                    stream,
                )
                container.mux(packet)
    return path


def write_sound(path: pathlib.Path) -> pathlib.Path:
    """A second of silence."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
