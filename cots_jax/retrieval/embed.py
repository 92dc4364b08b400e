# SPDX-License-Identifier: Apache-2.0
"""Pictures and captions to unit vectors: the one path that evaluation and search use."""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from cots_jax.batch import ImageBatch, TextBatch
from cots_jax.data.transforms import normalise
from cots_jax.models.two_stream import Params, TwoStream

EMBED_BATCH = 128  # rows at a time; part of the numbers' identity, as matmuls round by shape


def embedded_rows(frames: int) -> int:
    """Rows at a time of videos with so many frames each: as many pictures as ever, so that memory
    does not grow with them."""
    return max(1, EMBED_BATCH // frames)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How pictures become tower inputs; kept in the checkpoint."""

    size: int  # pixels a side
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Unit vectors in stored order, padding left out."""

    features: Float32[np.ndarray, "n e"]
    group_id: Int32[np.ndarray, "n"]


@functools.partial(jax.jit, static_argnames=("model", "preprocessing"))
def encode_images(
    towers: Params,
    image: UInt8[Array, "b t s s 3"],
    model: TwoStream,
    preprocessing: Preprocessing,
) -> Float[Array, "b e"]:
    """The retrieval feature of each picture."""
    view = normalise(image, preprocessing.mean, preprocessing.std, preprocessing.size)
    return model.encode_image(towers, view).joint


@functools.partial(jax.jit, static_argnames=("model",))
def encode_texts(
    towers: Params, text: Int[Array, "b l"], length: Int[Array, "b"], model: TwoStream
) -> Float[Array, "b e"]:
    """The retrieval feature of each caption."""
    return model.encode_text(towers, text, length).joint


def embed_images(
    towers: Params, model: TwoStream, preprocessing: Preprocessing, batches: Iterable[ImageBatch]
) -> Embedded:
    """All pictures of `batches`."""
    parts = [
        _Part(encode_images(towers, jax.device_put(b.image), model, preprocessing), b)
        for b in batches
    ]
    return _together(parts)


def embed_texts(towers: Params, model: TwoStream, batches: Iterable[TextBatch]) -> Embedded:
    """All captions of `batches`."""
    parts = [
        _Part(encode_texts(towers, *jax.device_put((b.text, b.text_length)), model), b)
        for b in batches
    ]
    return _together(parts)


@dataclasses.dataclass(frozen=True)
class _Part:
    features: Array
    batch: ImageBatch | TextBatch


def _together(parts: list[_Part]) -> Embedded:
    real = [np.asarray(part.batch.weight) > 0 for part in parts]
    features = [np.asarray(jax.device_get(p.features))[r] for p, r in zip(parts, real)]
    groups = [np.asarray(p.batch.group_id)[r] for p, r in zip(parts, real)]
    return Embedded(np.concatenate(features).astype(np.float32), np.concatenate(groups))
