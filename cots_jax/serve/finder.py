# SPDX-License-Identifier: Apache-2.0
"""Questions to pages of pictures, many at once: what runs on the device."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Int, UInt8

from cots_jax.collection.expression import Term
from cots_jax.collection.query import check_known, weighted_sum
from cots_jax.errors import UserError
from cots_jax.retrieval.candidates import TopCandidates
from cots_jax.serve.gallery import NO_FILTER, Filter, Gallery
from cots_jax.serve.limits import DEEPEST, LEAST, SHOWN, depth_of
from cots_jax.serve.ranking import fall_off, leaders

Vector = Float32[np.ndarray, "e"]  # of a question, one long
BATCHES = (1, 8, 32)  # rows embedded at once, padded to the next of these
LIKE, UNLIKE = 1.0, -0.5  # weights of stored pictures; -1 would take away what both have in common
MOST = 2048  # pictures sought; from LEAST on they are doubled while too few of them lead
ALIKE = 0.99  # cosine from which pictures are folded


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A question: an expression's terms, the vector of a picture, and rows liked or not.

    alike: cosine from which pictures are folded, above 1 for never; page: from 0.
    """

    terms: tuple[Term, ...] = ()
    picture: Vector | None = None
    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    filter: Filter = NO_FILTER
    alike: float = ALIKE
    page: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is looked for, so that all pictures are shown."""
        return not (self.terms or self.picture is not None or self.like or self.unlike)


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row, its score (none where nothing was asked), and the rows folded under it."""

    row: int
    score: float | None
    stands_out: bool = False
    alike: tuple["Shown", ...] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of answers. pictures: that pass the filter; standing_out: how many, of all pages."""

    shown: tuple[Shown, ...]
    pictures: int
    standing_out: int
    more: bool


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model as the service needs it: texts, and pictures of its size, to unit vectors.

    Both take the rows that are embedded at once.
    """

    texts: Callable[[Sequence[str], int], Float32[np.ndarray, "n e"]]
    images: Callable[[Sequence[UInt8[np.ndarray, "s s 3"]], int], Float32[np.ndarray, "n e"]]
    size: int  # pixels a side
    knows: Callable[[str], bool] = lambda text: True  # a word of it, else it finds by chance


class Finder:
    """A model with the gallery it has embedded. One thread at a time."""

    def __init__(self, embedder: Embedder, gallery: Gallery):
        self._embedder, self.gallery = embedder, gallery

    @property
    def size(self) -> int:
        """Pixels a side of the pictures to embed."""
        return self._embedder.size

    def warm_up(self) -> None:
        """Compiles what requests need, and compares the digests of all vectors."""
        for batch in BATCHES:
            self._embedder.texts([""] * batch, batch)
            self.embed([self._blank()] * batch)
            self.find([Wanted(like=(0,))] * batch)
        self.find([Wanted(like=(0,), filter=Filter(under=self.gallery.rows[0].name))])

    def embed(self, pictures: Sequence[UInt8[np.ndarray, "s s 3"]]) -> list[Vector]:
        """The unit vectors of decoded pictures."""
        return list(self._embedder.images(pictures, _batch(len(pictures))))

    def find(self, wanted: Sequence[Wanted]) -> list[Page | UserError]:
        """A page for each question, or why there is none."""
        pages: list[Page | UserError | None] = [None] * len(wanted)
        vectors: dict[int, Vector] = {}
        for place, found in enumerate(self._vectors(wanted)):
            if isinstance(found, UserError):
                pages[place] = found
            elif found is None:
                pages[place] = self._browse(wanted[place])
            else:
                vectors[place] = found
        depth = LEAST
        while vectors:
            ready = [place for place in vectors if depth_of(wanted[place].page) <= depth]
            for places in _by_filter(wanted, ready):
                self._search(wanted, vectors, places, depth, pages)
            vectors = {place: v for place, v in vectors.items() if pages[place] is None}
            depth *= 2
        return [page for page in pages if page is not None]

    def _vectors(self, wanted: Sequence[Wanted]) -> list[Vector | UserError | None]:
        texts = list(dict.fromkeys(term.text for one in wanted for term in one.terms))
        rows: list[Vector] = []
        for start in range(0, len(texts), BATCHES[-1]):
            chunk = texts[start : start + BATCHES[-1]]
            rows.extend(self._embedder.texts(chunk, _batch(len(chunk))))
        known = dict(zip(texts, rows, strict=True))
        return [None if one.empty else self._vector(one, known) for one in wanted]

    def _vector(self, one: Wanted, texts: dict[str, Vector]) -> Vector | UserError:
        """As `search query` weighs them, stored pictures besides."""
        try:
            parts, weights = [], []
            if one.terms:
                for term in one.terms:
                    check_known(term.text, self._embedder.knows(term.text))
                said = [texts[term.text] for term in one.terms]
                parts.append(weighted_sum([term.weight for term in one.terms], said))
                weights.append(1.0)
            if one.picture is not None:
                parts.append(one.picture)
                weights.append(1.0)
            parts.extend(self.gallery.vectors((*one.like, *one.unlike)))
            weights += [LIKE] * len(one.like) + [UNLIKE] * len(one.unlike)
            return weighted_sum(weights, parts)
        except UserError as error:
            return error

    def _browse(self, one: Wanted) -> Page:
        rows = self.gallery.mixed(one.filter)
        start = one.page * SHOWN
        shown = tuple(Shown(int(row), None) for row in rows[start : start + SHOWN])
        return Page(shown, len(rows), 0, _more(one, len(rows) > start + SHOWN))

    def _search(
        self,
        wanted: Sequence[Wanted],
        vectors: dict[int, Vector],
        places: Sequence[int],
        depth: int,
        pages: list[Page | UserError | None],
    ) -> None:
        """Fills in the pages that so many of the best pictures are enough for."""
        mask = self.gallery.mask(wanted[places[0]].filter)
        pictures = len(self.gallery) if mask is None else int(mask.sum())
        if not pictures:
            for place in places:
                pages[place] = Page((), 0, 0, False)
            return
        queries = np.stack([vectors[place] for place in places])
        found = self.gallery.index.search(queries, depth, mask)
        for number, place in enumerate(places):
            top = TopCandidates(found.index[number][None], found.score[number][None])
            pages[place] = self._page(wanted[place], top, pictures, depth)

    def _page(self, one: Wanted, top: TopCandidates, pictures: int, depth: int) -> Page | None:
        """None where more pictures have to be looked at."""
        rows, scores = top.index[0], top.score[0]
        folds = one.alike <= 1
        lead = leaders(self.gallery.vectors(rows), one.alike) if folds else np.arange(len(rows))
        first = np.flatnonzero(lead == np.arange(len(rows)))
        start, stop = one.page * SHOWN, (one.page + 1) * SHOWN
        if len(first) <= stop and depth < min(pictures, MOST):
            return None
        standing_out = fall_off(scores)
        shown = [
            _shown(place, rows, scores, lead, standing_out) for place in first[start:stop].tolist()
        ]
        leading = int((first < standing_out).sum())
        return Page(tuple(shown), pictures, leading, _more(one, len(first) > stop))

    def _blank(self) -> UInt8[np.ndarray, "s s 3"]:
        return np.zeros((self.size, self.size, 3), np.uint8)


def _shown(
    place: int,
    rows: Int[np.ndarray, "k"],
    scores: Float32[np.ndarray, "k"],
    lead: Int[np.ndarray, "k"],
    standing_out: int,
) -> Shown:
    under = [other for other in np.flatnonzero(lead == place) if other != place]
    alike = tuple(Shown(int(rows[o]), float(scores[o]), bool(o < standing_out)) for o in under)
    return Shown(int(rows[place]), float(scores[place]), bool(place < standing_out), alike)


def _by_filter(wanted: Sequence[Wanted], places: Sequence[int]) -> list[list[int]]:
    together: dict[Filter, list[int]] = defaultdict(list)
    for place in places:
        together[wanted[place].filter].append(place)
    return list(together.values())


def _batch(rows: int) -> int:
    return next((batch for batch in BATCHES if rows <= batch), BATCHES[-1])


def _more(one: Wanted, left: bool) -> bool:
    return left and one.page + 1 < DEEPEST
