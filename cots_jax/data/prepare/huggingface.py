# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face dataset on this disk: parquet or Arrow files with a picture and a text column."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from cots_jax.data.prepare.captions import gather_captions
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.images import FolderImages
from cots_jax.data.prepare.parquet import Part, TableFileError, open_table
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.source_files import Listing, SourceFile, list_files, source_arguments
from cots_jax.data.prepare.sources import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    SPLIT_NAME,
    column_named,
    split_column,
)
from cots_jax.data.prepare.splits import split_named, splits_in_names, train_last
from cots_jax.data.prepare.tars import file_unreadable
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError

ENDINGS = (".parquet", ".arrow")


@dataclass(frozen=True)
class HuggingFaceOptions(Settings):
    """What `prepare hf` is asked for."""

    source: pathlib.Path  # a folder of parquet or Arrow files, or one of them
    image_column: str | None = None
    caption_column: str | None = None


def prepare_huggingface(out: pathlib.Path, options: HuggingFaceOptions) -> Prepared:
    """Writes the folder of a dataset as the hub has it (parquet) or as `save_to_disk` left it
    (Arrow).

    A column `split` says the split, else the files' names (`train-00000-of-00002.parquet`), else
    `--held_out` decides. UserError where a hub cache has more than one snapshot.
    """
    arguments = source_arguments(options.source, out) | {
        "image_column": options.image_column,
        "caption_column": options.caption_column,
    }
    source = Source("hf", arguments, lambda: _units(out, options), str(options.source))
    return prepare_source(out, source, options)


@dataclass(frozen=True)
class _Table:
    """One file with the columns that are read of it."""

    file: SourceFile
    image: str
    caption: str
    split_column: str | None
    parts: list[Part]


@contextmanager
def _units(out: pathlib.Path, options: HuggingFaceOptions) -> Iterator[Sequence[Unit]]:
    listing = list_files(options.source, ENDINGS, out)
    _check_snapshots(listing)
    tables = _open_all(listing, options)
    splits = _splits(tables)
    # of a file that is given alone the folder around it is not ours to read
    images = FolderImages(listing.root) if options.source.is_dir() else None
    units = [
        functools.partial(_samples, table, part, splits[table.file], rows, images)
        for rows in (Rows.EVALUATED, Rows.OTHERS)
        for table in tables
        if table.split_column or rows is rows_of(splits[table.file])
        for part in table.parts
    ]
    yield [listing.rejecting_unit, *units]


def _check_snapshots(listing: Listing) -> None:
    """UserError where a hub cache has several revisions, which mostly are the same pictures."""
    first: dict[pathlib.PurePath, str] = {}
    for file in listing.files:
        parts = pathlib.PurePath(file.name).parts
        for at, part in enumerate(parts[:-2]):
            cache = pathlib.PurePath(*parts[:at])
            if part != "snapshots" or not (listing.root / cache / "blobs").is_dir():
                continue
            revision = first.setdefault(cache, parts[at + 1])
            if revision != parts[at + 1]:
                raise UserError(
                    f"{listing.root / cache / part} holds two revisions of the data, {revision} "
                    f"and {parts[at + 1]}: move all but one out of that folder"
                )


def _open_all(listing: Listing, options: HuggingFaceOptions) -> list[_Table]:
    tables = []
    for file in listing.files:
        if file.path.name.startswith("cache-"):  # what `map` left beside `data-*.arrow`
            listing.rejects.append(BadRow("file_is_a_cache", file.name, file.name))
            continue
        try:
            opened = open_table(file.path)
        except TableFileError as error:
            listing.rejects.append(file_unreadable(file.name, error))
            continue
        try:
            image = _image_column(opened.schema, options.image_column)
            caption = column_named(
                opened.columns, options.caption_column, CAPTION_COLUMNS, "caption_column"
            )
        except UserError as error:
            raise UserError(f"{file.name}: {error}") from error
        tables.append(_Table(file, image, caption, split_column(opened.columns), opened.parts))
    return tables


def _image_column(schema: pa.Schema, wanted: str | None) -> str:
    """The column with pictures: a struct with `bytes`, or bare bytes."""
    fitting = [field.name for field in schema if _holds_pictures(field.type)]
    if wanted in fitting:
        return str(wanted)
    if wanted is not None or not fitting:
        columns = ", ".join(f"{field.name} ({str(field.type)[:40]})" for field in schema)
        named = f"--image_column={wanted} is no" if wanted else "there is no"
        raise UserError(
            f"{named} column of pictures (bytes, or a struct of bytes and path) among {columns}; "
            "names of picture files in a table are for `prepare pairs`"
        )
    return next((name for name in IMAGE_COLUMNS if name in fitting), fitting[0])


def _holds_pictures(type: pa.DataType) -> bool:
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _splits(tables: Sequence[_Table]) -> dict[SourceFile, str | None]:
    """The split of each file by its name; None for those that have a column for it."""
    silent = [table.file for table in tables if table.split_column is None]
    found = splits_in_names([pathlib.PurePath(file.name) for file in silent])
    named = {file: found[pathlib.PurePath(file.name)] for file in silent}
    return {table.file: named.get(table.file) for table in tables}


class Rows(StrEnum):
    """Of a file with a column for the split, the rows that are read in one pass."""

    EVALUATED = "evaluated"  # first, see `train_last`
    OTHERS = "others"


def rows_of(split: str | None) -> Rows:
    """The pass in which a split is read."""
    return Rows.OTHERS if train_last(split) else Rows.EVALUATED


def _samples(
    table: _Table, part: Part, split: str | None, rows: Rows, images: FolderImages | None
) -> Iterator[Sample | BadRow]:
    wanted = [table.image, table.caption, *filter(None, [table.split_column])]
    number = part.first
    try:
        for number, values in enumerate(part.rows(wanted), part.first + 1):
            if table.split_column is None:
                yield from _sample(table, number, values, split, images)
            elif rows is rows_of(_good_split(values[table.split_column])):
                said = _good_split(values[table.split_column]) or values[table.split_column]
                yield from _sample(table, number, values, said, images)
    except TableFileError as error:
        name = f"{table.file.name}:from {number + 1}"
        yield BadRow("rows_unreadable", name, table.file.name, (("error", str(error)[:200]),))


def _good_split(value: Any) -> str | None:
    good = isinstance(value, str) and SPLIT_NAME.fullmatch(value)
    return split_named(value) if good else None


def _sample(
    table: _Table,
    number: int,
    values: dict[str, Any],
    split: Any,
    images: FolderImages | None,
) -> Iterator[Sample | BadRow]:
    id, source_row = f"{table.file.stem}/{number}", f"{table.file.name}:{number}"
    if table.split_column is not None and _good_split(split) is None:
        yield BadRow("no_split" if split is None else "bad_split_name", source_row, id)
        return
    captions = gather_captions(values[table.caption], source_row, id)
    yield from captions.rejects
    if captions.cleaned:
        read = functools.partial(_read, values[table.image], images)
        yield Sample(id, tuple(captions.cleaned), tuple(captions.raw), split, source_row, read)


def _read(value: Any, images: FolderImages | None) -> bytes:
    """The picture of a cell: its bytes, or else the file below the source that it names."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, "")
    if data is not None:
        return data
    if not path or images is None:
        raise PictureError("no_picture")
    return images.read(images.locate(path))
