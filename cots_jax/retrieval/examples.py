# SPDX-License-Identifier: Apache-2.0
"""The best and worst retrieved examples of an evaluated set, ready for the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from cots_jax.retrieval.candidates import top_candidates
from cots_jax.retrieval.metrics import Ranks
from cots_jax.retrieval.pictures import Candidate, Example, ExampleSet, choose_best_and_worst


@dataclass(frozen=True)
class EvaluatedSet:
    """Embeddings with their truth and ranks, and what a reader can look at for each row."""

    name: str
    image_embeddings: Float[np.ndarray, "i e"]
    text_embeddings: Float[np.ndarray, "x e"]
    image_group: Int[np.ndarray, "i"]
    text_group: Int[np.ndarray, "x"]
    ranks: Ranks
    captions: Sequence[str]
    picture: Callable[[int], bytes]  # image row -> encoded bytes (PNG, JPEG, GIF or WebP)


@dataclass(frozen=True)
class _Side:
    """What asks or answers: caption rows show a string, picture rows show bytes."""

    embeddings: Float[np.ndarray, "n e"]
    group: Int[np.ndarray, "n"]
    show: Callable[[int], str | bytes]
    describe: Callable[[int], str]


def best_and_worst_examples(
    evaluated: EvaluatedSet, queries: int = 6, shown: int = 5
) -> list[ExampleSet]:
    """Four sets: both directions, first-found and last-ranked; each query with its first answers.

    A correct answer that is not among the first `shown` stands behind them with its rank.
    """
    text, image = _text_side(evaluated), _image_side(evaluated)
    name, ranks = evaluated.name, evaluated.ranks
    return [
        *_both_ends(f"Text → image on {name}", text, image, ranks.text_to_image, queries, shown),
        *_both_ends(f"Image → text on {name}", image, text, ranks.image_to_text, queries, shown),
    ]


def _text_side(evaluated: EvaluatedSet) -> _Side:
    caption = evaluated.captions.__getitem__
    return _Side(evaluated.text_embeddings, evaluated.text_group, caption, caption)


def _image_side(evaluated: EvaluatedSet) -> _Side:
    groups, first_text = np.unique(evaluated.text_group, return_index=True)
    caption_row = dict(zip(groups.tolist(), first_text.tolist(), strict=True))
    return _Side(
        embeddings=evaluated.image_embeddings,
        group=evaluated.image_group,
        show=cache(evaluated.picture),
        describe=lambda row: evaluated.captions[caption_row[int(evaluated.image_group[row])]],
    )


def _both_ends(
    heading: str, query: _Side, answer: _Side, ranks: Int[np.ndarray, "q"], queries: int, shown: int
) -> list[ExampleSet]:
    chosen = choose_best_and_worst(ranks, queries)
    return [
        ExampleSet(
            f"{heading}: found first",
            "Queries of the best ranks, spaced evenly over the set.",
            _examples(query, answer, ranks, chosen.best, shown),
        ),
        ExampleSet(
            f"{heading}: ranked last",
            "The last-ranked queries; a right answer further down stands at the end with its rank.",
            _examples(query, answer, ranks, chosen.worst, shown),
        ),
    ]


def _examples(
    query: _Side,
    answer: _Side,
    ranks: Int[np.ndarray, "q"],
    rows: Int[np.ndarray, "n"],
    shown: int,
) -> list[Example]:
    if not len(rows):
        return []
    top = top_candidates(query.embeddings[rows], answer.embeddings, shown)
    examples = []
    for row, index, score in zip(rows.tolist(), top.index, top.score, strict=True):
        correct = set(np.flatnonzero(answer.group == query.group[row]).tolist())
        first = [
            _candidate(answer, int(i), float(s), correct) for i, s in zip(index, score, strict=True)
        ]
        found = any(candidate.correct for candidate in first)
        missed = None if found else _best_correct(query, answer, row, correct)
        examples.append(
            Example(query.show(row), first, int(ranks[row]), len(answer.embeddings), missed)
        )
    return examples


def _best_correct(query: _Side, answer: _Side, row: int, correct: set[int]) -> Candidate:
    places = sorted(correct)
    scores = answer.embeddings[places] @ query.embeddings[row]
    best = int(scores.argmax())
    return _candidate(answer, places[best], float(scores[best]), correct)


def _candidate(side: _Side, row: int, score: float, correct: set[int]) -> Candidate:
    shown = side.show(row)
    picture = shown if isinstance(shown, bytes) else None
    return Candidate(side.describe(row), score, row in correct, picture)
