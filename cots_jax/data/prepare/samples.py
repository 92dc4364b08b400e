# SPDX-License-Identifier: Apache-2.0
"""What a source hands out: pictures with captions, or rows that cannot be used."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cots_jax.data.prepare.video import VideoFile


@dataclass(frozen=True)
class BadRow:
    """A row, picture or caption that cannot be used, and why."""

    reason: str  # what `rejects.jsonl` counts by
    source_row: str  # FILE:LINE or the like
    image: str = ""  # as the source names it
    more: tuple[tuple[str, str], ...] = ()  # further fields of its line in `rejects.jsonl`


@dataclass(frozen=True)
class Sample:
    """One picture or video with all its captions."""

    id: str
    captions: tuple[str, ...]  # cleaned
    raw_captions: tuple[str, ...]
    split: str | None  # None: the held-out part of the ids decides
    source_row: str
    read: Callable[[], bytes | VideoFile]  # the file; PictureError; called in any thread
    group: str | None = None  # of pictures that are no negatives of each other; None: its own


# A part of a source that can be read alone, again and by another machine: a tar, a row group, some
# rows of a table. It gives the same samples in the same order every time.
Unit = Callable[[], Iterator[Sample | BadRow]]
