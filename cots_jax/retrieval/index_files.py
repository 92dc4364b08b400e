# SPDX-License-Identifier: Apache-2.0
"""An index on disk: parts in the layout of clip-retrieval, and `index.json` that says which count.

    img_emb/img_emb_N.npy          [rows, e] unit vectors of the pictures
    text_emb/text_emb_N.npy        [rows, e] of their first captions, where there are captions
    metadata/metadata_N.parquet    a row a picture: image_path, caption, captions, stamp, digest,
                                   source, and of a piece of a video its start and end
    index.json                     the parts that count, with a digest of every file

A part's metadata is written last and says which files belong to it and who made them, so that a
part is whole or none, and what a killed run has finished can be found again. `index.json` is
replaced at once after all parts: an index is the old one or the new one.
"""

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32

from cots_jax import manifest
from cots_jax.errors import UserError
from cots_jax.files import write_whole

FORMAT = 1
INDEX_FILE = "index.json"
IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
KINDS = {IMAGES: ".npy", TEXTS: ".npy", METADATA: ".parquet"}
ROW_COLUMNS = ("image_path", "captions", "stamp", "digest", "source", "start", "end")
_FACTS = b"cots_jax"  # the key of a part's facts within its parquet file
_SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("caption", pa.string()),  # the first one, as clip-retrieval has it
        ("captions", pa.list_(pa.string())),
        ("stamp", pa.string()),
        ("digest", pa.string()),
        ("source", pa.string()),
        ("start", pa.float64()),  # seconds; of videos only
        ("end", pa.float64()),
    ]
)


class Storage(enum.StrEnum):
    """How vectors are kept; scores are float32 always."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"  # half the size; scores move by some 1e-4


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What is known of a picture, or of a piece of a video, beside its vector."""

    name: str  # below the source
    captions: tuple[str, ...] = ()
    stamp: str = ""  # equal stamps: the file was not touched
    digest: str = ""  # SHA-256 of its content
    source: str = ""  # where a prepared record came from
    start: float | None = None  # seconds
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """The size and the SHA-256 of a file."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished part: its number, its rows, and its files by kind."""

    number: int
    rows: int
    files: Mapping[str, FileFacts]


@dataclasses.dataclass(frozen=True)
class Facts:
    """The contents of `index.json`.

    images: where the pictures come from; model: whose vectors these are (path and identity);
    skipped: counts by reason. All in JSON.
    """

    images: Mapping[str, Any]
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    width: int
    storage: Storage
    skipped: Mapping[str, int]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """The number of pictures."""
        return sum(part.rows for part in self.parts)


def part_file(folder: Path, kind: str, number: int) -> Path:
    """Where a part's file of a kind lies."""
    return folder / kind / f"{kind}_{number}{KINDS[kind]}"


def read_facts(folder: Path) -> Facts:
    """Reads `index.json`; UserError where there is none, or none of ours."""
    path = folder / INDEX_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(
                f"{path} is of format {content['format']}, and this version reads format {FORMAT}: "
                "make the index again in another folder"
            )
        parts = tuple(
            Part(part["number"], part["rows"], _files_of(part["files"]))
            for part in content["parts"]
        )
        names = ("images", "model", "preprocessing", "width", "skipped")
        kept = {name: content[name] for name in names}
        return Facts(**kept, storage=Storage(content["dtype"]), parts=parts)
    except FileNotFoundError:
        begun = (folder / METADATA).is_dir()
        what = (
            "the index in {} was not finished: go on" if begun else "there is no index in {}: begin"
        )
        raise UserError(
            f"{what.format(folder)} with "
            f"`python -m cots_jax.search index --model=WORKDIR --images=FOLDER --out={folder}`"
        ) from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error!r}): remove {folder} and make the index again"
        ) from error


def write_facts(folder: Path, facts: Facts) -> None:
    """Replaces `index.json` at once; when this returns, it has come to the disk."""
    content = {
        "format": FORMAT,
        "count": facts.rows,
        "width": facts.width,
        "dtype": str(facts.storage),
        "images": dict(facts.images),
        "model": dict(facts.model),
        "preprocessing": dict(facts.preprocessing),
        "skipped": dict(sorted(facts.skipped.items())),
        "parts": [dataclasses.asdict(part) for part in facts.parts],
    }
    write_whole(folder / INDEX_FILE, json.dumps(content, indent=1) + "\n")
    manifest.sync(folder)


def write_part(
    folder: Path,
    number: int,
    rows: Sequence[Row],
    vectors: Mapping[str, Float[np.ndarray, "n e"]],
    made_by: Mapping[str, Any],
) -> Part:
    """Writes the files of a part, its metadata last; vectors by kind; made_by in JSON."""
    files = {}
    for kind, matrix in vectors.items():
        path = part_file(folder, kind, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, matrix)
        manifest.sync(path)
        manifest.sync(path.parent)
        files[kind] = _facts_of(path)
    captions = [list(row.captions) for row in rows]
    columns = {
        "image_path": [row.name for row in rows],
        "caption": [texts[0] if texts else None for texts in captions],
        "captions": captions,
        "stamp": [row.stamp for row in rows],
        "digest": [row.digest for row in rows],
        "source": [row.source or None for row in rows],
        "start": [row.start for row in rows],
        "end": [row.end for row in rows],
    }
    described = {kind: dataclasses.asdict(facts) for kind, facts in files.items()}
    said = json.dumps({"made_by": made_by, "files": described})
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_FACTS: said.encode()}))
    path = part_file(folder, METADATA, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    pq.write_table(table, unfinished)
    manifest.sync(unfinished)
    unfinished.rename(path)
    manifest.sync(path.parent)
    return Part(number, len(rows), {**files, METADATA: _facts_of(path)})


def find_part(folder: Path, number: int, made_by: Mapping[str, Any]) -> Part | None:
    """The part of this number, if it was finished, by this maker, and is as it was then."""
    path = part_file(folder, METADATA, number)
    try:
        with pq.ParquetFile(path) as parquet:
            said = json.loads((parquet.schema_arrow.metadata or {})[_FACTS])
            rows = parquet.metadata.num_rows
        part = Part(number, rows, {**_files_of(said["files"]), METADATA: _facts_of(path)})
        whole = said["made_by"] == made_by and fault(folder, part) is None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    return part if whole else None


def missing(folder: Path, part: Part) -> str | None:
    """The first of a part's files that is not there with its size, in words; a quick look."""
    for kind, facts in part.files.items():
        path = part_file(folder, kind, part.number)
        try:
            found = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} is missing"
        if found != facts.bytes:
            return f"{path} has {found:,} bytes instead of {facts.bytes:,}"
    return None


def fault(folder: Path, part: Part) -> str | None:
    """The first difference between a part's files and their digests in words, or None."""
    short = missing(folder, part)
    if short:
        return short
    for kind, facts in part.files.items():
        path = part_file(folder, kind, part.number)
        try:
            digest = _digest(path)
        except FileNotFoundError:  # removed by an update since it was looked for
            return f"{path} is missing"
        if digest != facts.sha256:
            return f"{path} has changed since it was written"
    return None


def part_numbers(folder: Path) -> list[int]:
    """The numbers of all parts that left a file, finished or not, in order."""
    found = set()
    for kind, ending in KINDS.items():
        for path in (folder / kind).glob(f"{kind}_*{ending}"):
            number = path.stem.removeprefix(f"{kind}_")
            if number.isdecimal():
                found.add(int(number))
    return sorted(found)


def remove_part(folder: Path, number: int) -> None:
    """Removes what there is of a part, its metadata first: without them it was never finished."""
    for kind in reversed(KINDS):
        path = part_file(folder, kind, number)
        path.unlink(missing_ok=True)
        _unfinished(path).unlink(missing_ok=True)


def part_rows(folder: Path, part: Part) -> list[Row]:
    """What a part knows of its pictures."""
    columns = [column.to_pylist() for column in part_columns(folder, part, ROW_COLUMNS)]
    return [_row(*values) for values in zip(*columns, strict=True)]


def row_at(columns: Sequence[pa.Array], place: int) -> Row:
    """One row of the ROW_COLUMNS of a part."""
    return _row(*(column[place].as_py() for column in columns))


def _row(
    name: str,
    captions: Sequence[str],
    stamp: str,
    digest: str,
    source: str | None,
    start: float | None,
    end: float | None,
) -> Row:
    return Row(name, tuple(captions), stamp, digest, source or "", start, end)


def part_columns(folder: Path, part: Part, names: Sequence[str]) -> list[pa.Array]:
    """Columns of a part's metadata; nulls where the part is older than a column."""
    path = part_file(folder, METADATA, part.number)
    try:
        table = pq.read_table(path, columns=list(names), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise damage(folder, f"{path} cannot be read ({error})") from error
    return [
        table[name].combine_chunks()
        if name in table.column_names
        else pa.nulls(part.rows, _SCHEMA.field(name).type)
        for name in names
    ]


def part_vectors(folder: Path, part: Part, kind: str) -> Float[np.ndarray, "n e"]:
    """A part's vectors as they are stored, mapped from the disk."""
    path = part_file(folder, kind, part.number)
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damage(folder, f"{path} cannot be read ({error})") from error
    if vectors.ndim != 2 or len(vectors) != part.rows:
        raise damage(folder, f"{path} has shape {list(vectors.shape)} for {part.rows} rows")
    return vectors


def damage(folder: Path, what: str) -> UserError:
    """The error of an index that is not as it was written."""
    return UserError(
        f"{what}: run `python -m cots_jax.search index` for {folder} again, which makes what is "
        "missing anew, or put all rows again into a new index where a program has filled it"
    )


def stored(vectors: Float32[np.ndarray, "n e"], storage: Storage) -> Float[np.ndarray, "n e"]:
    """Vectors as they are kept."""
    return vectors.astype(np.dtype(str(storage)))


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _files_of(said: Mapping[str, Any]) -> dict[str, FileFacts]:
    return {kind: FileFacts(**facts) for kind, facts in said.items()}


def _facts_of(path: Path) -> FileFacts:
    return FileFacts(path.stat().st_size, _digest(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
