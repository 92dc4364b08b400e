# SPDX-License-Identifier: Apache-2.0
"""Retrieved examples as pictures and captions: what the numbers look like."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Int

from cots_jax.errors import UserError

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


@dataclass(frozen=True)
class Candidate:
    """One answer: a picture (encoded bytes) or, where `image` is None, a caption."""

    text: str
    score: float
    correct: bool
    image: bytes | None = None


@dataclass(frozen=True)
class Example:
    """A query (text, or encoded picture bytes) with its first answers and its rank."""

    query: str | bytes
    candidates: Sequence[Candidate]
    rank: int
    of: int | None = None  # how many candidates there were
    missed: Candidate | None = None  # the correct answer, where it is not among the first


@dataclass(frozen=True)
class ExampleSet:
    """Examples under one heading; the note says how they were chosen."""

    title: str
    note: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class BestAndWorst:
    """Query rows to be shown."""

    best: Int[np.ndarray, "n"]
    worst: Int[np.ndarray, "m"]


@dataclass(frozen=True)
class PictureRows:
    """Pictures under one heading, a row a name; all rows show the same pictures in one order."""

    title: str
    note: str
    rows: Mapping[str, Sequence[bytes]]


def draw_picture_rows(shown: PictureRows) -> str:
    """A section with one strip of pictures for each name."""
    strips = "\n".join(
        f'<div class="strip-of"><span class="label">{escape(name)}</span>'
        + "".join(f'<img src="{data_uri(p)}" alt="{escape(name, quote=True)}">' for p in pictures)
        + "</div>"
        for name, pictures in shown.rows.items()
    )
    return (
        f'<section class="picture-rows"><h3>{escape(shown.title)}</h3>'
        f'<p class="note">{escape(shown.note)}</p>{strips}</section>'
    )


def choose_best_and_worst(ranks: Int[np.ndarray, "q"], count: int) -> BestAndWorst:
    """`count` queries of the best rank, spaced evenly over the set, and the `count` last-ranked.

    Evenly, because the first ones of a set are often alike (own choice). No query is in both.
    """
    order = np.argsort(ranks, kind="stable")
    best = order[: max(int(np.count_nonzero(ranks == ranks.min())), min(count, len(order)))]
    spaced = best[np.unique(np.linspace(0, len(best) - 1, min(count, len(best))).astype(int))]
    worst = [q for q in order[::-1][:count] if q not in set(spaced.tolist())]
    return BestAndWorst(spaced, np.asarray(worst, spaced.dtype))


def draw_examples(examples: ExampleSet) -> str:
    """A section with one article for each example."""
    articles = "\n".join(_draw_example(example) for example in examples.examples)
    return (
        f'<section class="examples"><h3>{escape(examples.title)}</h3>'
        f'<p class="note">{escape(examples.note)}</p>'
        f'<div class="example-grid">{articles}</div></section>'
    )


def data_uri(picture: bytes) -> str:
    """A picture as a base64 address; UserError where the bytes are no PNG, JPEG, GIF or WebP."""
    kind = next((name for magic, name in _KINDS.items() if picture.startswith(magic)), None)
    if kind is None and picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise UserError(
            f"a picture for the report begins with {picture[:4]!r}, which is no PNG, JPEG, GIF or "
            "WebP: encode it first"
        )
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _draw_example(example: Example) -> str:
    rank = _rank_badge(example)
    if isinstance(example.query, bytes):
        return (
            '<article class="example from-image"><div class="query">'
            f'<img src="{data_uri(example.query)}" alt="the query picture">{rank}</div>'
            f"{_draw_answers(example)}</article>"
        )
    return (
        '<article class="example from-text"><div class="query">'
        f"<q>{escape(example.query)}</q>{rank}</div>{_draw_answers(example)}</article>"
    )


def _draw_answers(example: Example) -> str:
    first = "".join(_draw_candidate(c, "") for c in example.candidates)
    if example.missed is not None:
        first += _draw_candidate(example.missed, f"rank {example.rank:,}")
    pictures = any(c.image is not None for c in example.candidates)
    return f'<ol class="{"answer-pictures" if pictures else "answer-texts"}">{first}</ol>'


def _draw_candidate(candidate: Candidate, place: str) -> str:
    classes = " ".join(
        name for name, on in (("right", candidate.correct), ("missed", bool(place))) if on
    )
    sign = '<span class="sign">✓ </span>' if candidate.correct else ""
    said = f'<span class="place">{place} </span>' if place else ""
    number = f"{candidate.score:.3f}".replace("-", "−")
    score = f'<span class="score">{said}{sign}{number}</span>'
    if candidate.image is None:
        return (
            f'<li class="{classes}">{score}<span class="text">{escape(candidate.text)}</span></li>'
        )
    text = escape(candidate.text, quote=True)
    return (
        f'<li class="{classes}"><img src="{data_uri(candidate.image)}" alt="{text}" '
        f'title="{text}">{score}</li>'
    )


def _rank_badge(example: Example) -> str:
    grade = "hit" if example.rank == 1 else "near" if example.rank <= 10 else "miss"
    total = f'<span class="roomy"> of {example.of:,}</span>' if example.of else ""
    return f'<span class="rank {grade}">rank {example.rank:,}{total}</span>'
