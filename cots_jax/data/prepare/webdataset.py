# SPDX-License-Identifier: Apache-2.0
"""Plain webdataset tars: `KEY.jpg` (png, webp, gif) beside `KEY.txt` or `KEY.json`."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.captions import gather_captions
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.source_files import (
    SourceFile,
    list_files,
    source_arguments,
    with_rejects,
)
from cots_jax.data.prepare.sources import CAPTION_COLUMNS
from cots_jax.data.prepare.splits import splits_in_names, train_last
from cots_jax.data.prepare.tars import TarSample, tar_samples
from cots_jax.data.prepare.write import Prepared


@dataclass(frozen=True)
class WebdatasetOptions(Settings):
    """What `prepare webdataset` is asked for."""

    source: pathlib.Path  # a folder of tars or one of them
    caption_column: str | None = None  # a key of the JSON files


def prepare_webdataset(out: pathlib.Path, options: WebdatasetOptions) -> Prepared:
    """Writes the folder of plain webdataset tars.

    Their names say the split (`train-00001.tar`, `val/00001.tar`); where none does, `--held_out`
    decides. A caption file of its own (`.txt`) goes before a key of the JSON file, unless
    `--caption_column` names one.
    """
    arguments = source_arguments(options.source, out) | {"caption_column": options.caption_column}
    source = Source("webdataset", arguments, lambda: _units(out, options), str(options.source))
    return prepare_source(out, source, options)


@contextmanager
def _units(out: pathlib.Path, options: WebdatasetOptions) -> Iterator[Sequence[Unit]]:
    listing = list_files(options.source, [".tar"], out)
    yield with_rejects(
        listing,
        [
            functools.partial(_samples, file, options.caption_column, split)
            for file, split in by_split(listing.files)
        ],
    )


def by_split(files: Sequence[SourceFile]) -> list[tuple[SourceFile, str | None]]:
    """The files with the splits of their names, those to train on last; UserError where only
    some have one."""
    found = splits_in_names([pathlib.PurePath(file.name) for file in files])
    pairs = [(file, found[pathlib.PurePath(file.name)]) for file in files]
    return sorted(pairs, key=lambda pair: train_last(pair[1]))


def _samples(
    file: SourceFile, caption_column: str | None, split: str | None
) -> Iterator[Sample | BadRow]:
    for found in tar_samples(file.path, file.name):
        if isinstance(found, BadRow):
            yield found
        else:
            yield from sample_of(found, f"{file.stem}/{found.key}", file, caption_column, split)


def sample_of(
    found: TarSample, id: str, file: SourceFile, caption_column: str | None, split: str | None
) -> Iterator[Sample | BadRow]:
    """A tar's sample with its captions, after the rejects of what is wrong with it."""
    source_row = f"{file.name}:{found.key}"
    if found.fault is not None:
        yield BadRow(found.fault, source_row, id)
        return
    if found.picture is None:
        yield BadRow("no_picture", source_row, id)
        return
    captions = gather_captions(_raw_captions(found, caption_column), source_row, id)
    yield from captions.rejects
    if captions.cleaned:
        texts = tuple(captions.cleaned), tuple(captions.raw)
        yield Sample(id, *texts, split, source_row, found.picture.read)


def _raw_captions(found: TarSample, caption_column: str | None) -> Any:
    if caption_column is not None:
        return found.fields().get(caption_column)
    text = found.text()
    if text is not None:
        return text
    fields = found.fields()
    return next((fields[name] for name in CAPTION_COLUMNS if name in fields), None)
