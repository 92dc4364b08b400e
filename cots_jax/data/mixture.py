# SPDX-License-Identifier: Apache-2.0
"""Which pair stands at a position: from the seed, the sources' weights and the position alone.

Own choice. Where all sources weigh alike, pairs come in one endless shuffled order over all of
them: an epoch is every pair once. Where they do not, positions come in blocks of a fixed length;
every block holds an exact number of rows of each source, in an order drawn for that block, and each
source is read on and on in an endless shuffled order of its own. So no table grows with the run,
and a source of one row in a thousand still comes in every block.

Weights may change as a run goes on: a segment says from which position on which hold. Every order
is then read on from where the segments before have left it, which is counted, not remembered: no
pair of a source's own order is passed over, or comes early, for a change of weights.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from cots_jax.data.shuffle import shuffled
from cots_jax.data.weights import Weight, rows_of_block
from cots_jax.errors import UserError

BLOCK = 8192  # positions; what a share is rounded to
SEEDS = 2**31  # one of the config's; the sources' own lie beyond


@dataclasses.dataclass(frozen=True)
class Segment:
    """Weights that hold from position `start` on, one for each source that there is by then."""

    start: int
    weights: tuple[Weight, ...]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The endless order over sources with so many pairs each, counted on from source to source.

    The first segment starts at 0. Raises UserError where a source would not be in every block.
    """

    pairs: tuple[int, ...]
    names: tuple[str, ...]  # of the sources, in errors
    segments: tuple[Segment, ...]
    seed: int

    def __post_init__(self) -> None:
        _ = self._parts

    def __call__(self, positions: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """The pairs at these positions."""
        starts = [part.start for part in self._parts]
        number = np.searchsorted(starts, positions, side="right") - 1
        found = np.empty(positions.shape, np.int64)
        for one in np.unique(number):
            mine = number == one
            found[mine] = self._parts[one](positions[mine])
        return found

    @functools.cached_property
    def _parts(self) -> tuple["_Joint | _Blocks", ...]:
        return tuple(self._read_on())

    def _read_on(self) -> Iterator["_Joint | _Blocks"]:
        """The segments, each with how much of its orders was read before it."""
        own = (0,) * len(self.pairs)
        joint: dict[tuple[int, ...], int] = {}  # by the sources that the order is over
        for this, then in itertools.zip_longest(self.segments, self.segments[1:]):
            rows = rows_of_block(self.pairs, this.weights, BLOCK, self.names)
            if rows is None:
                coming = tuple(n for n, weight in enumerate(this.weights) if weight.value)
                read = joint.get(coming, 0)
                yield _Joint(this.start, self.pairs, self.seed, coming, read)
                if then is not None:
                    joint[coming] = read + then.start - this.start
            else:
                rows += (0,) * (len(self.pairs) - len(rows))  # of sources that come later
                blocks = _Blocks(this.start, self.pairs, self.seed, rows, own)
                yield blocks
                if then is not None:
                    own = blocks.read_until(then.start)


@dataclasses.dataclass(frozen=True)
class _Joint:
    """A segment whose sources weigh alike."""

    start: int
    pairs: tuple[int, ...]
    seed: int
    coming: tuple[int, ...]  # the sources with a weight
    read: int  # pairs of the order over all of them, before `start`

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        coming, pairs = np.array(self.coming), np.array(self.pairs)
        ends = np.cumsum(pairs[coming])
        row = shuffled(positions - self.start + self.read, self.seed, int(ends[-1]))
        which = np.searchsorted(ends, row, side="right")
        first = (np.cumsum(pairs) - pairs)[coming] - (ends - pairs[coming])
        return row + first[which]


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """A segment whose sources weigh differently."""

    start: int
    pairs: tuple[int, ...]
    seed: int
    rows: tuple[int, ...]  # of each source in a block
    read: tuple[int, ...]  # pairs of each source's own order, before `start`

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        rows, read, pairs = (np.array(one) for one in (self.rows, self.read, self.pairs))
        block, place = np.divmod(positions - self.start, BLOCK)
        source, number = np.empty_like(block), np.empty_like(block)
        for one in np.unique(block):
            mine, drawn = block == one, self._drawn(int(one))
            source[mine] = drawn.source[place[mine]]
            before = drawn.rank[place[mine]]
            number[mine] = read[source[mine]] + one * rows[source[mine]] + before
        found = (np.cumsum(pairs) - pairs)[source]
        for one in np.unique(source):
            mine = source == one
            own = self.seed + SEEDS * (int(one) + 1)
            found[mine] += shuffled(number[mine], own, self.pairs[one])
        return found

    def read_until(self, end: int) -> tuple[int, ...]:
        """How many pairs of each source's own order are read when the segment ends."""
        blocks, rest = divmod(end - self.start, BLOCK)
        part = np.bincount(self._drawn(blocks).source[:rest], minlength=len(self.rows))
        return tuple((np.array(self.read) + blocks * np.array(self.rows) + part).tolist())

    def _drawn(self, block: int) -> "_Block":
        # a segment's blocks are numbered beyond those of all before it, so none is drawn twice
        return _drawn(self.rows, self.start + block, self.seed)


@dataclasses.dataclass(frozen=True)
class _Block:
    """The source of each row of a block, and how many rows of that source stand before it."""

    source: np.ndarray
    rank: np.ndarray


@functools.lru_cache(64)  # batches that follow each other lie in the same few
def _drawn(rows: tuple[int, ...], block: int, seed: int) -> _Block:
    drawn = shuffled(np.arange(BLOCK) + block * BLOCK, seed, BLOCK)
    ends = np.cumsum(rows)
    source = np.searchsorted(ends, drawn, side="right")
    by_source = np.argsort(source, kind="stable")
    rank = np.empty_like(source)
    rank[by_source] = np.arange(BLOCK) - np.repeat(ends - rows, rows)
    return _Block(source, rank)


def go_on(
    before: Sequence[Segment], position: int, weights: Sequence[Weight]
) -> tuple[Segment, ...]:
    """The segments of a run that goes on at `position` with these weights, which are new from there
    on where they are others. What was planned from later positions on is forgotten."""
    kept = [segment for segment in before if segment.start < position]
    if kept and kept[-1].weights == tuple(weights):
        return tuple(kept)
    return (*kept, Segment(position if kept else 0, tuple(weights)))


def segments_to_json(segments: Sequence[Segment]) -> list[Any]:
    """[[start, ["3", "50%", …]], …], which JSON holds exactly."""
    return [[one.start, [str(weight) for weight in one.weights]] for one in segments]


def segments_from_json(stored: Any) -> tuple[Segment, ...]:
    """The inverse of `segments_to_json`; UserError where it is not of that form."""
    try:
        return tuple(
            Segment(int(start), tuple(Weight.parse(text) for text in weights))
            for start, weights in stored
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's list of weights cannot be read ({error}): go on from another one"
        ) from error
