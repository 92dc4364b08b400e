# SPDX-License-Identifier: Apache-2.0
"""Samples to the records of a folder: decoded in threads, written in the order of the source."""

import pathlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from cots_jax.data.prepare.grouping import add_grouped, reject, twin_reject
from cots_jax.data.prepare.kept import Kept, kept_of
from cots_jax.data.prepare.leakage import Leakage, exclude_arguments
from cots_jax.data.prepare.looks import look_of
from cots_jax.data.prepare.pictures import PictureError, strict_decoding
from cots_jax.data.prepare.progress import track_units
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.splits import held_out_split
from cots_jax.data.prepare.threads import in_order
from cots_jax.data.prepare.traces import Trace
from cots_jax.data.prepare.twins import Duplicates, Twins
from cots_jax.data.prepare.write import (
    FolderWriter,
    Outcome,
    Plan,
    Prepared,
    Role,
    already_there,
    drops_in_words,
    prepare_folder,
)
from cots_jax.data.records import Record
from cots_jax.errors import UserError

LICENCE = "that of the pictures and captions it was made from: not known to this program"


@dataclass(frozen=True)
class Source:
    """What a folder is made from: `arguments` tell one source from another, `open` gives its parts
    in their order."""

    kind: str
    arguments: dict[str, Any]
    open: Callable[[], AbstractContextManager[Sequence[Unit]]]
    name: str  # in messages
    frames: int = 0  # the most of a video; 0: pictures
    decoder: str = ""  # of videos, with its version


def prepare_source(out: pathlib.Path, source: Source, settings: Settings) -> Prepared:
    """Writes the folder of a source, or a task's part of it; UserError where no pair of it can be
    used."""
    settings.check()
    name = settings.name_for(out)
    arguments = source.arguments | settings.arguments() | exclude_arguments(settings.exclude)
    plan = Plan(
        name,
        source.kind,
        LICENCE,
        settings.longest_side,
        arguments,
        frames=source.frames,
        decoder=source.decoder,
    )
    task = settings.task
    if task is None:
        return prepare_folder(out, plan, lambda writer: _fill(source, settings, writer))
    merged = already_there(out, plan)
    if merged is not None:
        return Prepared(out, merged, Outcome.ALREADY_THERE)
    part = replace(plan, arguments={**arguments, "task": str(task)}, role=Role.PART)
    return prepare_folder(task.folder(out), part, lambda writer: _fill(source, settings, writer))


def no_usable_pair(name: str, writer: FolderWriter) -> UserError:
    """The error of a source that gives no record."""
    return UserError(f"no usable pair in {name}: {drops_in_words(writer.drops)}")


def _fill(source: Source, settings: Settings, writer: FolderWriter) -> None:
    with source.open() as units, strict_decoding():
        _write(units, source, settings, writer)
    if writer.is_empty and settings.task is None:
        raise no_usable_pair(source.name, writer)


@dataclass(frozen=True)
class _Decoded:
    sample: Sample
    kept: Kept | None  # None where the record was finished before
    trace: Trace


def _write(units: Sequence[Unit], source: Source, settings: Settings, writer: FolderWriter) -> None:
    """Decodes in threads; everything that depends on the order is done here, in that order."""
    leakage = None if settings.exclude is None else Leakage(settings.exclude)
    looks_needed = leakage is not None or settings.duplicates is Duplicates.DROP

    def decode(numbered: tuple[int, Sample | BadRow]) -> _Decoded | BadRow:
        ordinal, found = numbered
        if isinstance(found, BadRow):
            return found
        finished = writer.finished.trace(ordinal)
        if finished is not None:
            return _Decoded(found, None, finished)
        try:
            kept = kept_of(found.read(), settings.longest_side)
        except PictureError as fault:
            return BadRow(str(fault), found.source_row, found.id)
        trace = Trace(ordinal, kept.file, look_of(kept.image) if looks_needed else None)
        twin = leakage.twin(trace.file, trace.look) if leakage and looks_needed else None
        if twin is not None:
            return twin_reject(twin, found.id, found.source_row)
        return _Decoded(found, kept, trace)

    share = range(len(units)) if settings.task is None else settings.task.share(len(units))
    # which of two twins goes depends on all that was before: of a part, merging decides it
    twins = None if settings.task else Twins(settings.duplicates)
    mine = units[share.start : share.stop]
    noun = "videos" if source.frames else "pictures"
    samples = track_units(mine, f"reading {noun}", first=share.start)
    for found in in_order(decode, samples):
        if isinstance(found, BadRow):
            reject(found, writer)
        else:
            split = found.sample.split or held_out_split(found.sample.id, settings.held_out)
            add_grouped(_record(found.sample, found.kept), split, found.trace, twins, writer)


def _record(sample: Sample, kept: Kept | None) -> Record:
    return Record(
        id=sample.id,
        image=kept.image if kept else b"",
        captions=sample.captions,
        raw_captions=sample.raw_captions,
        group=sample.id if sample.group is None else sample.group,
        group_id=0,  # both until its twin is looked for
        source_row=sample.source_row,
        frames=kept.frames if kept else (),
    )
