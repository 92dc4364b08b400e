# SPDX-License-Identifier: Apache-2.0
"""The files of MSR-VTT: the annotation, plain or as the zip it comes in, and CSV lists of clips."""

import csv
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cots_jax.data.prepare.captions import is_unicode
from cots_jax.data.prepare.samples import BadRow
from cots_jax.errors import UserError

MOST = 2**28  # bytes of an annotation, unpacked; the real ones have 16 and 7 million
PARTS = ("videos", "sentences")
ID, SENTENCE = "video_id", "sentence"


def read_annotation(path: pathlib.Path) -> dict[str, list[Any]]:
    """The lists `videos` and `sentences` of a `…_videodatainfo.json`; UserError."""
    try:
        data = _from_zip(path) if zipfile.is_zipfile(path) else _plain(path)
        found = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    except OSError as error:
        raise UserError(f"--annotation={path} cannot be read: {error.strerror}") from error
    # a zip that is cut, damaged or under a password; RecursionError: of nested JSON
    except (ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"--annotation={path} is no whole JSON file or zip of one ({error}): fetch it again"
        ) from error
    for part in PARTS:
        if not isinstance(found, dict) or not isinstance(found.get(part), list):
            raise UserError(f'--annotation={path} has no list "{part}": is it of MSR-VTT?')
    return {part: found[part] for part in PARTS}


def _plain(path: pathlib.Path) -> bytes:
    if path.stat().st_size > MOST:
        raise ValueError(f"it has {path.stat().st_size:,} bytes")
    return path.read_bytes()


def _from_zip(path: pathlib.Path) -> bytes:
    """The one JSON file in a zip."""
    with zipfile.ZipFile(path) as packed:
        found = [
            member
            for member in packed.infolist()
            if member.filename.endswith(".json") and not member.filename.startswith("__MACOSX/")
        ]
        if len(found) != 1:
            raise ValueError(f"{len(found)} JSON files are in it")
        if found[0].file_size > MOST:
            raise ValueError(f"{found[0].filename} has {found[0].file_size:,} bytes")
        return packed.read(found[0])


@dataclass(frozen=True)
class Listed:
    """Where a clip is listed, and with which sentence; None: in a list of names alone."""

    source_row: str
    sentence: str | None


@dataclass(frozen=True)
class Lists:
    """The clips of some lists by their id, and rows that cannot be used."""

    clips: dict[str, Listed]
    rejects: list[BadRow]


def read_lists(paths: Sequence[pathlib.Path]) -> Lists:
    """The clips of CSV lists, which have a column `video_id`, and for testing `sentence`.

    UserError where a file is no such list, or where two name the same clip: it would be trained
    and tested on, or the list be another than is thought.
    """
    found = Lists({}, [])
    with_sentences = [path for path in paths if _read_list(path, found)]
    if len(with_sentences) > 1:
        raise UserError(
            f"{' and '.join(path.name for path in with_sentences)} both have sentences: give one "
            "test list, and the other to a folder of its own"
        )
    return found


def _read_list(path: pathlib.Path, found: Lists) -> bool:
    """Adds the clips of a list; says whether it has sentences."""
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except OSError as error:
        raise UserError(f"--list={path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UserError(f"--list={path} is no CSV file ({error}): fetch it again") from error
    header = rows[0] if rows else []
    if ID not in header:
        raise UserError(f"--list={path} has no column {ID}: is it a list of MSR-VTT's clips?")
    for number, cells in enumerate(rows[1:], 2):
        source_row = f"{path.name}:{number}"
        values = dict(zip(header, cells))
        id = values.get(ID, "").strip()
        if len(cells) != len(header) or not id:
            found.rejects.append(BadRow("row_unreadable", source_row))
        elif not is_unicode(id):
            found.rejects.append(BadRow("image_name_not_utf8", source_row, repr(id)))
        elif id in found.clips:
            raise UserError(
                f"{id} stands in {source_row} and in {found.clips[id].source_row}: name lists that "
                "share no clip"
            )
        else:
            found.clips[id] = Listed(source_row, values.get(SENTENCE))
    return SENTENCE in header
