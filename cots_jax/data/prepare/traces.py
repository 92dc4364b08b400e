# SPDX-License-Identifier: Apache-2.0
"""What is remembered of the records of a finished shard, so that none is made twice.

Beside each shard that is full lies a small file with the place of every record in the source and
what its picture is told apart by. A run that was killed goes on after the shards that have one,
and the parts of a big set are joined by them.
"""

import itertools
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from cots_jax.data.prepare.looks import LOOK, Look

TRACE = np.dtype(
    [
        ("ordinal", np.int64),
        ("captions", np.int32),
        ("group_id", np.int32),
        ("file", np.uint64),
        ("look", LOOK),  # zeros where none was needed
    ]
)
NAME = re.compile(r"shard-(\d{5})\.trace\.npz")
UNIT_BITS = 32  # an ordinal is the unit's number before the place in it


@dataclass(frozen=True)
class Trace:
    """Where a record comes from and how its picture is told apart."""

    ordinal: int
    file: int  # of the digest of the picture's file
    look: Look | None


def ordinal(unit: int, place: int) -> int:
    """The number of a sample in the order of the whole source."""
    return unit << UNIT_BITS | place


def trace_bytes(trace: Trace, captions: int, group_id: int) -> bytes:
    """A trace as it is kept."""
    row = np.zeros((), TRACE)
    row["ordinal"], row["file"] = trace.ordinal, trace.file
    row["captions"], row["group_id"] = captions, group_id
    if trace.look is not None:
        row["look"] = trace.look
    return row.tobytes()


def trace_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where the traces of a split's shard lie."""
    return folder / f"shard-{number:05d}.trace.npz"


def write_traces(path: pathlib.Path, traces: np.ndarray, shard: pathlib.Path) -> None:
    """Says that a closed shard is finished."""
    unfinished = path.with_name(path.name + ".writing.npz")
    np.savez(unfinished, traces=traces, bytes=shard.stat().st_size)
    unfinished.replace(path)


def shard_files(folder: pathlib.Path, number: int) -> list[pathlib.Path]:
    """The shard of this number, while it is written or with its name for good."""
    return [*folder.glob(f"shard-{number:05d}.writing"),
            *folder.glob(f"shard-{number:05d}-of-?????.array_record")]  # fmt: skip


def finished_shards(folder: pathlib.Path) -> list[np.ndarray]:
    """The traces of a split's finished shards, from the first one to the first gap. The shards
    have the names of those that are being written again."""
    found = list(finished_traces(folder))
    for number in range(len(found)):
        shard_files(folder, number)[0].replace(folder / f"shard-{number:05d}.writing")
    return found


def finished_traces(folder: pathlib.Path) -> Iterator[np.ndarray]:
    """The traces of a whole split, shard by shard, to the first that is missing or damaged."""
    for number in itertools.count():
        files = shard_files(folder, number)
        traces = read_traces(trace_file(folder, number), files[0]) if len(files) == 1 else None
        if traces is None:
            return
        yield traces


def read_traces(path: pathlib.Path, shard: pathlib.Path) -> np.ndarray | None:
    """The traces of a shard; None where they are missing, damaged or those of another file."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            traces, size = stored["traces"], int(stored["bytes"])
        if traces.dtype != TRACE or shard.stat().st_size != size:
            return None
        reader = ArrayRecordReader(str(shard))
        records = reader.num_records()
        reader.close()
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    return traces if records == len(traces) else None


class Finished:
    """The records of all finished shards, found by their place in the source."""

    def __init__(self, shards: Mapping[str, Sequence[np.ndarray]]):
        parts = [part for split in shards.values() for part in split]
        traces = np.concatenate(parts) if parts else np.zeros(0, TRACE)
        names = np.repeat(list(shards), [sum(map(len, s)) for s in shards.values()])
        order = np.argsort(traces["ordinal"], kind="stable")
        self._traces = traces[order]
        self._names = names[order] if len(names) else names
        self._ordinals = np.ascontiguousarray(self._traces["ordinal"])

    def __len__(self) -> int:
        return len(self._ordinals)

    def _row(self, ordinal: int) -> int | None:
        if not len(self):
            return None
        row = int(np.searchsorted(self._ordinals, ordinal))
        return row if row < len(self) and self._ordinals[row] == ordinal else None

    def trace(self, ordinal: int) -> Trace | None:
        """The trace of a sample whose record is in a finished shard."""
        row = self._row(ordinal)
        if row is None:
            return None
        stored = self._traces[row, ...]
        return Trace(ordinal, int(stored["file"]), stored["look"])

    def agrees(self, ordinal: int, split: str, group_id: int) -> bool:
        """Whether a finished record is as it would be made now."""
        row = self._row(ordinal)
        return (
            row is not None
            and str(self._names[row]) == split
            and int(self._traces["group_id"][row]) == group_id
        )
