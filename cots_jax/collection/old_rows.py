# SPDX-License-Identifier: Apache-2.0
"""The rows that parts hold already, with their vectors."""

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from cots_jax.collection.parts_writer import PartsWriter, Stored
from cots_jax.retrieval.index_files import IMAGES, TEXTS, Part, part_rows, part_vectors


class OldRows:
    """Of some parts, by their places in the list; a part stays open once it was asked for.

    given: how many rows of each were asked for.
    """

    def __init__(self, out: Path, parts: Sequence[Part]):
        self._out, self._parts = out, parts
        self.given: Counter[int] = Counter()
        self._rows = functools.cache(lambda number: part_rows(out, parts[number]))
        self._vectors = functools.cache(self._map)

    def row(self, number: int, row: int) -> Stored:
        """One row of one part."""
        self.given[number] += 1
        vectors = {kind: np.array(matrix[row]) for kind, matrix in self._vectors(number).items()}
        return Stored(self._rows(number)[row], vectors)

    def copy(self, number: int, rows: Bool[np.ndarray, "n"], writer: PartsWriter) -> None:
        """Writes those of a part that are True anew."""
        kept = (self.row(number, int(row)) for row in np.flatnonzero(rows))
        for _, pieces in itertools.groupby(kept, lambda one: one.row.name):
            writer.add(list(pieces))

    def _map(self, number: int) -> dict[str, Float[np.ndarray, "n e"]]:
        part = self._parts[number]
        kinds = [kind for kind in (IMAGES, TEXTS) if kind in part.files]
        return {kind: part_vectors(self._out, part, kind) for kind in kinds}
