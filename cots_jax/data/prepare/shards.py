# SPDX-License-Identifier: Apache-2.0
"""The ArrayRecord shards of one split, written one after the other."""

import hashlib
import pathlib
import re
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from cots_jax.data.prepare.traces import NAME as TRACE_NAME
from cots_jax.data.prepare.traces import TRACE, Trace, trace_bytes, trace_file, write_traces
from cots_jax.data.records import INDEX_FILE, Record, pack_record
from cots_jax.errors import UserError

SHARD_BYTES = 256 * 2**20  # own choice: few files, yet enough of them to read in parallel
SHARD_NAME = re.compile(
    r"shard-(\d{5})(-of-\d{5}\.array_record|\.writing|\.trace\.npz(\.writing\.npz)?)"
)
# pictures are compressed already; group_size:1 makes a random read cost one record
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class Shard:
    """What `dataset.json` says of one shard; `file` is relative to the prepared folder."""

    file: str
    split: str
    records: int
    bytes: int
    sha256: str


class SplitWriter:
    """Writes one split: shards named `.writing` until their number is known, then its index."""

    def __init__(self, folder: pathlib.Path, finished: Sequence[np.ndarray] = ()):
        """`finished`: the traces of the shards that an earlier run has finished."""
        self._folder = folder
        self._writer: ArrayRecordWriter | None = None
        self._room = 0  # bytes left in the open shard
        self._records_in_shard = [len(traces) for traces in finished]
        self._captions_per_record = array("i")
        self._group_id = array("i")
        self._traces = bytearray()  # of the open shard's records, one after the other
        for traces in finished:
            self._captions_per_record.extend(traces["captions"].tolist())
            self._group_id.extend(traces["group_id"].tolist())

    def add(self, record: Record, trace: Trace | None = None) -> None:
        """Appends a record. Shards whose records all have a trace are not made again by a run
        that starts after this one was killed."""
        packed = pack_record(record)
        if self._writer is None or len(packed) > self._room:
            self._writer = self._next_shard()
        self._writer.write(packed)
        self._room -= len(packed)
        self._records_in_shard[-1] += 1
        self._captions_per_record.append(len(record.captions))
        self._group_id.append(record.group_id)
        if trace is not None:
            self._traces += trace_bytes(trace, len(record.captions), record.group_id)

    def _next_shard(self) -> ArrayRecordWriter:
        self._end_shard()
        self._folder.mkdir(exist_ok=True)
        path = self._writing(len(self._records_in_shard))
        self._records_in_shard.append(0)
        self._room = SHARD_BYTES
        return ArrayRecordWriter(str(path), WRITER_OPTIONS)

    def _end_shard(self) -> None:
        """Closes a shard that is full, or the last one, and leaves its traces beside it."""
        was_open = self._writer is not None
        self.close()
        traces = np.frombuffer(bytes(self._traces), TRACE)
        self._traces = bytearray()
        if was_open and len(traces) == self._records_in_shard[-1]:
            number = len(self._records_in_shard) - 1
            write_traces(trace_file(self._folder, number), traces, self._writing(number))

    def _writing(self, number: int) -> pathlib.Path:
        return self._folder / f"shard-{number:05d}.writing"

    def close(self) -> None:
        """Closes the open shard."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def finish(self) -> list[Shard]:
        """Gives the shards their names for good and writes the index."""
        self._end_shard()
        total = len(self._records_in_shard)
        shards = []
        for number, records in enumerate(self._records_in_shard):
            path = self._folder / f"shard-{number:05d}-of-{total:05d}.array_record"
            self._writing(number).replace(path)
            file = f"{self._folder.name}/{path.name}"
            size = path.stat().st_size
            _check_whole(path, records)
            shards.append(Shard(file, self._folder.name, records, size, file_digest(path)))
        np.savez(
            self._folder / INDEX_FILE,
            captions_per_record=np.asarray(self._captions_per_record, np.int32),
            group_id=np.asarray(self._group_id, np.int32),
        )
        return shards

    def counts(self) -> dict[str, int]:
        """Records, pairs and shards so far."""
        return {
            "records": len(self._captions_per_record),
            "pairs": sum(self._captions_per_record),
            "shards": len(self._records_in_shard),
        }


def _check_whole(path: pathlib.Path, records: int) -> None:
    # the writer works behind the caller's back: ask the file itself what has arrived
    reader = ArrayRecordReader(str(path))
    found = reader.num_records()
    reader.close()
    if found != records:
        raise UserError(f"{path} holds {found} of {records} records written: prepare it again")


def fingerprint(shards: list[Shard]) -> str:
    """The sha256 over the shards' digests in their order."""
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def shard_facts(shards: list[Shard]) -> list[dict[str, Any]]:
    """The shards as JSON values."""
    return [asdict(shard) for shard in shards]


def file_digest(path: pathlib.Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_shards(folder: pathlib.Path, first: int = 0) -> None:
    """Removes the shards of a split from number `first` on and the index, and its folder where
    nothing is left in it."""
    named = [(path, SHARD_NAME.fullmatch(path.name)) for path in folder.iterdir()]
    ours = [(path, int(match[1])) for path, match in named if match]
    if not ours:
        return
    for path in [path for path, number in ours if number >= first] + [folder / INDEX_FILE]:
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def remove_traces(folder: pathlib.Path) -> None:
    """Removes what is needed only until a folder is whole."""
    for path in folder.iterdir():
        if TRACE_NAME.fullmatch(path.name):
            path.unlink()
