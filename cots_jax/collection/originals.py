# SPDX-License-Identifier: Apache-2.0
"""The pictures behind an index, read again to be shown."""

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from cots_jax.collection.changes import KIND
from cots_jax.collection.sources import FOLDER, TAR, VIDEOS, Entry, file_entry, tar_entries
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.records import Split, open_split
from cots_jax.errors import UserError

GONE = "picture_gone"  # or changed beyond use


# The bytes of a picture by its name and row in the index; PictureError where it is gone.
Originals = Callable[[str, int], bytes]


@contextlib.contextmanager
def open_originals(location: Mapping[str, Any]) -> Generator[Originals]:
    """Opens the collection that `index.json` names under `images`. UserError where it is gone.

    An index of videos, and one that a program fills, has none to show.
    """
    if location["kind"] in (VIDEOS, KIND):
        yield _none
        return
    path = Path(location["path"])
    if not path.exists():
        raise UserError(
            f"the pictures of this index were in {path}, which is not there: mount it, or run "
            "`python -m cots_jax.search index` where they are now"
        )
    if location["kind"] == FOLDER:
        yield functools.partial(_from_folder, path)
    elif location["kind"] == TAR:
        entries = {entry.name: entry for entry in tar_entries(path) if isinstance(entry, Entry)}
        yield functools.partial(_from_tar, entries)
    else:
        with open_split(path, location["split"]) as split:
            yield _FromSplit(split)


def _none(name: str, row: int) -> bytes:
    """Of rows that a program put in nobody knows the picture; a video's is in none of its bytes."""
    raise PictureError(GONE)


def _from_folder(root: Path, name: str, row: int) -> bytes:
    """Links are followed anew each time, and none leads out of the folder."""
    found = file_entry(root / name, name, root)
    if not isinstance(found, Entry):
        raise PictureError(GONE)
    return found.read().image


def _from_tar(entries: Mapping[str, Entry], name: str, row: int) -> bytes:
    if name not in entries:
        raise PictureError(GONE)
    return entries[name].read().image


class _FromSplit:
    """The record in the row of the index; where another stands there, ids are read once."""

    def __init__(self, split: Split):
        self._split = split

    def __call__(self, name: str, row: int) -> bytes:
        if row < len(self._split):
            record = self._split.record(row)
            if record.id == name:
                return record.image
        if name not in self._rows:
            raise PictureError(GONE)
        return self._split.record(self._rows[name]).image

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {self._split.record(row).id: row for row in range(len(self._split))}
