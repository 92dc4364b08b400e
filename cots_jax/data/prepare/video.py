# SPDX-License-Identifier: Apache-2.0
"""A video file to the JPEGs of a few of its frames, or a reason why not.

Every frame is decoded and counted, by one thread from the first to the last (own choice): seeking
lands where the container's index says and not where it should, a container's count of frames is
often missing or wrong, and time stamps are missing, repeated or jump. So the same frames are chosen
on every machine (pixels may round otherwise where FFmpeg has other instructions to convert colours
with), and a clip of variable rate is sampled by what it shows and not by the seconds it stands
still. PyAV (FFmpeg) decodes; no network, no playlist and no file but the one that is named
is ever opened.
"""

import functools
import hashlib
import importlib
import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from cots_jax.data.frames import middle_frames
from cots_jax.data.prepare.pictures import PictureError, small_jpeg
from cots_jax.errors import UserError

INSTALL = "pip install 'cots_jax[video]'"
# FFmpeg's names; playlists (hls, dash, concat) and pictures are not among them
CONTAINERS = (
    "avi", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "mpeg", "mpegvideo",
    "mpegts", "asf", "flv", "ogg", "gif", "m4v", "h264", "hevc", "ivf",
)  # fmt: skip
OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
RATE = 25.0  # frames a second of a stream that does not say
MAX_PIXELS = 2**25  # of a frame: 8K has 33 million
MAX_FRAMES = 2**19  # two and a half hours at 60 a second
# A frame lost in a thousand is no reason to lose a test set; a clip that was cut is. Own choice.
MOST_LOST = 1 / 20
DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
TURNS = {
    90: Image.Transpose.ROTATE_90,
    -90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
}


@dataclass(frozen=True)
class VideoFile:
    """A video on the disk, and how many frames of it are wanted."""

    path: pathlib.Path
    frames: int

    def digest(self) -> bytes:
        """The sha256 of the file; PictureError."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise PictureError("video_unreadable") from error


@functools.cache
def decoder() -> Any:
    """The package PyAV, silent. UserError where it is not installed."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise UserError(f"videos need the package av: run `{INSTALL}`") from error
    av.logging.set_level(None)  # FFmpeg prints its remarks on sloppy files to standard error
    return av


def decoder_version() -> str:
    """What decodes: another one may round pixels otherwise."""
    codecs = ".".join(map(str, decoder().library_versions["libavcodec"]))
    return f"av {decoder().__version__}, libavcodec {codecs}"


def video_frames(video: VideoFile, longest_side: int) -> tuple[bytes, ...]:
    """JPEGs of the middle frames of equal segments: upright, RGB, square pixels, at most
    `longest_side` pixels; all frames where the clip has fewer than are wanted.

    Memory is that of one frame at a time. Raises PictureError: `video_empty`, `video_unreadable`,
    `video_without_pictures` (sound only), `video_no_frames`, `video_too_large`, `video_too_long`,
    `video_damaged` (more than a twentieth of its frames are lost).
    """
    av = decoder()
    try:
        if video.path.stat().st_size == 0:
            raise PictureError("video_empty")
        return _video_frames(av, video, longest_side)
    except PictureError:
        raise
    # FFmpeg and PyAV raise whatever they meet in a broken file
    except Exception as error:
        raise PictureError("video_unreadable") from error


def _video_frames(av: Any, video: VideoFile, longest_side: int) -> tuple[bytes, ...]:
    expected = _expected(av, video.path)
    walked = _walk(av, video, expected, longest_side)
    if not walked.frames:
        raise PictureError("video_no_frames")
    promised = max(expected, walked.packets) - walked.unseen
    if promised - walked.frames > MOST_LOST * promised or walked.ends_early:
        raise PictureError("video_damaged")
    if walked.frames != expected:  # the segments were those of another length
        walked = _walk(av, video, walked.frames, longest_side)
    return tuple(walked.jpegs)


@dataclass
class _Walked:
    """What was found on the way through a video."""

    packets: int = 0
    unseen: int = 0  # that the container counts and means not to be shown
    frames: int = 0  # that decode whole
    ends_early: bool = False  # long before the time that the container speaks of
    jpegs: list[bytes] = field(default_factory=list)


def _expected(av: Any, path: pathlib.Path) -> int:
    """How many frames the container says there are, or how many packets it has."""
    with av.open(str(path), options=OPTIONS) as container:
        stream = picture_stream(container)
        if stream.frames:
            return stream.frames
        return sum(1 for packet in packets_of(container, stream) if packet.size)


def _walk(av: Any, video: VideoFile, count: int, longest_side: int) -> _Walked:
    """Decodes all of a video; keeps the middle frames of its segments if it has `count` frames."""
    wanted = set(middle_frames(count, min(count, video.frames)).tolist()) if count else set()
    found, end, numbered = _Walked(), 0.0, 0
    with av.open(str(video.path), options=OPTIONS) as container:
        stream = picture_stream(container)
        for packet in packets_of(container, stream):
            found.packets += packet.size > 0
            found.unseen += packet.is_discard  # before the place where the clip was trimmed
            numbered = numbered if packet.dts is None else packet.dts + 1
            for frame in whole_frames(av, packet):
                if frame.width * frame.height > MAX_PIXELS:
                    raise PictureError("video_too_large")
                if found.frames in wanted:
                    found.jpegs.append(frame_jpeg(frame, stream, longest_side))
                end = max(end, frame.time or 0.0)
                found.frames += 1
                if found.frames > MAX_FRAMES:
                    raise PictureError("video_too_long")
        if container.format.name == "avi":
            # its header and its time stamps count the frames that the camera dropped as well
            found.unseen += max(0, numbered - found.packets)
        # one frame is shown for the time since the one before
        shown = end - seconds_of(stream.start_time, stream.time_base)
        shown *= found.frames / max(1, found.frames - 1)
        found.ends_early = not stream.frames and shown < (1 - 2 * MOST_LOST) * _said(stream)
    return found


def picture_stream(container: Any) -> Any:
    """The first stream of moving pictures; a cover of a sound file is none."""
    for stream in container.streams.video:
        if not stream.disposition & type(stream.disposition).attached_pic:
            if stream.width * stream.height > MAX_PIXELS:
                raise PictureError("video_too_large")
            # several threads lose other frames of a damaged video than one does
            stream.codec_context.thread_count = 1
            return stream
    raise PictureError("video_without_pictures")


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """All packets as far as the file can be read, and the empty one that ends them."""
    try:
        yield from container.demux(stream)
    except decoding_errors():
        return


def whole_frames(av: Any, packet: Any) -> Iterator[Any]:
    """The whole frames that a packet completes; none where it is damaged."""
    if packet.is_corrupt:
        return
    try:
        frames = packet.decode()
    except decoding_errors():
        return
    yield from (frame for frame in frames if not frame.is_corrupt)


def decoding_errors() -> type[Exception]:
    """What FFmpeg raises by PyAV, whatever is wrong."""
    return decoder().error.FFmpegError


def _said(stream: Any) -> float:
    """Seconds that the container speaks of; 0 where it does not."""
    if stream.duration:
        return seconds_of(stream.duration, stream.time_base)
    tag = DURATION.fullmatch(stream.metadata.get("DURATION", ""))  # Matroska: of each stream
    if tag:
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    return (stream.container.duration or 0) / 1e6


def seconds_of(stamp: int | None, base: Any) -> float:
    """A time of a stream; 0 where there is none."""
    return float(stamp * base) if stamp is not None and base is not None else 0.0


def frame_jpeg(frame: Any, stream: Any, longest_side: int) -> bytes:
    """A decoded frame upright, RGB, with square pixels."""
    rgb = frame.reformat(format="rgb24", threads=1).to_ndarray()
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    picture = _square_pixels(picture, stream.sample_aspect_ratio)
    return small_jpeg(picture, TURNS.get(frame.rotation), longest_side)


def _square_pixels(picture: Image.Image, aspect: Any) -> Image.Image:
    """Shrinks one side where the pixels are not square (anamorphic video)."""
    if not aspect or aspect == 1 or not 1 / 4 <= aspect <= 4:
        return picture
    width, height = picture.size
    size = (width, round(height / aspect)) if aspect > 1 else (round(width * aspect), height)
    return picture.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.LANCZOS)
