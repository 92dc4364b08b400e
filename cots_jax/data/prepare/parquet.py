# SPDX-License-Identifier: Apache-2.0
"""Parquet and Arrow files, read a few rows at a time."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 64  # rows held at once; own choice, for pictures of some megabytes each
BUFFER = 2**20  # bytes read ahead of each column, in place of the whole row group
Values = dict[str, Any]


class TableFileError(Exception):
    """A file that is broken as a whole, or from some row on."""


@dataclass(frozen=True)
class Part:
    """Some rows of a file: `rows(columns)` reads them, a missing one is left out."""

    first: int  # the number of its first row in the file, from 0
    rows: Callable[[Sequence[str]], Iterator[Values]]


@dataclass(frozen=True)
class TableFile:
    """A file's columns and its parts, each to be read alone."""

    schema: pa.Schema
    parts: list[Part]

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)


def open_table(path: pathlib.Path) -> TableFile:
    """Reads what a file says of itself: `.arrow` as a stream of Arrow's, all else as parquet.

    TableFileError, also from the rows.
    """
    with _errors():
        if path.suffix.lower() == ".arrow":
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                return TableFile(stream.schema, [Part(0, functools.partial(_arrow_rows, path))])
        with pq.ParquetFile(path) as parquet:
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
            parts, first = [], 0
            for number, group in enumerate(groups):
                parts.append(Part(first, functools.partial(_group_rows, path, number)))
                first += group.num_rows
            return TableFile(parquet.schema_arrow, parts)


def _group_rows(path: pathlib.Path, group: int, columns: Sequence[str]) -> Iterator[Values]:
    with _errors(), pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as parquet:
        wanted = [name for name in columns if name in parquet.schema_arrow.names]
        yield from _plain(
            parquet.iter_batches(BATCH, row_groups=[group], columns=wanted, use_threads=False)
        )


def _arrow_rows(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Values]:
    with _errors(), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        wanted = [name for name in columns if name in stream.schema.names]
        slices = (
            batch.select(wanted).slice(first, BATCH)
            for batch in stream
            for first in range(0, batch.num_rows, BATCH)
        )
        yield from _plain(slices)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise TableFileError(str(error).splitlines()[0] if str(error) else "no reason") from error


def _plain(batches: Any) -> Iterator[Values]:
    for batch in batches:
        columns = [_values(column) for column in batch.columns]
        for row in range(batch.num_rows):
            yield {name: column[row] for name, column in zip(batch.schema.names, columns)}


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # one text is enough: the others shall not go with it
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    """The value of one cell; bytes that are no UTF-8 become lone surrogates, as in tables."""
    if not scalar.is_valid:
        return None
    if pa.types.is_string(scalar.type) or pa.types.is_large_string(scalar.type):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    if pa.types.is_list(scalar.type) or pa.types.is_large_list(scalar.type):
        return [_value(item) for item in scalar.values]
    if pa.types.is_struct(scalar.type):
        return {name: _value(item) for name, item in scalar.items()}
    return scalar.as_py()
