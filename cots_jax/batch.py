# SPDX-License-Identifier: Apache-2.0
"""The batches that data makes and everything else reads.

Shapes are static: a short batch is padded and its padded rows carry weight 0. Fields that hold
ids are int32, because JAX cuts wider integers to 32 bits without a word.
"""

from typing import TYPE_CHECKING, Any

import flax.struct
from jaxtyping import Array, Bool, Float32, Int32, UInt8
from numpy import ndarray

if TYPE_CHECKING:
    AnyArray = Any  # a batch moves from host to device; types do not follow it there
else:
    AnyArray = Array | ndarray


@flax.struct.dataclass
class Batch:
    """A training batch of b (image, caption) pairs. Letters: docs/method.md, Notation."""

    image: UInt8[AnyArray, "b t s s 3"]  # t = 1 for pictures; normalised on the device
    image_mask: Bool[AnyArray, "b n"]  # patches hidden from the masked image pass
    text: Int32[AnyArray, "b l"]  # [CLS] … [SEP] then padding
    text_length: Int32[AnyArray, "b"]  # tokens before the padding
    pair_id: Int32[AnyArray, "b"]  # dense; -1 none
    group_id: Int32[AnyArray, "b"]  # equal ids are never negatives; -1 none
    source: Int32[AnyArray, "b"]  # which data source the row came from
    weight: Float32[AnyArray, "b"]  # 0 for padding
    image_tokens: Int32[AnyArray, "b n"] | None = None  # ids made ahead of time


@flax.struct.dataclass
class ImageBatch:
    """Pictures alone, for evaluation and search."""

    image: UInt8[AnyArray, "b t s s 3"]
    group_id: Int32[AnyArray, "b"]
    weight: Float32[AnyArray, "b"]


@flax.struct.dataclass
class TextBatch:
    """Captions alone, for evaluation and search."""

    text: Int32[AnyArray, "b l"]
    text_length: Int32[AnyArray, "b"]
    group_id: Int32[AnyArray, "b"]
    weight: Float32[AnyArray, "b"]
