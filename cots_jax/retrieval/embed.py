# SPDX-License-Identifier: Apache-2.0
"""Pictures and captions to unit vectors: the one path that evaluation and search use."""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from cots_jax.axes import ONE_DEVICE
from cots_jax.batch import ImageBatch, TextBatch
from cots_jax.data.transforms import normalise
from cots_jax.models.two_stream import Params, TwoStream
from cots_jax.processes import WHOLE, Share, gather_rows

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
    with jax.sharding.use_abstract_mesh(ONE_DEVICE):  # fused attention asks for it
        return model.encode_image(towers, view).joint


@functools.partial(jax.jit, static_argnames=("model",))
def encode_texts(
    towers: Params, text: Int[Array, "b l"], length: Int[Array, "b"], model: TwoStream
) -> Float[Array, "b e"]:
    """The retrieval feature of each caption."""
    with jax.sharding.use_abstract_mesh(ONE_DEVICE):
        return model.encode_text(towers, text, length).joint


def embed_images(
    towers: Params,
    model: TwoStream,
    preprocessing: Preprocessing,
    batches: Iterable[ImageBatch],
    share: Share = WHOLE,
) -> Embedded:
    """All pictures of `batches`, which are those of a share; of all shares, to every process."""
    parts = [
        _Part(encode_images(towers, jax.device_put(b.image), model, preprocessing), b)
        for b in batches
    ]
    return _together(parts, model.config.vision.embed_dim, share)


def embed_texts(
    towers: Params, model: TwoStream, batches: Iterable[TextBatch], share: Share = WHOLE
) -> Embedded:
    """All captions of `batches`, which are those of a share; of all shares, to every process."""
    parts = [
        _Part(encode_texts(towers, *jax.device_put((b.text, b.text_length)), model), b)
        for b in batches
    ]
    return _together(parts, model.config.vision.embed_dim, share)


@dataclasses.dataclass(frozen=True)
class _Part:
    features: Array
    batch: ImageBatch | TextBatch


def _together(parts: list[_Part], width: int, share: Share) -> Embedded:
    features, groups = [np.zeros((0, width), np.float32)], [np.zeros(0, np.int32)]
    for part in parts:
        real = np.asarray(part.batch.weight) > 0
        features.append(np.asarray(jax.device_get(part.features), np.float32)[real])
        groups.append(np.asarray(part.batch.group_id, np.int32)[real])
    joined = np.concatenate(features), np.concatenate(groups)
    return Embedded(*(gather_rows(rows, share) for rows in joined))
