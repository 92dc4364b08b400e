# SPDX-License-Identifier: Apache-2.0
"""Samples to the records of a folder: decoded in threads, written in the order of the source."""

import hashlib
import os
import pathlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from cots_jax.config import UserError
from cots_jax.data.prepare.pictures import PictureError, normalise_picture, strict_decoding
from cots_jax.data.prepare.progress import track_units
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.splits import held_out_split
from cots_jax.data.prepare.write import FolderWriter, Plan, Prepared, drops_in_words, prepare_folder
from cots_jax.data.records import Record

LICENCE = "that of the pictures and captions it was made from: not known to this program"
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Source:
    """What a folder is made from: `arguments` tell one source from another, `open` gives its parts
    in their order."""

    kind: str
    arguments: dict[str, Any]
    open: Callable[[], AbstractContextManager[Sequence[Unit]]]
    name: str  # in messages


def prepare_source(out: pathlib.Path, source: Source, settings: Settings) -> Prepared:
    """Writes the folder of a source; UserError where no pair of it can be used."""
    settings.check()
    name = settings.name_for(out)
    arguments = source.arguments | settings.arguments()
    plan = Plan(name, source.kind, LICENCE, settings.longest_side, arguments)

    def fill(writer: FolderWriter) -> None:
        with source.open() as units, strict_decoding():
            _write(units, settings, writer)
        if writer.is_empty:
            drops = drops_in_words(writer.drops)
            raise UserError(f"no usable pair in {source.name}: {drops}")

    return prepare_folder(out, plan, fill)


@dataclass(frozen=True)
class _Decoded:
    sample: Sample
    digest: bytes  # of the picture's file
    image: bytes


def _write(units: Sequence[Unit], settings: Settings, writer: FolderWriter) -> None:
    """Equal files under two names share their group (they are never each other's negatives); where
    they lie in two splits, the later one is dropped."""

    def decode(found: Sample | BadRow) -> _Decoded | BadRow:
        if isinstance(found, BadRow):
            return found
        try:
            data = found.read()
            image = normalise_picture(data, settings.longest_side)
        except PictureError as fault:
            return BadRow(str(fault), found.source_row, found.id)
        return _Decoded(found, hashlib.sha256(data).digest(), image)

    first: dict[bytes, tuple[str, str]] = {}  # id and split of the first with these bytes
    samples = track_units(units, "reading pictures")
    for found in in_order(decode, samples, workers=os.cpu_count() or 1):
        if isinstance(found, BadRow):
            writer.reject(found.reason, found.source_row, found.image, **dict(found.more))
            continue
        sample = found.sample
        split = sample.split or held_out_split(sample.id, settings.held_out)
        twin, its_split = first.setdefault(found.digest, (sample.id, split))
        if its_split != split:
            reason = "picture_also_in_another_split"
            writer.reject(reason, sample.source_row, sample.id, twin=twin)
        else:
            writer.add(split, _record(sample, found.image, twin, writer.group_id(twin)))


def _record(sample: Sample, image: bytes, group: str, group_id: int) -> Record:
    return Record(
        id=sample.id,
        image=image,
        captions=sample.captions,
        raw_captions=sample.raw_captions,
        group=group,
        group_id=group_id,
        source_row=sample.source_row,
    )


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
