# SPDX-License-Identifier: Apache-2.0
"""The two functions of a model that others run: pictures and token ids to unit vectors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from cots_jax.data.transforms import normalise
from cots_jax.models.two_stream import TwoStream, size_of
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.embed import Preprocessing
from cots_jax.schema import HardwareConfig
from cots_jax.weights.mapping import flat, nested

Weights = Mapping[str, Array]  # by their paths, as in model.safetensors


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function that leaves: of its own tower's weights first, then of arrays by name."""

    function: Callable[..., Array]
    weights: dict[str, np.ndarray]
    inputs: dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Functions:
    """Both towers in float32, attention written out, nothing of the training in them."""

    model: TwoStream
    preprocessing: Preprocessing
    length: int  # tokens of a text, padding included

    @classmethod
    def of(cls, opened: Pretrained) -> "Functions":
        """In float32 and unrolled, whatever the model was trained in."""
        config = opened.config
        words = opened.tokenizer.vocab_size
        # The defaults of a hardware row are float32 at the highest precision, unrolled.
        size = size_of(dataclasses.replace(config, hardware=HardwareConfig()), words)
        model = TwoStream(size, config.method.masked)
        return cls(model, opened.preprocessing, config.data.text_length)

    def image(self, weights: Weights, image: UInt8[Array, "b s s 3"]) -> Float[Array, "b e"]:
        """Unit vectors of pictures of the tower's size; colours are normalised within."""
        how = self.preprocessing
        view = normalise(image[:, None], how.mean, how.std)
        return self.model.encode_image(nested(weights), view).joint

    def text(
        self, weights: Weights, text: Int32[Array, "b l"], text_length: Int32[Array, "b"]
    ) -> Float[Array, "b e"]:
        """Unit vectors of captions.

        text: ids, padded behind. text_length: tokens before the padding, [CLS] and [SEP] counted;
        what stands behind them is never attended to and may be any id.
        """
        return self.model.encode_text(nested(weights), text, text_length).joint

    def signatures(self, towers: Mapping[str, Any], rows: Any) -> dict[str, Signature]:
        """Both functions by name, with what they take for so many rows (a symbolic number too)."""
        side, kept = self.preprocessing.size, jax.device_get(towers)
        leaves = {path: np.asarray(leaf, np.float32) for path, leaf in flat(kept).items()}
        inputs = {
            "image": {"image": jax.ShapeDtypeStruct((rows, side, side, 3), jnp.uint8)},
            "text": {
                "text": jax.ShapeDtypeStruct((rows, self.length), jnp.int32),
                "text_length": jax.ShapeDtypeStruct((rows,), jnp.int32),
            },
        }
        return {
            name: Signature(
                getattr(self, name),
                {path: leaf for path, leaf in leaves.items() if path.startswith(f"{name}/")},
                inputs[name],
            )
            for name in inputs
        }
