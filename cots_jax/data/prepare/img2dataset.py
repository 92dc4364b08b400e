# SPDX-License-Identifier: Apache-2.0
"""What img2dataset has downloaded, in its layouts `webdataset`, `files` and `parquet`.

Each shard NNNNN is a tar, a folder or a parquet file with pictures, and beside it stands a table
NNNNN.parquet of all that was tried, with a column `status`.
"""

import functools
import pathlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.captions import gather_captions
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.images import FolderImages
from cots_jax.data.prepare.parquet import TableFile, TableFileError, open_table
from cots_jax.data.prepare.pictures import PictureError
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.source_files import SourceFile, list_files, source_arguments
from cots_jax.data.prepare.tars import PICTURES, TarSample, file_unreadable, tar_samples
from cots_jax.data.prepare.webdataset import sample_of
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError

SUCCESS = "success"
STATUS = re.compile(r"[a-z0-9_]{1,40}")
KEY, CAPTION = "key", "caption"


@dataclass(frozen=True)
class Img2datasetOptions(Settings):
    """What `prepare img2dataset` is asked for."""

    source: pathlib.Path  # its output folder
    caption_column: str | None = None  # None: `caption`


def prepare_img2dataset(out: pathlib.Path, options: Img2datasetOptions) -> Prepared:
    """Writes the folder of an img2dataset output; `--held_out` decides over the splits.

    Whatever has another status than `success` is rejected by it: `status_failed_to_download`.
    """
    options.check()
    arguments = source_arguments(options.source, out) | {"caption_column": options.caption_column}
    if not options.source.is_dir():
        raise UserError(f"--source={options.source} is no folder: give the output of img2dataset")
    source = Source("img2dataset", arguments, lambda: _units(out, options), str(options.source))
    return prepare_source(out, source, options)


@contextmanager
def _units(out: pathlib.Path, options: Img2datasetOptions) -> Iterator[Sequence[Unit]]:
    listing = list_files(options.source, (".tar", ".parquet"), out)
    caption = options.caption_column
    tables = {file.stem: file for file in listing.files if file.path.suffix == ".parquet"}
    tars = {file.stem: file for file in listing.files if file.path.suffix == ".tar"}
    images: FolderImages | None = None
    units: list[Unit] = []
    for stem in sorted(tables | tars):
        if stem in tars:
            units.append(functools.partial(_tar_unit, tars[stem], tables.get(stem), caption))
            continue
        file = tables[stem]
        try:
            table = open_table(file.path)
        except TableFileError as error:
            listing.rejects.append(file_unreadable(file.name, error))
            continue
        picture = next((name for name in PICTURES if name in table.columns), None)
        shard = _Shard(file, table, caption or CAPTION)
        if picture is not None:
            units += [functools.partial(_parquet_unit, shard, picture)]
        else:
            images = images or FolderImages(listing.root)
            units.append(functools.partial(_files_unit, shard, images))
    yield [listing.rejecting_unit, *units]


@dataclass(frozen=True)
class _Shard:
    """The table of one shard."""

    file: SourceFile
    table: TableFile
    caption: str

    def rows(self, *more: str) -> Iterator[dict[str, Any] | BadRow]:
        """Its rows, each with `key`, `status` and what else is asked for."""
        for part in self.table.parts:
            try:
                yield from part.rows([KEY, "status", self.caption, *more])
            except TableFileError as error:
                name = self.file.name
                yield BadRow("rows_unreadable", name, name, (("error", str(error)[:200]),))

    def source_row(self, values: dict[str, Any]) -> str:
        return f"{self.file.name}:{_key(values)}"

    def id(self, values: dict[str, Any]) -> str:
        return f"{self.file.stem}/{_key(values)}"


def _key(values: dict[str, Any]) -> str:
    return str(values.get(KEY, ""))


def status_reason(values: dict[str, Any]) -> str | None:
    """Why a row is rejected by its status; None for a success, or where no status is kept."""
    status = values.get("status", SUCCESS)
    if status == SUCCESS:
        return None
    known = isinstance(status, str) and STATUS.fullmatch(status)
    return f"status_{status}" if known else "status_unknown"


def _refused(shard: _Shard, values: dict[str, Any], reason: str) -> BadRow:
    return BadRow(reason, shard.source_row(values), shard.id(values))


def _parquet_unit(shard: _Shard, picture: str) -> Iterator[Sample | BadRow]:
    """The layout `parquet`: the pictures stand in the table."""

    def read(data: bytes | None) -> bytes:
        if data is None:
            raise PictureError("no_picture")
        return data

    for values in shard.rows(picture):
        if isinstance(values, BadRow):
            yield values
        else:
            yield from _table_sample(shard, values, functools.partial(read, values[picture]))


def _files_unit(shard: _Shard, images: FolderImages) -> Iterator[Sample | BadRow]:
    """The layout `files`: the pictures lie in a folder of the shard's name."""

    def read(id: str) -> bytes:
        for ending in PICTURES:
            try:
                return images.read(images.locate(f"{id}.{ending}"))
            except PictureError as fault:
                if str(fault) != "picture_missing":
                    raise
        raise PictureError("picture_missing")

    for values in shard.rows():
        if isinstance(values, BadRow):
            yield values
        else:
            yield from _table_sample(shard, values, functools.partial(read, shard.id(values)))


def _table_sample(shard: _Shard, values: dict[str, Any], read: Any) -> Iterator[Sample | BadRow]:
    reason = status_reason(values)
    if reason is not None:
        yield _refused(shard, values, reason)
        return
    id, source_row = shard.id(values), shard.source_row(values)
    captions = gather_captions(values.get(shard.caption), source_row, id)
    yield from captions.rejects
    if captions.cleaned:
        yield Sample(id, tuple(captions.cleaned), tuple(captions.raw), None, source_row, read)


def _tar_unit(
    file: SourceFile, table: SourceFile | None, caption: str | None
) -> Iterator[Sample | BadRow]:
    """The layout `webdataset`: what the table has and the tar has not is listed after the tar."""
    found: set[str] = set()
    for sample in tar_samples(file.path, file.name):
        if isinstance(sample, BadRow):
            yield sample
            continue
        found.add(sample.key)
        yield from _tar_sample(sample, file, caption)
    if table is None:
        return
    try:
        shard = _Shard(table, open_table(table.path), caption or CAPTION)
    except TableFileError as error:
        yield file_unreadable(table.name, error)
        return
    for values in shard.rows():
        if isinstance(values, BadRow):
            yield values
        elif _key(values) not in found:
            yield _refused(shard, values, status_reason(values) or "picture_missing")


def _tar_sample(
    sample: TarSample, file: SourceFile, caption: str | None
) -> Iterator[Sample | BadRow]:
    id = f"{file.stem}/{sample.key}"
    reason = status_reason(dict(sample.fields()))
    if reason is not None:
        yield BadRow(reason, f"{file.name}:{sample.key}", id)
    else:
        yield from sample_of(sample, id, file, caption, None)
