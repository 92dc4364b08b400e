# SPDX-License-Identifier: Apache-2.0
"""What the service says, in JSON; the OpenAPI description is made from here."""

import base64
import binascii
import enum

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, Field

from cots_jax.errors import UserError

SENT_DTYPE = np.dtype("<f2")  # scores move by some 1e-4, and an address stays short


class Failure(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="one sentence that says what to do")


class Picture(BaseModel):
    """A picture of the index."""

    id: str = Field(description="opaque; it holds when the index is brought up to date")
    name: str = Field(description="below the collection, as the index has it")
    captions: list[str]
    start: float | None = Field(None, description="seconds, of a piece of a video; else null")
    end: float | None = None


class Hit(Picture):
    """A picture that was found."""

    score: float | None = Field(description="cosine with the query; null where nothing was asked")
    stands_out: bool = Field(description="before the largest drop among the best 50 scores")
    alike: list["Hit"] = Field(description="near-duplicates folded under it, best first")


class Kind(enum.StrEnum):
    """Of a part of a query."""

    TEXT = "text"
    PICTURE = "picture"
    LIKE = "like"
    UNLIKE = "unlike"


class Part(BaseModel):
    """A part of a query as it was understood."""

    kind: Kind
    weight: float
    text: str | None = None
    picture: Picture | None = None


class Answer(BaseModel):
    """A page of hits, best first; in a mixed order where nothing was asked."""

    hits: list[Hit]
    asked: list[Part]
    page: int = Field(description="from 1")
    more: bool = Field(description="whether there is a next page")
    pictures: int = Field(description="that pass the filters")
    standing_out: int = Field(description="hits of all pages that stand out")


class Collection(BaseModel):
    """What is served."""

    pictures: int
    captions: bool = Field(description="whether the pictures have captions")
    folders: dict[str, int] = Field(description="pictures by first folder, the largest few")
    examples: list[str] = Field(description="captions to try")


class Vector(BaseModel):
    """A picture that was sent, as the model sees it. The service keeps nothing of it."""

    vector: str = Field(description="float16 little-endian, base64url: `picture` of a search")


class Health(BaseModel):
    """The service answers."""

    status: str
    pictures: int


def to_text(vector: Float32[np.ndarray, "e"]) -> str:
    """A vector for an address."""
    return base64.urlsafe_b64encode(vector.astype(SENT_DTYPE).tobytes()).decode()


def from_text(text: str, width: int) -> Float32[np.ndarray, "e"]:
    """The unit vector that a client gives back; UserError where it is none of ours."""
    try:
        raw = np.frombuffer(base64.b64decode(text, b"-_", validate=True), SENT_DTYPE)
    except (binascii.Error, ValueError):
        raw = np.zeros(0)
    vector = raw.astype(np.float32)
    length = float(np.linalg.norm(vector))
    if vector.shape != (width,) or not np.isfinite(length) or not 0.5 < length < 2:
        raise UserError("`picture` is no vector of this model: send the picture again")
    return vector / np.float32(length)
