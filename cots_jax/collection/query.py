# SPDX-License-Identifier: Apache-2.0
"""One question to an index: its vector, and the pictures that answer it."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from rich.cells import cell_len

from cots_jax.collection.expression import Term, parse_expression
from cots_jax.collection.sources import FOLDER, VIDEOS
from cots_jax.errors import UserError, WrongUseError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.approximate import searching
from cots_jax.retrieval.engine import EngineKind
from cots_jax.retrieval.index import Index, ReplacedError
from cots_jax.retrieval.index_files import Facts, Row, read_facts

ALONE = 1  # a query is embedded by itself: the padding of a whole batch would cost its time
SHORTEST = 1e-6  # of a sum of unit vectors that still has a direction


@dataclasses.dataclass(frozen=True)
class Question:
    """What to look for: an expression, a picture, or both; `minus` is taken away."""

    text: str = ""
    image: str = ""
    minus: Sequence[str] = ()

    def terms(self) -> tuple[Term, ...]:
        """The expression's; UserError where nothing is asked, or nothing is taken away."""
        if not (self.text.strip() or self.image):
            raise UserError("nothing to look for: give --text, --image or both")
        if not all(text.strip() for text in self.minus):
            raise UserError("--minus has no text: leave it out, or say what to take away")
        return parse_expression(self.text) if self.text.strip() else ()


@dataclasses.dataclass(frozen=True)
class Hit:
    """What was found: its path, cosine similarity to the query, first caption, and of a video where
    it begins and ends in seconds."""

    path: str
    score: float
    caption: str | None
    start: float | None = None
    end: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As scripts read it; without what there is none of."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Looking:
    """How to look: for so many pictures, among those of a condition, with an engine."""

    top: int = 10
    where: str = ""  # all
    engine: EngineKind | None = None  # the index's own


def ask(folder: Path, question: Question, looking: Looking, model: str = "") -> list[Hit]:
    """The best pictures of an index, best first. model: a workdir; default: the index's own.

    Where the index is brought up to date meanwhile, the new one is asked. UserError where the model
    is missing or another than the index was made with.
    """
    question.terms()  # what is wrong with it is said before the model is loaded
    if looking.top < 1:
        raise WrongUseError(f"--top={looking.top}: ask for 1 picture or more")
    try:
        return _ask(folder, question, looking, model)
    except ReplacedError:
        return _ask(folder, question, looking, model)


def _ask(folder: Path, question: Question, looking: Looking, model: str) -> list[Hit]:
    index = Index.open(folder)
    keep = index.where(looking.where) if looking.where else None
    query = query_vector(open_model(folder, model), question)
    with searching(index, looking.engine) as engine:
        found = engine.search(query[None], looking.top, keep)
    rows = index.rows(found.index[0])
    return [_hit(index.facts, *one) for one in zip(rows, found.score[0], strict=True)]


def _hit(facts: Facts, row: Row, score: np.floating) -> Hit:
    caption = (*row.captions, None)[0]
    return Hit(_path(facts, row.name), float(score), caption, row.start, row.end)


def open_model(folder: Path, given: str = "") -> Pretrained:
    """The model that an index was made with, or the given one where it is the same."""
    made = read_facts(folder).model
    places = [Path(given)] if given else [folder / made["relative"], Path(made["path"])]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise UserError(
            f"{folder} was made with the model in {made['path']}, which is not there: name it "
            "with --model=WORKDIR"
            if not given
            else f"there is no training folder {given}"
        )
    opened = Pretrained.load(place)
    now = opened.identity()
    if now != {name: made.get(name) for name in now}:
        raise UserError(
            f"{folder} was made with {made['path']} at step {made['step']}, and {place} is another "
            f"model now (step {opened.step}): make the index anew with it, in another folder"
        )
    return opened


def query_vector(opened: Pretrained, question: Question) -> Float32[np.ndarray, "e"]:
    """The unit vector of a question (own choice).

    The terms' unit vectors times their weights, summed and made one long; plus that of the
    picture, minus those of `minus`; made one long again. UserError where nothing is left, and for a
    text of which the model knows no word: it would find what any other such text finds.
    """
    terms = question.terms()
    for text in (*(term.text for term in terms), *question.minus):
        check_known(text, opened.knows(text))
    encode = functools.partial(opened.encode_texts, batch=ALONE)
    parts = []
    if terms:
        vectors = encode([term.text for term in terms])
        parts.append(weighted_sum([term.weight for term in terms], vectors))
    if question.image:
        parts.append(opened.encode_images([question.image], batch=ALONE)[0])
    added = len(parts)
    parts.extend(encode(question.minus))
    return weighted_sum([1.0] * added + [-1.0] * (len(parts) - added), parts)


def check_known(text: str, known: bool) -> None:
    """UserError for a text of which the model knows no word."""
    if not known:
        raise UserError(f"the model knows no word of {text!r}: ask in words that it has learned")


def weighted_sum(
    weights: Sequence[float], vectors: Sequence[Float32[np.ndarray, "e"]] | np.ndarray
) -> Float32[np.ndarray, "e"]:
    """Unit vectors times their weights, the sum made one long. UserError where nothing is left.

    One alone that is added is kept to the last bit.
    """
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    vector = np.array(weights, np.float32) @ np.stack(list(vectors))
    length = float(np.linalg.norm(vector))
    if length < SHORTEST:
        raise UserError("the parts of this query take each other away: leave one of them out")
    return (vector / length).astype(np.float32)


def table(hits: Sequence[Hit]) -> str:
    """Aligned columns: score, path, caption."""
    rows = [
        (f"{hit.score:.4f}", _printable(hit.path) + _time(hit), _printable(hit.caption or ""))
        for hit in hits
    ]
    widths = [max((cell_len(row[column]) for row in rows), default=0) for column in range(2)]
    return "\n".join(
        f"{score:>{widths[0]}}  {path}{' ' * (widths[1] - cell_len(path))}  {caption}".rstrip()
        for score, path, caption in rows
    )


def _time(hit: Hit) -> str:
    """As a browser or a player takes it behind a path."""
    return "" if hit.start is None else f"#t={hit.start:g},{hit.end:g}"


def _path(facts: Facts, name: str) -> str:
    """Where a picture lies: of a folder its path, else its name in the tar or split."""
    images = facts.images
    return str(Path(images["path"]) / name) if images["kind"] in (FOLDER, VIDEOS) else name


def _printable(text: str) -> str:
    """Names and captions are anybody's: what could steer a terminal is shown escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
