# SPDX-License-Identifier: Apache-2.0
"""Single pictures and captions to the batches that are embedded."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from cots_jax.batch import ImageBatch, TextBatch
from cots_jax.data.tokenizer import Tokenizer
from cots_jax.errors import UserError

T = TypeVar("T")


def picture_batches(
    images: Iterable[UInt8[np.ndarray, "t s s 3"]], batch: int
) -> Iterator[ImageBatch]:
    """Decoded pictures (t = 1) or videos of t frames each, in their order; the last batch is padded
    with its first row at weight 0."""
    for rows in _chunks(images, batch):
        image = _padded(np.stack(rows), batch)
        yield ImageBatch(image, _nobodys(batch), _weights(len(rows), batch))


def caption_batches(
    texts: Iterable[str], tokenizer: Tokenizer, length: int, batch: int
) -> Iterator[TextBatch]:
    """Captions in their order, padded likewise; length: tokens of a row."""
    for rows in _chunks(texts, batch):
        encoded = tokenizer.encode(rows, length)
        ids, lengths = _padded(encoded.ids, batch), _padded(encoded.length, batch)
        yield TextBatch(ids, lengths, _nobodys(batch), _weights(len(rows), batch))


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    if size < 1:
        raise UserError(f"batch={size}: embed 1 row or more at a time")
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def _padded(rows: np.ndarray, batch: int) -> np.ndarray:
    return np.concatenate([rows, np.repeat(rows[:1], batch - len(rows), axis=0)])


def _nobodys(batch: int) -> Int32[np.ndarray, "b"]:
    """Group ids of rows whose answers are not known."""
    return np.full(batch, -1, np.int32)


def _weights(rows: int, batch: int) -> Float32[np.ndarray, "b"]:
    return (np.arange(batch) < rows).astype(np.float32)
