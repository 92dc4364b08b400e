# SPDX-License-Identifier: Apache-2.0
"""Caption tables: CSV, TSV, JSONL and parquet files to rows of (picture, captions, split)."""

import ast
import csv
import io
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.captions import is_unicode
from cots_jax.data.prepare.parquet import TableFileError, open_table
from cots_jax.data.prepare.samples import BadRow
from cots_jax.data.prepare.splits import split_named
from cots_jax.errors import UserError

IMAGE_COLUMNS = (
    "image", "image_path", "image_name", "image_file", "file", "filepath", "file_path",
    "filename", "file_name", "path", "img",
)  # fmt: skip
CAPTION_COLUMNS = (
    "captions", "caption", "text", "texts", "sentence", "sentences", "comment", "description",
    "title",
)  # fmt: skip
VIDEO_COLUMNS = ("video", "video_path", "video_name", "video_file", "video_id", "clip")
SPLIT_COLUMN = "split"
SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
DELIMITERS = (",", "\t", "|", ";")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None where it is to be found by its name."""

    image: str | None = None  # or the video
    caption: str | None = None
    known: tuple[str, ...] = IMAGE_COLUMNS  # what the column of the picture may be called
    flag: str = "image_column"  # that names it


@dataclass(frozen=True)
class Row:
    """One good line of a table. `source_row` is `FILE:LINE`."""

    image: str
    captions: tuple[str, ...]
    split: str | None
    source_row: str


def read_table(path: pathlib.Path, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of a caption table, good and bad, in the order of the file.

    `.jsonl` holds one object a line, `.json` that or one list of objects; `.parquet` is parquet;
    all else is read as a table with a header line, its delimiter (comma, tab, bar or semicolon)
    taken from that line. UserError where the file is missing or empty, or has no column that fits.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path, columns)
    lines = _read_lines(path)
    if path.suffix.lower() in (".jsonl", ".json"):
        return _json_rows(path, lines, columns)
    return _delimited_rows(path, lines, columns)


def _read_lines(path: pathlib.Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"--captions={path} cannot be read: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"--captions={path} is UTF-16: save it as UTF-8")
    # bytes that are no UTF-8 become lone surrogates, which reject their own row only
    text = data.decode("utf-8-sig", "surrogateescape")
    if not text.strip():
        raise UserError(f"--captions={path} is empty")
    return list(io.StringIO(text, newline=""))


def column_named(names: list[str], wanted: str | None, known: tuple[str, ...], flag: str) -> str:
    """The wanted column, or the first of the known ones, case aside; UserError names the flag."""
    if wanted is not None:
        if wanted in names:
            return wanted
        raise UserError(f"--{flag}={wanted}: the columns are {', '.join(names)}")
    by_lower = {name.lower(): name for name in reversed(names)}
    for name in known:
        if name in by_lower:
            return by_lower[name]
    raise UserError(
        f"no column named {' or '.join(known[:3])} among {', '.join(names)}: name it with --{flag}"
    )


@dataclass(frozen=True)
class Found:
    """The columns of one table by their names in it."""

    image: str
    caption: str
    has_splits: bool  # then every row needs one: a row without would land in a split of our choice


def _find_columns(names: list[str], columns: Columns, has_splits: bool) -> Found:
    return Found(
        column_named(names, columns.image, columns.known, columns.flag),
        column_named(names, columns.caption, CAPTION_COLUMNS, "caption_column"),
        has_splits,
    )


def split_column(names: Iterable[str]) -> str | None:
    """The column that says the split, if there is one."""
    return next((name for name in names if name.lower() == SPLIT_COLUMN), None)


def row_of(values: dict[str, Any], found: Found, source_row: str) -> Row | BadRow:
    """A row from the values of a line by column."""
    image, captions = _stripped(values, found.image), values.get(found.caption)
    if not image:
        return BadRow("no_image_name", source_row)
    if not is_unicode(image):
        return BadRow("image_name_not_utf8", source_row, repr(image))
    if isinstance(captions, str):
        captions = _listed(captions) or [captions]
    if not (isinstance(captions, list) and any(isinstance(c, str) for c in captions)):
        return BadRow("no_caption", source_row, image)
    # what is no text among texts costs itself: it is listed as the empty caption that it stands for
    captions = [c if isinstance(c, str) else "" for c in captions]
    if not found.has_splits:
        return Row(image, tuple(captions), None, source_row)
    column = split_column(values)
    if column is None:
        return BadRow("no_split", source_row, image)
    split = _stripped(values, column)
    if not SPLIT_NAME.fullmatch(split):
        return BadRow("bad_split_name", source_row, image)
    return Row(image, tuple(captions), split_named(split), source_row)


def _listed(text: str) -> list[Any] | None:
    """The texts of a cell that is a list as JSON or Python writes it, `["a", "b"]`; else None."""
    if not (text.lstrip().startswith("[") and text.rstrip().endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and any(isinstance(each, str) for each in found):
            return found
    return None


def _stripped(values: dict[str, Any], column: str) -> str:
    """A name from a row; empty where it is missing or no text."""
    value = values.get(column)
    return value.strip() if isinstance(value, str) else ""


def _json_rows(path: pathlib.Path, lines: list[str], columns: Columns) -> Iterator[Row | BadRow]:
    objects = (values for _, values in _json_values(path, lines) if isinstance(values, dict))
    # objects need not have the same keys: any of them may be the only one with a split
    has_splits = any(split_column(values) for values in objects)
    found = None
    for number, values in _json_values(path, lines):
        source_row = f"{path.name}:{number}"
        if not isinstance(values, dict):
            yield BadRow("row_unreadable", source_row)
            continue
        found = found or _find_columns(list(values), columns, has_splits)
        yield row_of(values, found, source_row)


def _json_values(path: pathlib.Path, lines: list[str]) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line, or (entry number, value) of a file that is one list."""
    if path.suffix.lower() == ".json" and "".join(lines).lstrip().startswith("["):
        yield from enumerate(_json_list(path, "".join(lines)), 1)
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _json_value(line)


def _json_list(path: pathlib.Path, text: str) -> list[Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--captions={path} is no whole JSON list ({error}): mend it, or write one object a "
            "line in a .jsonl file, where a bad line costs itself only"
        ) from error


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parquet_rows(path: pathlib.Path, columns: Columns) -> Iterator[Row | BadRow]:
    try:
        table = open_table(path)
    except TableFileError as error:
        raise UserError(
            f"--captions={path} is no whole parquet file ({error}): write or copy it again"
        ) from error
    split = split_column(table.columns)
    found = _find_columns(table.columns, columns, split is not None)
    wanted = [found.image, found.caption, *([split] if split else [])]
    for part in table.parts:
        number = part.first
        try:
            for number, values in enumerate(part.rows(wanted), part.first + 1):
                yield row_of(values, found, f"{path.name}:{number}")
        except TableFileError:
            yield BadRow("rows_unreadable", f"{path.name}:from {number + 1}")


def _delimited_rows(
    path: pathlib.Path, lines: list[str], columns: Columns
) -> Iterator[Row | BadRow]:
    first = next(number for number, line in enumerate(lines) if line.strip())
    delimiter = max(DELIMITERS, key=lines[first].count)
    header = [name.strip() for name in next(csv.reader([lines[first]], delimiter=delimiter))]
    if "\0" in lines[first]:
        raise UserError(
            f"--captions={path} is no text in UTF-8 (a spreadsheet, or UTF-16?): save it as CSV in "
            "UTF-8"
        )
    found = _find_columns(header, columns, split_column(header) is not None)
    for name in (found.image, found.caption, split_column(header) or ""):
        if header.count(name) > 1:
            raise UserError(
                f"--captions={path} has {header.count(name)} columns named {name}: give each a "
                "name of its own, or write one row a caption"
            )
    place = header.index(found.image)
    for number, cells in _cells(lines, first + 1, delimiter, len(header), place):
        source_row = f"{path.name}:{number}"
        if cells is None or len(cells) != len(header):
            yield BadRow("row_unreadable", source_row)
        else:
            yield row_of(dict(zip(header, cells)), found, source_row)


def _cells(
    lines: list[str], start: int, delimiter: str, columns: int, image: int
) -> Iterator[tuple[int, list[str] | None]]:
    """(line number, cells) of each row from line `start` on; None for cells that do not parse.

    After a bad row reading goes on at the very next line, so that a stray quote costs one line
    and not the rest of the file, nor those up to the next quote. Tabs rarely come with quoting:
    there each line stands alone, and one that is not well quoted is taken as it is.
    columns, image: how many a row has, and which of them names the picture.
    """
    alone = delimiter == "\t"
    while start < len(lines):
        feed = iter(lines[start : start + 1]) if alone else _from(lines, start)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        try:
            cells, taken = next(reader), reader.line_num
        except csv.Error:
            cells = lines[start].rstrip("\r\n").split(delimiter) if alone else None
            taken = 1
        inner = lines[start + 1 : start + taken]
        like = (delimiter, columns, image, cells or [])
        if any(_is_row(line, *like) for line in inner):
            cells, taken = None, 1
        if cells != []:
            yield start + 1, cells
        start += taken


def _is_row(line: str, delimiter: str, columns: int, image: int, of: list[str]) -> bool:
    """Whether a line inside of a quoted cell is a row itself, of a picture with the ending that
    the row around it has."""
    cells = next(csv.reader([line], delimiter=delimiter), [])
    if len(cells) != columns or len(of) <= image:
        return False
    ending = pathlib.PurePath(cells[image].strip()).suffix.lower()
    return bool(ending) and ending == pathlib.PurePath(of[image].strip()).suffix.lower()


def _from(lines: list[str], start: int) -> Iterator[str]:
    for number in range(start, len(lines)):
        yield lines[number]
