# SPDX-License-Identifier: Apache-2.0
"""Where recall comes from: by the length of the caption, by the source, and what is confused.

Of the set as it is, without the folds of a named protocol. All choices of bins are our own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cots_jax.retrieval.answers import first_answers
from cots_jax.retrieval.examples import EvaluatedSet
from cots_jax.retrieval.metrics import recall_at

FIRST_WORDS = (1, 3, 6, 11, 16, 26)  # the least number of words of each bin
MOST_SOURCES = 20  # more of them are shards rather than sources
MOST_CONFUSED = 8  # pairs that are shown
LEAST_TIMES = 2  # once is chance


@dataclass(frozen=True)
class Part:
    """Recall in percent of some of the queries."""

    name: str
    queries: int
    r1: float
    r5: float
    r10: float


@dataclass(frozen=True)
class ConfusedPair:
    """Two groups, the smaller id first, and how often one stood before the other's right answer
    and before all other wrong ones."""

    first: int
    second: int
    image_to_text: int
    text_to_image: int

    @property
    def times(self) -> int:
        """In both directions."""
        return self.image_to_text + self.text_to_image


@dataclass(frozen=True)
class Breakdown:
    """Of one evaluated set; without sources where there is one, or too many of them."""

    name: str
    text_to_image_by_words: tuple[Part, ...]
    image_to_text_by_source: tuple[Part, ...]
    text_to_image_by_source: tuple[Part, ...]
    confused: tuple[ConfusedPair, ...]


def break_down(
    evaluated: EvaluatedSet, image_source: Sequence[str], text_source: Sequence[str]
) -> Breakdown:
    """All breakdowns of a set; one more matrix product, for queries that were answered wrongly.

    image_source, text_source: of each image and of each text.
    """
    ranks = evaluated.ranks
    return Breakdown(
        evaluated.name,
        by_words(evaluated.captions, ranks.text_to_image),
        by_source(image_source, ranks.image_to_text),
        by_source(text_source, ranks.text_to_image),
        confused_pairs(evaluated),
    )


def by_words(captions: Sequence[str], ranks: Int[np.ndarray, "x"]) -> tuple[Part, ...]:
    """Recall of captions by their number of words, as white space parts them."""
    words = np.array([len(caption.split()) for caption in captions])
    place = np.searchsorted(FIRST_WORDS, words, side="right") - 1
    last = [first - 1 for first in FIRST_WORDS[1:]]
    names = [f"{first}-{end}" for first, end in zip(FIRST_WORDS, last)] + [f"{FIRST_WORDS[-1]}+"]
    return _parts(names, [place == at for at in range(len(names))], ranks)


def by_source(sources: Sequence[str], ranks: Int[np.ndarray, "q"]) -> tuple[Part, ...]:
    """Recall of queries by the source of their record."""
    names = sorted(set(sources))
    if not 1 < len(names) <= MOST_SOURCES:
        return ()
    of = np.array(sources)
    return _parts(names, [of == name for name in names], ranks)


def _parts(
    names: Sequence[str], members: Sequence[Bool[np.ndarray, "q"]], ranks: Int[np.ndarray, "q"]
) -> tuple[Part, ...]:
    return tuple(
        Part(name, int(inside.sum()), *(recall_at(ranks[inside], k) for k in (1, 5, 10)))
        for name, inside in zip(names, members, strict=True)
        if inside.any()
    )


def confused_pairs(evaluated: EvaluatedSet) -> tuple[ConfusedPair, ...]:
    """The pairs of groups that are most often taken for one another, at least twice."""
    image, text = evaluated.image_embeddings, evaluated.text_embeddings
    image_group, text_group = evaluated.image_group, evaluated.text_group
    texts = _mistakes(text, image, text_group, image_group, evaluated.ranks.text_to_image)
    images = _mistakes(image, text, image_group, text_group, evaluated.ranks.image_to_text)
    both = texts + images
    most = sorted(both, key=lambda pair: (-both[pair], pair))[:MOST_CONFUSED]
    return tuple(
        ConfusedPair(*pair, image_to_text=images[pair], text_to_image=texts[pair])
        for pair in most
        if both[pair] >= LEAST_TIMES
    )


def _mistakes(
    queries: Float[np.ndarray, "q e"],
    candidates: Float[np.ndarray, "c e"],
    query_group: Int[np.ndarray, "q"],
    candidate_group: Int[np.ndarray, "c"],
    ranks: Int[np.ndarray, "q"],
) -> Counter[tuple[int, int]]:
    """How often each pair of groups is confused, the smaller id first."""
    missed = ranks > 1
    if not missed.any():
        return Counter()
    asked = query_group[missed]
    given = first_answers(queries[missed], candidates, asked, candidate_group).wrong
    pairs = np.sort(np.stack([asked, candidate_group[given]], axis=1), axis=1)
    return Counter((int(a), int(b)) for a, b in pairs)


def breakdown_json(found: Breakdown, captions: Mapping[int, str]) -> dict[str, Any]:
    """A row of results.json; `captions`: by which a group is known."""
    row: dict[str, Any] = asdict(found)
    row["confused"] = [
        {
            "captions": [captions[pair.first], captions[pair.second]],
            "image_to_text": pair.image_to_text,
            "text_to_image": pair.text_to_image,
        }
        for pair in found.confused
    ]
    return {key: value for key, value in row.items() if value}
