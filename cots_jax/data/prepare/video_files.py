# SPDX-License-Identifier: Apache-2.0
"""A folder of video files, asked by the names that a table gives them."""

import pathlib
import stat
from types import TracebackType
from typing import Any

from cots_jax.data.prepare.images import FolderImages, Names, folder_digest, safe_name
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video import VideoFile
from cots_jax.errors import UserError

ENDINGS = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv",
    ".3gp", ".ogv", ".gif",
)  # fmt: skip

REASONS = {  # of pictures, whose names are looked up alike
    "picture_missing": "video_missing",
    "picture_name_unsafe": "video_name_unsafe",
    "picture_name_ambiguous": "video_name_ambiguous",
    "picture_outside_folder": "video_outside_folder",
}


class Videos:
    """Videos of a folder and those below it, as a context manager.

    A table may leave the ending out (`video7010` for `TestVideo/video7010.mp4`), as MSR-VTT's
    does; what a file is called is never taken for what it is.
    """

    in_two_splits = "video_in_two_splits"  # the reason
    ambiguous = "video_name_ambiguous"

    def __init__(self, folder: pathlib.Path, frames: int):
        if not folder.is_dir():
            raise UserError(f"--videos={folder} is no folder: give the one with the video files")
        self._folder = FolderImages(folder)
        self._root = folder.resolve()
        self._frames = frames
        self._by_stem: dict[str, list[str]] = {}
        for name in self._folder.names:
            ending = pathlib.PurePosixPath(name).suffix
            if ending.lower() in ENDINGS:
                self._by_stem.setdefault(name.removesuffix(ending), []).append(name)
        self._stems = Names(self._by_stem)

    def locate(self, name: str) -> str:
        """The path below the folder that a table's name stands for; PictureError."""
        try:
            return self._folder.locate(name)
        except PictureError as fault:
            if str(fault) != "picture_missing":
                raise _of_a_video(fault) from fault
        try:
            found = self._by_stem[self._stems.find(safe_name(name))]
        except PictureError as fault:
            raise _of_a_video(fault) from fault
        if len(found) > 1:
            raise PictureError("video_name_ambiguous")
        return found[0]

    def read(self, located: str) -> VideoFile:
        """A located video, to be decoded; PictureError."""
        try:
            return VideoFile(self._folder.path(located), self._frames)
        except PictureError as fault:
            if str(fault) == "picture_missing" and _is_special(self._root / located):
                raise PictureError("video_not_regular") from fault
            raise _of_a_video(fault) from fault

    def __enter__(self) -> "Videos":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held open."""


def videos_arguments(folder: pathlib.Path, frames: int, out: pathlib.Path) -> dict[str, Any]:
    """What tells one folder of videos and the choice of their frames from others; UserError."""
    if not folder.is_dir():
        raise UserError(f"--videos={folder} is no folder: give the one with the video files")
    if not 1 <= frames <= 1024:
        raise UserError(f"--frames={frames}: take 1 to 1024 frames of a video")
    return {
        "videos": folder.resolve().name,
        "videos_digest": folder_digest(folder, without=out),
        "frames": frames,
    }


def _of_a_video(fault: PictureError) -> PictureError:
    return PictureError(REASONS[str(fault)])


def _is_special(path: pathlib.Path) -> bool:
    """Whether there is a pipe, a socket or a device: reading it could wait for ever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
