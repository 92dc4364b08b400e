# SPDX-License-Identifier: Apache-2.0
"""Rows to finished parts, one part in memory at a time."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cots_jax.retrieval.index_files import Part, Row, Storage, part_numbers, stored, write_part

PART_ROWS = 8192  # own choice: 16 MiB at 512 wide, and a killed run loses at most so many


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A row with its vectors by kind."""

    row: Row
    vectors: Mapping[str, Float[np.ndarray, "e"]]


class PartsWriter:
    """Appends rows to new parts of an index; `finish` gives them."""

    def __init__(self, folder: Path, storage: Storage, made_by: Mapping[str, Any], rows: int):
        self._folder, self._storage, self._made_by, self._size = folder, storage, made_by, rows
        self._next = max(part_numbers(folder), default=-1) + 1
        self._rows: list[Row] = []
        self._vectors: dict[str, list[np.ndarray]] = {}
        self._parts: list[Part] = []

    def add(self, stored: Sequence[Stored]) -> None:
        """Appends the rows of a picture or a video, which stay together in one part."""
        for one in stored:
            self._rows.append(one.row)
            for kind, vector in one.vectors.items():
                self._vectors.setdefault(kind, []).append(vector)
        if len(self._rows) >= self._size:
            self._write()

    def finish(self) -> list[Part]:
        """Writes what is left; all parts in their order."""
        if self._rows:
            self._write()
        return self._parts

    def _write(self) -> None:
        vectors = {kind: stored(np.stack(v), self._storage) for kind, v in self._vectors.items()}
        part = write_part(self._folder, self._next, self._rows, vectors, self._made_by)
        self._parts.append(part)
        self._next += 1
        self._rows, self._vectors = [], {}
