# SPDX-License-Identifier: Apache-2.0
"""Exact search of an index: every stored vector is scored, a block at a time."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from cots_jax.errors import UserError
from cots_jax.retrieval.candidates import TopCandidates
from cots_jax.retrieval.checks import check_embeddings
from cots_jax.retrieval.index_files import (
    IMAGES,
    ROW_COLUMNS,
    Facts,
    Part,
    Row,
    damage,
    fault,
    missing,
    part_columns,
    part_vectors,
    read_facts,
    row_at,
)
from cots_jax.retrieval.tiles import score_tile
from cots_jax.retrieval.where import parse_condition

BLOCK = 8192  # stored vectors scored at once
GROUP = 32  # of neighbours in a block, of which only the best is looked at first
QUERY_ROWS = (1, 8, 128)  # queries scored at once, padded to the next of these
RESIDENT = 2 * 1024**3  # bytes of vectors that stay on the device between searches
LEAST_K = 16  # answers are found in powers of two from here on, for fewer programs
COLUMNS = {"path": "image_path", "caption": "captions"}  # of conditions; the others are called so


@dataclasses.dataclass(frozen=True)
class _Block:
    """Some stored vectors on the device, padded to BLOCK rows."""

    first: int
    used: int
    vectors: Float[Array, "c e"]


class ReplacedError(UserError):
    """An index was brought up to date after it was opened, and what it was is gone."""


class Index:
    """A collection that was embedded; open it with `Index.open`.

    Rows are in stored order: that of the parts, and within each of them that of its file. Pictures
    that a later call has added stand after those that were there. One thread at a time.
    """

    def __init__(self, folder: Path, facts: Facts):
        self.folder, self.facts = folder, facts
        short = next(filter(None, (missing(folder, part) for part in facts.parts)), None)
        if short is not None:
            raise damage(folder, short)
        self._mapped = [part_vectors(folder, part, IMAGES) for part in facts.parts]
        self._first = np.cumsum([0, *(part.rows for part in facts.parts)])
        self._verified: set[int] = set()
        self._resident: list[_Block] | None = None
        self._rows: dict[int, list[pa.Array]] = {}
        self._column = functools.cache(self._read_column)

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Opens an index for reading; no vector is read yet.

        Its digests are compared when a part is first read. An index that is being brought up to
        date is the old one until the last moment. UserError where it is missing or damaged.
        """
        folder = Path(folder)
        for _ in range(3):
            facts = read_facts(folder)
            try:
                return cls(folder, facts)
            except UserError:
                if read_facts(folder) == facts:  # nobody has replaced it meanwhile
                    raise
        raise UserError(f"{folder} is being written again and again: try once more")

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def width(self) -> int:
        """Of the joint space."""
        return self.facts.width

    def search(
        self,
        queries: Float[np.ndarray | Array, "q e"],
        k: int,
        keep: Bool[np.ndarray, "n"] | None = None,
    ) -> TopCandidates:
        """The k pictures (all, where there are fewer) with the largest dot product for each query.

        Best first; equal scores in stored order. keep: looks only at the rows where it is True.
        Scores are float32 at the highest precision, whatever the storage. UserError for another
        width, non-finite queries, k < 1 and damaged parts.
        """
        rows = self.checked(queries, k)
        if keep is not None and keep.shape != (len(self),):
            raise UserError(f"the mask is for {len(keep):,} rows and the index has {len(self):,}")
        k = min(k, len(self) if keep is None else int(keep.sum()))
        size = next((rows_ for rows_ in QUERY_ROWS if len(rows) <= rows_), QUERY_ROWS[-1])
        found = [
            self._search_tile(rows[start : start + size], size, k, keep)
            for start in range(0, len(rows), size)
        ]
        return TopCandidates(
            np.concatenate([top.index for top in found]), np.concatenate([t.score for t in found])
        )

    def checked(
        self, queries: Float[np.ndarray | Array, "q e"], k: int
    ) -> Float32[np.ndarray, "q e"]:
        """Queries in float32; UserError where these, or k, are none."""
        rows = check_embeddings(queries, "query")
        if rows.shape[1] != self.width:
            raise UserError(
                f"queries are {rows.shape[1]} wide and {self.folder} {self.width}: they must come "
                "from the model that the index was made with"
            )
        if k < 1:
            raise UserError(f"the number of pictures to find is {k}: use 1 or more")
        return rows

    def vectors(self, index: Int[np.ndarray, "k"]) -> Float32[np.ndarray, "k e"]:
        """The stored vectors of these rows."""
        numbers = np.searchsorted(self._first, index, side="right") - 1
        found = np.empty((len(index), self.width), np.float32)
        for place, (number, row) in enumerate(zip(numbers, index, strict=True)):
            self._verify(int(number))
            found[place] = self._mapped[number][row - self._first[number]]
        return found

    def rows(self, index: Sequence[int] | Int[np.ndarray, "k"]) -> list[Row]:
        """What is known of these rows."""
        return [self._row(int(i)) for i in index]

    def where(self, condition: str) -> Bool[np.ndarray, "n"]:
        """A mask for `search`: the rows that pass a condition of the grammar in `where.py`."""
        return parse_condition(condition).mask(self._column)

    def _read_column(self, name: str) -> pa.Array:
        """Of all rows; it stays in memory."""
        stored = COLUMNS.get(name, name)
        parts = [self._columns(number, [stored])[0] for number in range(len(self.facts.parts))]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def _row(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        if number not in self._rows:
            self._rows[number] = self._columns(number, ROW_COLUMNS)
        return row_at(self._rows[number], index - int(self._first[number]))

    def _search_tile(
        self,
        rows: Float32[np.ndarray, "q e"],
        size: int,
        k: int,
        keep: Bool[np.ndarray, "n"] | None,
    ) -> TopCandidates:
        query = jnp.asarray(np.pad(rows, ((0, size - len(rows)), (0, 0))))
        sought = max(LEAST_K, 1 << (k - 1).bit_length()) if k else LEAST_K
        index = jnp.full((size, sought), -1, jnp.int32)
        score = jnp.full((size, sought), -jnp.inf, jnp.float32)
        for block in self._blocks():
            looked_at = _looked_at(block, keep)
            if looked_at is not None and not looked_at.any():
                continue
            place = block.first, block.used
            index, score = _scan(query, block.vectors, *place, looked_at, index, score, sought)
        used = len(rows)
        return TopCandidates(np.asarray(index)[:used, :k], np.asarray(score)[:used, :k])

    def _blocks(self) -> Iterator[_Block]:
        """All vectors, from the device where they fit there."""
        if self._resident is None:
            dtype = self._resident_dtype()
            if dtype is None:
                yield from self._read_blocks(np.dtype(str(self.facts.storage)))
                return
            self._resident = list(self._read_blocks(dtype))
        yield from self._resident

    def _resident_dtype(self) -> np.dtype | None:
        """What vectors are kept in between searches; None where they are read for each.

        A CPU takes longer to widen half precision than to read what is wide already.
        """
        stored = np.dtype(str(self.facts.storage))
        wide = [np.dtype(np.float32)] if jax.default_backend() == "cpu" else []
        fitting = (d for d in [*wide, stored] if len(self) * self.width * d.itemsize <= RESIDENT)
        return next(fitting, None)

    def _read_blocks(self, dtype: np.dtype) -> Iterator[_Block]:
        for number, mapped in enumerate(self._mapped):
            self._verify(number)
            for start in range(0, len(mapped), BLOCK):
                rows = mapped[start : start + BLOCK]
                padded = np.zeros((BLOCK, self.width), dtype)
                padded[: len(rows)] = rows
                first = int(self._first[number]) + start
                yield _Block(first, len(rows), jnp.asarray(padded))

    def _verify(self, number: int) -> None:
        if number in self._verified:
            return
        part = self.facts.parts[number]
        wrong = fault(self.folder, part)
        if wrong:
            self._refuse_replaced(part)
            raise damage(self.folder, wrong)
        self._verified.add(number)

    def _columns(self, number: int, names: Sequence[str]) -> list[pa.Array]:
        self._verify(number)
        part = self.facts.parts[number]
        try:
            return part_columns(self.folder, part, names)
        except UserError:  # unlike vectors, they are not held open
            self._refuse_replaced(part)
            raise

    def _refuse_replaced(self, part: Part) -> None:
        if part not in read_facts(self.folder).parts:
            raise ReplacedError(f"{self.folder} was brought up to date meanwhile: open it again")


def _looked_at(block: _Block, keep: Bool[np.ndarray, "n"] | None) -> Bool[np.ndarray, "c"] | None:
    """A mask over the rows of a block."""
    if keep is None:
        return None
    rows = keep[block.first : block.first + block.used]
    return np.pad(rows, (0, BLOCK - len(rows)))


@functools.partial(jax.jit, static_argnames="k")
def _scan(
    query: Float32[Array, "r e"],
    vectors: Float[Array, "c e"],
    first: int | Int32[Array, ""],
    used: int | Int32[Array, ""],
    keep: Bool[np.ndarray | Array, "c"] | None,
    index: Int32[Array, "r k"],
    score: Float32[Array, "r k"],
    k: int,
) -> tuple[Int32[Array, "r k"], Float32[Array, "r k"]]:
    """The best k of those so far and of one more block, as (index, score)."""
    place = jnp.arange(vectors.shape[0], dtype=jnp.int32)
    real = place < used if keep is None else (place < used) & keep
    scores = score_tile(query, vectors.astype(jnp.float32))
    fresh, columns = _contenders(jnp.where(real[None, :], scores, -jnp.inf), k)
    # earlier blocks stand first and top_k is stable, so that ties keep the stored order
    all_scores = jnp.concatenate([score, fresh], axis=1)
    all_index = jnp.concatenate([index, columns + first], axis=1)
    best, at = lax.top_k(all_scores, k)
    return jnp.take_along_axis(all_index, at, axis=1), best


def _contenders(
    scores: Float32[Array, "r c"], k: int
) -> tuple[Float32[Array, "r m"], Int32[Array, "r m"]]:
    """(score, column) of the members of each row's k best groups, in the order of the columns.

    The best k are among them, ties included: a column outside has k groups before its own, each
    with a column that scores more, or as much and stands earlier. To sort whole blocks would cost
    more than to score them.
    """
    rows, columns = scores.shape
    groups = scores.reshape(rows, columns // GROUP, GROUP)
    chosen = lax.top_k(groups.max(axis=2), min(k, columns // GROUP))[1]
    chosen = jnp.sort(chosen, axis=1)[:, :, None]
    places = chosen * GROUP + jnp.arange(GROUP, dtype=jnp.int32)[None, None, :]
    found = jnp.take_along_axis(groups, chosen, axis=1)
    return found.reshape(rows, -1), places.reshape(rows, -1)
