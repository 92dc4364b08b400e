# SPDX-License-Identifier: Apache-2.0
"""Rows of a caption table, gathered picture by picture."""

import functools
import pathlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cots_jax.data.prepare.captions import Captions, Repeats, add_caption
from cots_jax.data.prepare.images import Images, are_one_name, folder_digest
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.sources import Row
from cots_jax.data.prepare.splits import (
    HELD_OUT,
    MAX_SPLITS,
    TRAIN,
    held_out_split,
    place,
    train_last,
)
from cots_jax.data.prepare.video_files import Videos
from cots_jax.errors import UserError

UNIT = 1000  # pictures; own choice

Finder = Images | Videos


@dataclass
class Item:
    """One picture with all its captions, gathered over the rows of the table."""

    image: str  # as the table has it
    split: str | None
    source_row: str
    located: str
    captions: Captions = field(default_factory=Captions)
    named: dict[str, list[str]] = field(default_factory=dict)  # its rows by the name they have

    def sample(self, images: Finder) -> Sample:
        """The picture with its captions, to be read when it is decoded."""
        read = functools.partial(images.read, self.located)
        texts = tuple(self.captions.cleaned), tuple(self.captions.raw)
        return Sample(self.image, *texts, self.split, self.source_row, read)


@dataclass(frozen=True)
class Gathered:
    """The pictures of a table and what of it cannot be used."""

    items: list[Item]
    rejects: list[BadRow]


def gather(rows: Iterable[Row | BadRow], images: Finder, repeats: Repeats) -> Gathered:
    """The table's pictures in the order of first mention, each with its good captions.

    A picture that rows mean by names of which none ends the other, `cats/1.jpg` and `dogs/1.jpg`
    where there is a `1.jpg`, is nobody's.
    """
    items: dict[str, Item] = {}
    rejects: list[BadRow] = []
    for row in rows:
        if isinstance(row, BadRow):
            rejects.append(row)
            continue
        try:
            located = images.locate(row.image)
        except PictureError as fault:
            rejects.append(BadRow(str(fault), row.source_row, row.image))
            continue
        item = items.setdefault(located, Item(row.image, row.split, row.source_row, located))
        item.named.setdefault(row.image, []).append(row.source_row)
        if item.split != row.split:
            rejects.append(BadRow(images.in_two_splits, row.source_row, row.image))
            continue
        for raw in row.captions:
            add_caption(item.captions, raw, row.source_row, row.image, repeats)
        rejects += item.captions.rejects
        item.captions.rejects.clear()
    clear: list[Item] = []
    for item in items.values():
        if not item.captions.cleaned:
            continue
        if are_one_name(item.named):
            clear.append(item)
            continue
        for name, source_rows in item.named.items():
            rejects += [BadRow(images.ambiguous, source_row, name) for source_row in source_rows]
    return Gathered(clear, rejects)


def assign_splits(items: list[Item], held_out: float) -> None:
    """Gives items without a split one, by `held_out_split`.

    Of two or more pictures at least one is held out where any is asked for.
    """
    names = {item.split for item in items}
    if len(names) > MAX_SPLITS:
        raise UserError(
            f"the split column names {len(names)} splits, {MAX_SPLITS} is the most: rename the "
            "column if it means something else"
        )
    free = [item for item in items if item.split is None]
    for item in free:
        item.split = held_out_split(item.image, held_out)
    if held_out > 0 and len(free) > 1 and all(item.split == TRAIN for item in free):
        min(free, key=lambda item: place(item.image)).split = HELD_OUT


@contextmanager
def table_units(
    rows: Iterable[Row | BadRow],
    images: AbstractContextManager[Finder],
    held_out: float,
    repeats: Repeats,
    unit: int = UNIT,
) -> Iterator[list[Unit]]:
    """The units of a table whose pictures or videos lie in a folder or a tar; the splits that are
    not trained on come first."""
    with images as opened:
        gathered = gather(rows, opened, repeats)
        items = gathered.items
        assign_splits(items, held_out)
        items.sort(key=lambda item: train_last(item.split))

        def samples(first: int) -> Iterator[Sample | BadRow]:
            return (item.sample(opened) for item in items[first : first + unit])

        parts = [functools.partial(samples, first) for first in range(0, len(items), unit)]
        yield [lambda: iter(gathered.rejects), *parts]


def images_arguments(images: pathlib.Path, out: pathlib.Path) -> dict[str, Any]:
    """What tells one folder or tar of pictures from another; UserError where it is missing."""
    if not images.exists():
        raise UserError(f"--images={images} does not exist")
    return {
        "images": images.resolve().name,
        "images_bytes": images.stat().st_size if images.is_file() else None,
        "images_digest": folder_digest(images, without=out) if images.is_dir() else None,
    }
