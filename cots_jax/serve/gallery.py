# SPDX-License-Identifier: Apache-2.0
"""The rows of an index as the service needs them: by opaque id, with vectors, under filters."""

import base64
import bisect
import dataclasses
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int

from cots_jax.errors import UserError
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import IMAGES, Row, part_vectors

ID_BYTES = 9  # of a SHA-256: among a million names a chance of 1 in 10 billion that two agree
ID_PATTERN = r"^[A-Za-z0-9_-]{12}$"
MASKS = 8  # filters whose rows are remembered
EXAMPLE = 14  # letters of a caption that is good to try
GOLDEN = 0.618  # of a turn: steps of it spread evenly, wherever one stops
FOLDERS = 12  # that the page offers


class UnknownPictureError(UserError):
    """No picture of the index has this id."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which pictures to look at: those whose name begins so, and whose captions have the word."""

    under: str = ""
    caption: str = ""

    def __bool__(self) -> bool:
        return bool(self.under or self.caption)


NO_FILTER = Filter()


class Gallery:
    """An index opened for the service; all names and captions are in memory.

    An id is made of the picture's name, so that it holds when the index is brought up to date.
    One thread at a time, as for the index.
    """

    def __init__(self, index: Index):
        self.index = index
        self.rows = index.rows(range(len(index)))
        self.has_captions = any(row.captions for row in self.rows)
        self._ids = np.array([picture_id(row) for row in self.rows])
        self._by_id = np.argsort(self._ids)
        names = [row.name for row in self.rows]
        self._by_name = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
        self._names = [names[row] for row in self._by_name]
        parts = index.facts.parts
        self._vectors = [part_vectors(index.folder, part, IMAGES) for part in parts]
        self._first = np.cumsum([0, *(part.rows for part in parts)])
        self._mask = functools.lru_cache(MASKS)(self._make_mask)

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, row: int) -> str:
        """The opaque id of a row."""
        return str(self._ids[row])

    def row_of(self, id: str) -> int:
        """The row of an id; UnknownPictureError."""
        place = int(np.searchsorted(self._ids, id, sorter=self._by_id))
        row = int(self._by_id[place]) if place < len(self) else -1
        if row < 0 or self._ids[row] != id:
            raise UnknownPictureError("no picture of this index has that id: search again")
        return row

    def vectors(self, rows: Sequence[int] | Int[np.ndarray, "k"]) -> Float32[np.ndarray, "k e"]:
        """The stored vectors of these rows."""
        wanted = np.asarray(rows, np.int64)
        found = np.empty((len(wanted), self.index.width), np.float32)
        parts = np.searchsorted(self._first, wanted, side="right") - 1
        for part in np.unique(parts):
            inside = parts == part
            found[inside] = self._vectors[part][wanted[inside] - self._first[part]]
        return found

    def mask(self, filter: Filter) -> Bool[np.ndarray, "n"] | None:
        """The rows that pass; None where all do."""
        return self._mask(filter) if filter else None

    def folders(self) -> dict[str, int]:
        """The largest first folders, with a closing slash, and their pictures."""
        counts = Counter(name.partition("/")[0] + "/" for name in self._names if "/" in name)
        return dict(counts.most_common(FOLDERS)) if len(counts) > 1 else {}

    def examples(self, count: int) -> list[str]:
        """Captions from all over the index, neither words nor tales where there is a choice."""
        captions = [row.captions[0] for row in self.rows if row.captions]
        step = max(1, len(captions) // count)
        spread = [captions[start : start + step] for start in range(0, len(captions), step)]
        fair = [min(part, key=lambda text: abs(len(text) - EXAMPLE)) for part in spread]
        return list(dict.fromkeys(fair))[:count]

    def mixed(self, filter: Filter) -> Int[np.ndarray, "m"]:
        """The rows that pass, in an order in which neighbours are far from each other in the index,
        the same every time."""
        mask = self.mask(filter)
        rows = np.arange(len(self)) if mask is None else np.flatnonzero(mask)
        step = max(1, round(len(rows) * GOLDEN))
        while math.gcd(step, max(1, len(rows))) > 1:
            step += 1
        return rows[np.arange(len(rows)) * step % max(1, len(rows))]

    def _make_mask(self, filter: Filter) -> Bool[np.ndarray, "n"]:
        mask = np.zeros(len(self), bool)
        first = bisect.bisect_left(self._names, filter.under)
        # names that begin alike stand together, and no name goes on with the last code point
        last = bisect.bisect_left(self._names, filter.under + chr(0x10FFFF))
        rows: Sequence[int] = self._by_name[first:last].tolist()
        if filter.caption:
            word = filter.caption.casefold()
            rows = [row for row in rows if _says(self.rows[row], word)]
        mask[rows] = True
        return mask


def picture_id(row: Row) -> str:
    """What stands for a row outside: it leads back to none but those of the index.

    Made of its name, and of a piece of a video of its start too.
    """
    name = row.name if row.start is None else f"{row.name}\0{row.start}"
    digest = hashlib.sha256(name.encode()).digest()[:ID_BYTES]
    return base64.urlsafe_b64encode(digest).decode()


def _says(row: Row, word: str) -> bool:
    return any(word in caption.casefold() for caption in row.captions)
