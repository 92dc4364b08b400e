# SPDX-License-Identifier: Apache-2.0
"""What approximate search asks of somebody else's engine, and what is remembered of its copy.

An engine holds a copy of the vectors of an index, part by part, and finds most of the best ones
quickly. The index stays the truth: it has the metadata, answers filtered queries, and is what
survives a crash. `engine.json` beside it says which parts the copy has; where these are not the
index's present ones, the copy is out of date and is not asked.
"""

import dataclasses
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64

from cots_jax.errors import UserError
from cots_jax.files import write_whole

RECORD_FILE = "engine.json"
FORMAT = 1
ROW_BITS = 32  # a key is the number of a part before the row in it
NONE = -1  # in place of a key


class EngineKind(enum.StrEnum):
    """What answers queries."""

    EXACT = "exact"
    USEARCH = "usearch"
    MILVUS = "milvus"


@runtime_checkable
class Engine(Protocol):
    """A store of vectors by keys. `effort`: how many of them it looks at for an answer.

    place: where it can be opened again, a file or a collection; empty where it has none yet.
    """

    place: str

    def put(self, part: int, vectors: Float[np.ndarray, "n e"]) -> None:
        """Takes the vectors of a part."""

    def drop(self, part: int) -> None:
        """Forgets those of a part, where it has any."""

    def search(
        self, queries: Float32[np.ndarray, "q e"], k: int, effort: int
    ) -> Int64[np.ndarray, "q k"]:
        """Keys of the largest dot products, best first; NONE where there are no more."""

    def save(self) -> None:
        """Brings all of it to the disk; `place` says where."""

    def close(self) -> None:
        """Gives back what it holds."""


@dataclasses.dataclass(frozen=True)
class Copy:
    """The contents of `engine.json`.

    place: as of the engine; parts: SHA-256 of the vectors by number of the
    part; unsure: parts of which it may have some vectors, after a run that was killed; effort and
    recall: the measured part of the exact best 10 that it finds for `texts` texts.
    """

    kind: EngineKind
    uri: str
    place: str
    parts: Mapping[int, str] = dataclasses.field(default_factory=dict)
    unsure: tuple[int, ...] = ()
    effort: int = 0
    recall: float = 0.0
    texts: int = 0


def part_keys(part: int, rows: int) -> Int64[np.ndarray, "n"]:
    """The keys of a part's rows."""
    return (part << ROW_BITS) + np.arange(rows, dtype=np.int64)


def part_of(keys: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """The numbers of their parts."""
    return keys >> ROW_BITS


def row_of(keys: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """Their rows within the parts."""
    return keys & ((1 << ROW_BITS) - 1)


def read_copy(folder: Path) -> Copy | None:
    """What an index's engine holds; None where it has none. UserError where that is damaged."""
    path = folder / RECORD_FILE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said.pop("format") != FORMAT:
            raise ValueError("another format")
        parts = {int(number): str(digest) for number, digest in said.pop("parts").items()}
        kind, unsure = EngineKind(said.pop("kind")), tuple(said.pop("unsure"))
        return Copy(**said, kind=kind, parts=parts, unsure=unsure)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): remove it and run `search index` with --engine again"
        ) from error


def write_copy(folder: Path, copy: Copy) -> None:
    """Replaces `engine.json` at once."""
    write_whole(
        folder / RECORD_FILE,
        json.dumps({"format": FORMAT, **dataclasses.asdict(copy)}, indent=1) + "\n",
    )
