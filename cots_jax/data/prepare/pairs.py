# SPDX-License-Identifier: Apache-2.0
"""A caption table and its pictures to a prepared folder."""

import hashlib
import os
import pathlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cots_jax.config import UserError
from cots_jax.data.prepare.captions import clean_caption, fault_of
from cots_jax.data.prepare.images import Images, folder_digest
from cots_jax.data.prepare.pictures import PictureError, normalise_picture, strict_decoding
from cots_jax.data.prepare.progress import track
from cots_jax.data.prepare.shards import file_digest
from cots_jax.data.prepare.sources import BadRow, Columns, Row, read_table
from cots_jax.data.prepare.write import FolderWriter, Plan, Prepared, drops_in_words, prepare_folder
from cots_jax.data.records import Record

LICENCE = "that of the pictures and captions it was made from: not known to this program"
TRAIN, HELD_OUT = "train", "val"
MAX_SPLITS = 100  # more of them are a column that means something else
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class PairsOptions:
    """What `prepare pairs` is asked for."""

    captions: pathlib.Path
    images: pathlib.Path
    held_out: float = 0.05  # of the pictures; without effect where the table has splits
    longest_side: int = 256  # pixels
    name: str | None = None  # of the data set; None: that of the folder
    image_column: str | None = None
    caption_column: str | None = None


@dataclass
class Item:
    """One picture with all its captions, gathered over the rows of the table."""

    image: str  # as the table has it
    split: str | None
    source_row: str
    located: str
    captions: list[str] = field(default_factory=list)
    raw_captions: list[str] = field(default_factory=list)


def prepare_pairs(out: pathlib.Path, options: PairsOptions) -> Prepared:
    """Writes the folder of a user's own pairs; UserError where no pair can be used."""
    _check(options)
    plan = _plan(out, options)

    def fill(writer: FolderWriter) -> None:
        with Images(options.images) as images, strict_decoding():
            rows = read_table(
                options.captions, Columns(options.image_column, options.caption_column)
            )
            items = gather(rows, images, writer)
            assign_splits(items, options.held_out)
            write_items(items, images, options.longest_side, writer)
        if writer.is_empty:
            raise UserError(f"no usable pair in {options.captions}: {drops_in_words(writer.drops)}")

    return prepare_folder(out, plan, fill)


def _check(options: PairsOptions) -> None:
    if not 0 <= options.held_out < 1:
        raise UserError(f"--held_out={options.held_out}: take a part from 0 to below 1")
    if not 8 <= options.longest_side <= 16384:
        raise UserError(f"--longest_side={options.longest_side}: take 8 to 16384 pixels")
    for flag, path in (("captions", options.captions), ("images", options.images)):
        if not path.exists():
            raise UserError(f"--{flag}={path} does not exist")
    if not options.captions.is_file():
        raise UserError(f"--captions={options.captions} is no file: give a CSV, TSV or JSONL")


def _plan(out: pathlib.Path, options: PairsOptions) -> Plan:
    images = options.images
    arguments: dict[str, Any] = {
        "captions": options.captions.name,
        "captions_sha256": file_digest(options.captions),
        "images": images.resolve().name,
        "images_bytes": images.stat().st_size if images.is_file() else None,
        "images_digest": folder_digest(images, without=out) if images.is_dir() else None,
        "held_out": options.held_out,
        "longest_side": options.longest_side,
        "image_column": options.image_column,
        "caption_column": options.caption_column,
    }
    name = options.name or out.resolve().name
    return Plan(name, "pairs", LICENCE, options.longest_side, arguments)


def gather(rows: Iterable[Row | BadRow], images: Images, writer: FolderWriter) -> list[Item]:
    """The table's pictures in the order of first mention, each with its good captions; what is
    not taken is listed with the writer."""
    items: dict[str, Item] = {}
    for row in rows:
        if isinstance(row, BadRow):
            writer.reject(row.reason, row.source_row, row.image)
            continue
        try:
            located = images.locate(row.image)
        except PictureError as fault:
            writer.reject(str(fault), row.source_row, row.image)
            continue
        item = items.setdefault(located, Item(row.image, row.split, row.source_row, located))
        if item.split != row.split:
            writer.reject("picture_in_two_splits", row.source_row, row.image)
            continue
        _add_captions(item, row, writer)
    return [item for item in items.values() if item.captions]


def _add_captions(item: Item, row: Row, writer: FolderWriter) -> None:
    for raw in row.captions:
        fault = fault_of(raw)
        cleaned = clean_caption(raw)
        if fault is None and cleaned in item.captions:
            fault = "caption_duplicate"
        if fault is not None:
            writer.reject(fault, row.source_row, row.image, caption=raw[:200])
            continue
        item.captions.append(cleaned)
        item.raw_captions.append(raw)


def assign_splits(items: list[Item], held_out: float) -> None:
    """Gives items without a split one: `val` to those whose name's sha256 lies in the lowest
    `held_out` part of its range, so that adding pictures moves none from one side to the other.

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
        item.split = HELD_OUT if _place(item) < held_out else TRAIN
    if held_out > 0 and len(free) > 1 and all(item.split == TRAIN for item in free):
        min(free, key=_place).split = HELD_OUT


def _place(item: Item) -> float:
    """Where a picture's name lies, from 0 to 1."""
    digest = hashlib.sha256(item.image.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class _Decoded:
    item: Item
    source_digest: bytes = b""
    image: bytes = b""
    fault: str | None = None


def write_items(items: list[Item], images: Images, longest_side: int, writer: FolderWriter) -> None:
    """Decodes the pictures in threads and writes their records in order.

    Equal files under two names share their group (they are never each other's negatives); where
    they lie in two splits, the later one is dropped.
    """

    def decode(item: Item) -> _Decoded:
        try:
            data = images.read(item.located)
            image = normalise_picture(data, longest_side)
        except PictureError as fault:
            return _Decoded(item, fault=str(fault))
        return _Decoded(item, hashlib.sha256(data).digest(), image)

    first: dict[bytes, Item] = {}
    for decoded in in_order(decode, track(items, "reading pictures"), workers=os.cpu_count() or 1):
        item = decoded.item
        twin = first.setdefault(decoded.source_digest, item) if decoded.image else item
        fault = decoded.fault
        if fault is None and twin.split != item.split:
            fault = "picture_also_in_another_split"
        if fault is not None:
            writer.reject(fault, item.source_row, item.image)
        else:
            _write(item, twin, decoded.image, writer)


def _write(item: Item, twin: Item, image: bytes, writer: FolderWriter) -> None:
    record = Record(
        id=item.image,
        image=image,
        captions=tuple(item.captions),
        raw_captions=tuple(item.raw_captions),
        group=twin.image,
        group_id=writer.group_id(twin.image),
        source_row=item.source_row,
    )
    assert item.split is not None
    writer.add(item.split, record)


def in_order(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """`map` by threads, in order, with at most four items a worker under way."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
