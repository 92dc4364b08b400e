# SPDX-License-Identifier: Apache-2.0
"""What an evaluated set is made of beside its vectors, in one pass over the records."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

from cots_jax.data.pair_table import PairTable
from cots_jax.data.prepare.looks import digest_number
from cots_jax.data.prepare.threads import in_order
from cots_jax.data.records import Record, open_split
from cots_jax.retrieval.evaluation import EvaluationSet


@dataclass(frozen=True)
class Digests:
    """The first 64 bits of a sha256 of each stored picture, and of it with each caption."""

    picture: UInt64[np.ndarray, "r"]
    pair: UInt64[np.ndarray, "p"]
    record: Int64[np.ndarray, "p"]  # that a pair is of


@dataclass(frozen=True)
class Contents:
    """Of each record, in stored order. source: where it came from, see `source_of`."""

    captions: tuple[tuple[str, ...], ...]
    source: tuple[str, ...]
    digests: Digests

    def labels(self) -> list[str]:
        """The first caption of each picture."""
        return [captions[0] if captions else "" for captions in self.captions]


@dataclass(frozen=True)
class ReadSet:
    """An evaluated set with what its records hold."""

    chosen: EvaluationSet
    contents: Contents

    @property
    def where(self) -> str:
        """FOLDER#SPLIT."""
        source = self.chosen.table.sources[0]
        return f"{source.folder}#{source.split}"

    def place(self) -> str:
        """The same, however the folder was spelt."""
        source = self.chosen.table.sources[0]
        return f"{pathlib.Path(source.folder).resolve()}#{source.split}"

    def captions(self) -> list[str]:
        """Of each pair."""
        table, captions = self.chosen.table, self.contents.captions
        pairs = zip(table.record_of_pair.tolist(), table.caption_of_pair.tolist(), strict=True)
        return [captions[row][number] for row, number in pairs]

    def first_records(self) -> dict[int, int]:
        """The first record of each group, by which it is shown."""
        groups, rows = np.unique(self.chosen.table.group_of_record, return_index=True)
        return dict(zip(groups.tolist(), rows.tolist(), strict=True))


@dataclass(frozen=True)
class _Seen:
    captions: tuple[str, ...]
    source: str
    picture: int
    pairs: tuple[int, ...]


def contents_of(table: PairTable) -> Contents:
    """Reads every record once; memory is that of the captions."""
    seen = list(in_order(lambda row: _see(table.record(row)), range(table.records)))
    return Contents(
        tuple(one.captions for one in seen),
        tuple(one.source for one in seen),
        _digests(seen),
    )


def digests_of(folder: str, split: str) -> Digests:
    """Those of a prepared split. Raises UserError."""
    with open_split(folder, split) as opened:
        rows = range(len(opened))
        return _digests(list(in_order(lambda row: _see(opened.record(row)), rows)))


def _digests(seen: Sequence[_Seen]) -> Digests:
    pairs = [(row, pair) for row, one in enumerate(seen) for pair in one.pairs]
    return Digests(
        np.array([one.picture for one in seen], np.uint64),
        np.array([pair for _, pair in pairs], np.uint64),
        np.array([row for row, _ in pairs], np.int64),
    )


def source_of(source_row: str) -> str:
    """The file or top folder that a record came from: `cc3m` of `cc3m/00001.tar:7`, `t.csv` of
    `t.csv:12` (own choice)."""
    folder, slash, _ = source_row.partition("/")
    return folder if slash else source_row.rpartition(":")[0] or source_row


def _see(record: Record) -> _Seen:
    picture = digest_number(record.image)
    known = picture.to_bytes(8, "big")
    pairs = tuple(digest_number(known + caption.encode()) for caption in record.captions)
    return _Seen(record.captions, source_of(record.source_row), picture, pairs)
