# SPDX-License-Identifier: Apache-2.0
"""What a search may ask, as it stands in an address."""

import enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cots_jax.collection.expression import Term, parse_expression
from cots_jax.errors import UserError
from cots_jax.serve import answers
from cots_jax.serve.finder import LIKE, UNLIKE, Shown, Wanted
from cots_jax.serve.gallery import ID_PATTERN, Filter, Gallery
from cots_jax.serve.limits import DEEPEST, MARKED, QUERY_CHARACTERS, TERMS, VECTOR_CHARACTERS

NEVER = 2.0  # no cosine reaches it
Id = Annotated[str, Field(pattern=ID_PATTERN)]


class Fold(enum.StrEnum):
    """Whether near-duplicates are shown as one."""

    ALIKE = "alike"
    OFF = "off"


class Search(BaseModel):
    """The parameters of a search; nothing is asked without q, picture, like and unlike."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field(
        "", max_length=QUERY_CHARACTERS, description="words, or an expression as `search query` "
        "takes it", examples=["2*golden retriever - snow"],
    )  # fmt: skip
    picture: str = Field("", max_length=VECTOR_CHARACTERS, description="as /api/vectors gives it")
    like: list[Id] = Field([], max_length=MARKED, description="more like these pictures")
    unlike: list[Id] = Field([], max_length=MARKED, description="not like these")
    under: str = Field("", max_length=500, description="only names that begin so")
    caption: str = Field("", max_length=100, description="only captions in which this stands")
    page: int = Field(1, ge=1, le=DEEPEST)
    fold: Fold = Field(Fold.ALIKE, description="near-duplicates are shown as one, or not")


def wanted(search: Search, gallery: Gallery, alike: float) -> Wanted:
    """The question to a gallery. UserError, UnknownPictureError."""
    terms = parse_expression(search.q) if search.q.strip() else ()
    if len(terms) > TERMS:
        raise UserError(f"the expression has {len(terms)} terms: use {TERMS} or fewer")
    width = gallery.index.width
    return Wanted(
        terms=terms,
        picture=answers.from_text(search.picture, width) if search.picture else None,
        like=tuple(map(gallery.row_of, search.like)),
        unlike=tuple(map(gallery.row_of, search.unlike)),
        filter=Filter(search.under, search.caption),
        alike=alike if search.fold is Fold.ALIKE else NEVER,
        page=search.page - 1,
    )


def asked(wanted: Wanted, gallery: Gallery) -> list[answers.Part]:
    """How a question was understood."""
    parts = [_text(term) for term in wanted.terms]
    if wanted.picture is not None:
        parts.append(answers.Part(kind=answers.Kind.PICTURE, weight=1))
    marked = [(answers.Kind.LIKE, LIKE, row) for row in wanted.like]
    marked += [(answers.Kind.UNLIKE, UNLIKE, row) for row in wanted.unlike]
    for kind, weight, row in marked:
        shown = hit(Shown(row, None), gallery)
        parts.append(answers.Part(kind=kind, weight=weight, picture=shown))
    return parts


def hit(shown: Shown, gallery: Gallery) -> answers.Hit:
    """A row of an answer."""
    row = gallery.rows[shown.row]
    return answers.Hit(
        id=gallery.id(shown.row),
        name=row.name,
        captions=list(row.captions),
        start=row.start,
        end=row.end,
        score=shown.score,
        stands_out=shown.stands_out,
        alike=[hit(under, gallery) for under in shown.alike],
    )


def _text(term: Term) -> answers.Part:
    return answers.Part(kind=answers.Kind.TEXT, weight=term.weight, text=term.text)
