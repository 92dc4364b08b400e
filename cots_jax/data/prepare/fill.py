# SPDX-License-Identifier: Apache-2.0
"""Samples to the records of a folder: decoded in threads, written in the order of the source."""

import os
import pathlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from cots_jax.config import UserError
from cots_jax.data.prepare.leakage import Leakage, exclude_arguments
from cots_jax.data.prepare.looks import Look, digest_number, look_of
from cots_jax.data.prepare.pictures import PictureError, normalise_picture, strict_decoding
from cots_jax.data.prepare.progress import track_units
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.splits import held_out_split
from cots_jax.data.prepare.threads import in_order
from cots_jax.data.prepare.twins import Duplicates, Twin, Twins
from cots_jax.data.prepare.write import FolderWriter, Plan, Prepared, drops_in_words, prepare_folder
from cots_jax.data.records import Record

LICENCE = "that of the pictures and captions it was made from: not known to this program"


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
    arguments = source.arguments | settings.arguments() | exclude_arguments(settings.exclude)
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
    image: bytes
    file: int  # of the digest of the picture's file
    look: Look | None


def _write(units: Sequence[Unit], settings: Settings, writer: FolderWriter) -> None:
    """Decodes in threads; everything that depends on the order is done here, in that order."""
    leakage = None if settings.exclude is None else Leakage(settings.exclude)
    twins = Twins(settings.duplicates)
    looks_needed = leakage is not None or settings.duplicates is Duplicates.DROP

    def decode(found: Sample | BadRow) -> _Decoded | BadRow:
        if isinstance(found, BadRow):
            return found
        try:
            data = found.read()
            image = normalise_picture(data, settings.longest_side)
        except PictureError as fault:
            return BadRow(str(fault), found.source_row, found.id)
        file = digest_number(data)
        look = look_of(image) if looks_needed else None
        excluded = leakage.twin(file, look) if leakage and look is not None else None
        return _Decoded(found, image, file, look) if excluded is None else _twin(found, excluded)

    samples = track_units(units, "reading pictures")
    for found in in_order(decode, samples, workers=os.cpu_count() or 1):
        if not isinstance(found, BadRow):
            split = found.sample.split or held_out_split(found.sample.id, settings.held_out)
            found = _place(found, split, twins, writer)
        if found is not None:
            writer.reject(found.reason, found.source_row, found.image, **dict(found.more))


def _place(found: _Decoded, split: str, twins: Twins, writer: FolderWriter) -> BadRow | None:
    """Writes a picture, in the group of its twin if it has one; or says why not."""
    sample = found.sample
    twin = twins.of(split, found.file, found.look)
    if twin is not None and twins.drops(split, twin):
        return _twin(sample, twin)
    if twin is None:
        twins.add(sample.id, split, found.file, found.look)
    group = sample.id if twin is None else twin.id
    writer.add(split, _record(sample, found.image, group, writer.group_id(group)))
    return None


def _twin(sample: Sample, twin: Twin) -> BadRow:
    """The reject of a picture that is there already, with where its twin is."""
    more = [("twin", twin.id), ("twin_split", twin.split)]
    if twin.distance:
        more.append(("distance", str(twin.distance)))
    return BadRow(twin.reason, sample.source_row, sample.id, tuple(more))


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
