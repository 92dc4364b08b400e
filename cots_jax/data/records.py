# SPDX-License-Identifier: Apache-2.0
"""Records: the prepared folders that training, evaluation and search read.

A prepared folder holds `dataset.json` (facts, written last: a folder without it is half-written),
`rejects.jsonl`, and a folder a split with ArrayRecord shards and `index.npz`.
"""

import contextlib
import functools
import json
import pathlib
import threading
import zipfile
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32

from cots_jax.errors import UserError

SCHEMA_VERSION = 1
VIDEO_SCHEMA_VERSION = 2  # records have frames, which readers of version 1 do not know
SCHEMA_VERSIONS = (SCHEMA_VERSION, VIDEO_SCHEMA_VERSION)
FACTS_FILE = "dataset.json"
REJECTS_FILE = "rejects.jsonl"
INDEX_FILE = "index.npz"
PREPARE_COMMAND = "python -m cots_jax.prepare SOURCE --out={folder}"


@dataclass(frozen=True)
class Record:
    """One picture or video with its captions.

    `group_id` is dense over the whole folder and equal for what is never a negative of each
    other: one picture's captions, the drawings of one emoji; `group` is its name in the user's
    words. `captions` are cleaned, `raw_captions` stand beside them as they were found.
    `frames`: of a video, JPEGs in their order, of which `image` is the middle one; a picture has
    none.
    """

    id: str
    image: bytes
    captions: tuple[str, ...]
    raw_captions: tuple[str, ...]
    group: str
    group_id: int
    source_row: str
    frames: tuple[bytes, ...] = ()


def pack_record(record: Record) -> bytes:
    """The msgpack form of a record (own choice of layout: a map, so that fields can be added).

    A picture's has no key for frames: it is the same, bit by bit, as before there were videos.
    """
    fields: dict[str, Any] = dict(vars(record))
    if not record.frames:
        del fields["frames"]
    packed: Any = msgpack.packb(fields, use_bin_type=True)
    return packed


def unpack_record(packed: bytes) -> Record:
    """The record whose msgpack form is given."""
    fields = msgpack.unpackb(packed)
    for name in ("captions", "raw_captions", "frames"):
        fields[name] = tuple(fields.get(name, ()))
    return Record(**fields)


def read_facts(folder: str | pathlib.Path) -> dict[str, Any]:
    """The contents of `dataset.json`; UserError where the folder is missing, half-written or of
    another schema."""
    folder = pathlib.Path(folder)
    command = PREPARE_COMMAND.format(folder=folder)
    if not folder.is_dir():
        raise UserError(f"no prepared data in {folder}: make it with `{command}`")
    path = folder / FACTS_FILE
    if not path.is_file():
        if not any(folder.glob("*/shard-*")):
            raise UserError(f"no prepared data in {folder}: make it with `{command}`")
        raise UserError(
            f"{folder} is half-written (it has no {FACTS_FILE}): run the prepare command that "
            f"was making it again, `{command}`"
        )
    try:
        facts = json.loads(path.read_text("utf-8"))
        version, _ = facts["schema_version"], dict(facts["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove the folder and run `{command}` again"
        ) from error
    if version not in SCHEMA_VERSIONS:
        read = " and ".join(map(str, SCHEMA_VERSIONS))
        raise UserError(
            f"{path} has schema version {version}, this program reads {read}: "
            f"remove the folder and run `{command}` again"
        )
    return facts


def has_videos(folder: str | pathlib.Path) -> bool:
    """Whether records of a prepared folder have frames."""
    return bool(read_facts(folder).get("frames"))


def list_splits(folder: str | pathlib.Path) -> tuple[str, ...]:
    """The names of the splits in a prepared folder, sorted."""
    return tuple(sorted(read_facts(folder)["splits"]))


class Split:
    """A part of a prepared folder with random access to its records; safe to share by threads.

    Use it as a context manager, or call `close()`; a closed split opens its shards again when
    it is next read.
    """

    captions_per_record: Int32[np.ndarray, "r"]
    group_id: Int32[np.ndarray, "r"]

    def __init__(self, folder: pathlib.Path, split: str, facts: dict[str, Any]):
        self.folder = folder
        self.split = split
        self.facts = facts
        self.name: str = facts["name"]
        self._shards = [shard for shard in facts["shards"] if shard["split"] == split]
        self._check_shards()
        self._read_index(folder / split / INDEX_FILE)
        self._source: ArrayRecordDataSource | None = None
        self._opening = threading.Lock()

    def _check_shards(self) -> None:
        """Sizes only, so that opening stays quick; every record carries its own checksum."""
        for shard in self._shards:
            path = self.folder / shard["file"]
            if not path.is_file():
                raise self._damage(f"shard {path} is missing")
            found = path.stat().st_size
            if found != shard["bytes"]:
                raise self._damage(
                    f"shard {path} has {found:,} bytes where {FACTS_FILE} says {shard['bytes']:,}"
                )

    def _read_index(self, path: pathlib.Path) -> None:
        try:
            with path.open("rb") as file, np.load(file) as index:
                self.captions_per_record = index["captions_per_record"]
                self.group_id = index["group_id"]
        # a missing, cut or changed file is refused by the zip reader, NumPy or the look-up
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damage(f"{path} cannot be read ({error})") from error
        for array in (self.captions_per_record, self.group_id):
            if array.shape != (len(self),):
                raise self._damage(
                    f"{path} has {len(array):,} rows where {FACTS_FILE} says {len(self):,}"
                )

    def _damage(self, what: str) -> UserError:
        return UserError(f"{what}: remove {self.folder} and prepare it again, or copy it again")

    def __len__(self) -> int:
        return self.facts["splits"][self.split]["records"]

    @property
    def frames(self) -> int:
        """The most frames that a record has; 0 where they are pictures."""
        return self.facts.get("frames", 0)

    @property
    def pairs(self) -> int:
        """The number of (picture, caption) pairs."""
        return int(self.captions_per_record.sum())

    @functools.cached_property
    def _pair_table(self) -> Int32[np.ndarray, "p 2"]:
        counts = self.captions_per_record
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([rows, np.arange(len(rows)) - first], axis=1).astype(np.int32)

    def pair_table(self) -> Int32[np.ndarray, "p 2"]:
        """(record row, caption number) of every pair; its row number is the pair's id."""
        return self._pair_table

    def record(self, i: int) -> Record:
        """Record i of 0 … len - 1; UserError where the shard's checksum does not hold."""
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of split {self.split}, which has {len(self)}")
        try:
            return unpack_record(self._open()[i])
        except RuntimeError as error:
            raise self._damage(
                f"record {i} of {self.folder / self.split} cannot be read ({error})"
            ) from error

    def _open(self) -> ArrayRecordDataSource:
        with self._opening:
            if self._source is None:
                paths = [str(self.folder / s["file"]) + f"[0:{s['records']}]" for s in self._shards]
                self._source = ArrayRecordDataSource(paths)
            return self._source

    def close(self) -> None:
        """Gives the file handles back."""
        with self._opening:
            source, self._source = self._source, None
        if source is not None:
            with contextlib.suppress(RuntimeError):  # of a damaged shard, which reading has said
                source.__exit__(None, None, None)

    def __enter__(self) -> "Split":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_split(folder: str | pathlib.Path, split: str) -> Split:
    """Opens one split of a prepared folder; UserError says which ones there are."""
    facts = read_facts(folder)
    if split not in facts["splits"]:
        there = ", ".join(sorted(facts["splits"]))
        raise UserError(f"{folder} has no split {split!r}: it has {there}")
    return Split(pathlib.Path(folder), split, facts)
