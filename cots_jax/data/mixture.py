# SPDX-License-Identifier: Apache-2.0
"""Sources mixed by weight: which pair stands at a position, from (seed, position) alone.

Own choice: positions come in blocks of a fixed length; every block holds an exact number of rows of
each source, in an order drawn for that block, and each source is read on and on in an endless
shuffled order of its own. So no table grows with the run, nothing has to be remembered to resume,
and a source of one row in a thousand still comes in every block.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from cots_jax.data.shuffle import shuffled
from cots_jax.errors import UserError

BLOCK = 8192  # positions; what a share is rounded to
SEEDS = 2**31  # one of the config's; the sources' own lie beyond


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sources in the order of their pairs: how many each has, and how many rows of a block."""

    pairs: tuple[int, ...]
    rows: tuple[int, ...]

    def __call__(self, positions: Int64[np.ndarray, "b"], seed: int) -> Int64[np.ndarray, "b"]:
        """The pairs at these positions of the endless order, counted over all sources."""
        drawn = shuffled(positions, seed, BLOCK)
        ends = np.cumsum(self.rows)
        source = np.searchsorted(ends, drawn, side="right")
        starts = ends - self.rows
        number = positions // BLOCK * np.array(self.rows)[source] + drawn - starts[source]
        first = np.cumsum(self.pairs) - self.pairs
        found = np.empty(positions.shape, np.int64)
        for one, size in enumerate(self.pairs):
            mine = source == one
            found[mine] = first[one] + shuffled(number[mine], seed + SEEDS * (one + 1), size)
        return found


def mixture_of(pairs: Sequence[int], epochs: Sequence[float], names: Sequence[str]) -> Mixture:
    """A mixture in which each source is gone through `epochs` times as often as at weight 1.

    Rounded to whole rows of a block. Raises UserError where a source would not be in every block.
    """
    wanted = np.array(pairs, np.float64) * np.array(epochs, np.float64)
    shares = wanted / wanted.sum() * BLOCK
    rows = np.floor(shares).astype(int)
    for one in np.argsort(rows - shares, kind="stable")[: BLOCK - rows.sum()]:
        rows[one] += 1
    if not rows.all():
        small = int(np.argmin(rows))
        raise UserError(
            f"{names[small]} would have {shares[small] / BLOCK:.2e} of the rows, less than one in "
            f"{BLOCK:,}: give it a larger weight, or leave it out"
        )
    return Mixture(tuple(int(size) for size in pairs), tuple(rows.tolist()))
