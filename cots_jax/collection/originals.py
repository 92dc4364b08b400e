# SPDX-License-Identifier: Apache-2.0
"""The pictures and videos behind an index, read again to be shown."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from cots_jax.collection.changes import KIND
from cots_jax.collection.sources import (
    FOLDER,
    TAR,
    VIDEOS,
    Entry,
    Skipped,
    file_entry,
    regular_file,
    tar_entries,
)
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.video import decoder
from cots_jax.data.prepare.video_still import still
from cots_jax.data.records import Split, open_split
from cots_jax.errors import UserError
from cots_jax.retrieval.index_files import Row

GONE = "picture_gone"  # or changed beyond use
LONGEST_SIDE = 1280  # pixels of a frame that stands for a piece of a video


def _no_picture(row: Row, place: int) -> bytes:
    """Of rows that a program put in nobody knows the picture."""
    raise PictureError(GONE)


def _no_video(row: Row) -> Path:
    raise PictureError(GONE)


@dataclasses.dataclass(frozen=True)
class Originals:
    """What stands behind a row: both raise PictureError where there is none, or none any more.

    picture: its bytes, by the row and its place in the index; of a piece of a video, a frame from
    its middle. video: the file that a row is a piece of.
    """

    picture: Callable[[Row, int], bytes] = _no_picture
    video: Callable[[Row], Path] = _no_video


@contextlib.contextmanager
def open_originals(location: Mapping[str, Any]) -> Generator[Originals]:
    """Opens the collection that `index.json` names under `images`. UserError where it is gone.

    An index that a program fills has nothing to show.
    """
    if location["kind"] == KIND:
        yield Originals()
        return
    path = Path(location["path"])
    if not path.exists():
        raise UserError(
            f"the pictures of this index were in {path}, which is not there: mount it, or run "
            "`python -m cots_jax.search index` where they are now"
        )
    path = path.resolve()  # a link may lead to where it was moved; none leads out from there
    if location["kind"] == VIDEOS:
        decoder()  # whether there is one is said at once
        yield Originals(functools.partial(_frame, path), functools.partial(_video, path))
    elif location["kind"] == FOLDER:
        yield Originals(functools.partial(_from_folder, path))
    elif location["kind"] == TAR:
        entries = {entry.name: entry for entry in tar_entries(path) if isinstance(entry, Entry)}
        yield Originals(functools.partial(_from_tar, entries))
    else:
        with open_split(path, location["split"]) as split:
            yield Originals(_FromSplit(split))


def _video(root: Path, row: Row) -> Path:
    """Links are followed anew each time, and none leads out of the folder."""
    path = root / row.name
    if isinstance(regular_file(path, row.name, root), Skipped):
        raise PictureError(GONE)
    return path


def _frame(root: Path, row: Row, place: int) -> bytes:
    middle = ((row.start or 0.0) + (row.end or 0.0)) / 2
    return still(_video(root, row), middle, LONGEST_SIDE)


def _from_folder(root: Path, row: Row, place: int) -> bytes:
    """Links are followed as for videos."""
    found = file_entry(root / row.name, row.name, root)
    if not isinstance(found, Entry):
        raise PictureError(GONE)
    return found.read().image


def _from_tar(entries: Mapping[str, Entry], row: Row, place: int) -> bytes:
    if row.name not in entries:
        raise PictureError(GONE)
    return entries[row.name].read().image


class _FromSplit:
    """The record in the row of the index; where another stands there, ids are read once."""

    def __init__(self, split: Split):
        self._split = split

    def __call__(self, row: Row, place: int) -> bytes:
        if place < len(self._split):
            record = self._split.record(place)
            if record.id == row.name:
                return record.image
        if row.name not in self._places:
            raise PictureError(GONE)
        return self._split.record(self._places[row.name]).image

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {self._split.record(place).id: place for place in range(len(self._split))}
