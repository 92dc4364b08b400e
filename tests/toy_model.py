# SPDX-License-Identifier: Apache-2.0
"""A two-stream model of a few matrix products, for tests of what is built around the towers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cots_jax.batch import Batch
from cots_jax.models.text import TextConfig
from cots_jax.models.transformer import TransformerConfig
from cots_jax.models.two_stream import TwoStream, TwoStreamConfig
from cots_jax.models.vision import Encoded, VisionConfig, patches, unit
from cots_jax.schema import MaskedConfig
from cots_jax.switches import Condition

SIDE, PATCH, WIDTH, EMBED = 8, 2, 6, 5  # 16 patches
CODES, WORDS, LENGTH = 7, 20, 6
SPECIAL = (0, 1, 2, 3, 4)  # [PAD] [UNK] [CLS] [SEP] [MASK]
STACK = TransformerConfig(1, WIDTH, 1, WIDTH)
SHAPE = TwoStreamConfig(
    VisionConfig(SIDE, PATCH, STACK, EMBED),
    TextConfig(STACK, positions=LENGTH, vocabulary=WORDS, embed_dim=EMBED),
)


class ToyTwoStream(TwoStream):
    """The heads are the real ones; each tower is one layer that mixes its tokens."""

    def encode_image(self, towers, image, mask=None, positions=None):
        p = towers["image"]
        x = patches(image[:, 0], PATCH) @ p["embedding"]
        if mask is not None:
            x = jnp.where(mask[:, :, None], p["mask_embedding"][None, None], x)
        x = x + p["position_embedding"][None]
        x = jnp.tanh(x + x.mean(axis=1, keepdims=True))
        cls = x.mean(axis=1)
        return Encoded(_at(x, positions), cls, unit(cls @ p["projection"]))

    def encode_text(self, towers, text, length, positions=None):
        p = towers["text"]
        seen = (jnp.arange(text.shape[1])[None] < length[:, None])[:, :, None]
        x = jnp.where(seen, p["token_embedding"][text] + p["position_embedding"][None], 0)
        x = jnp.tanh(x + x.mean(axis=1, keepdims=True))
        return Encoded(_at(x, positions), x[:, 0], unit(x[:, 0] @ p["projection"]))


def _at(x, positions):
    if positions is None:
        return x[:, :0]
    return jnp.take_along_axis(x, positions[:, :, None], axis=1)


def everywhere(rows, tokens):
    """Positions that ask for the outputs at all tokens."""
    return jnp.tile(jnp.arange(tokens), (rows, 1))


def toy_model(masked=None, heads=("mvm", "mlm")) -> ToyTwoStream:
    return ToyTwoStream(SHAPE, masked or half_masked(), CODES, frozenset(heads))


def random_towers(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {
        "image": {
            "embedding": (3 * PATCH**2, WIDTH),
            "mask_embedding": (WIDTH,),
            "position_embedding": ((SIDE // PATCH) ** 2, WIDTH),
            "projection": (WIDTH, EMBED),
        },
        "text": {
            "token_embedding": (WORDS, WIDTH),
            "position_embedding": (LENGTH, WIDTH),
            "projection": (WIDTH, EMBED),
        },
    }
    return random_like(shapes, rng, dtype)


def random_heads(seed, model, dtype=np.float64):
    """Each head has draws of its own, so that a switch of one does not change the other's."""
    shapes = jax.eval_shape(model.init_heads, jax.random.key(0))
    return {
        name: random_like(
            jax.tree.map(lambda leaf: leaf.shape, head), np.random.default_rng(seed), dtype
        )
        for name, head in shapes.items()
    }


def random_like(shapes, rng, dtype):
    def draw(shape):
        return rng.normal(0, 0.5, shape).astype(dtype)

    return jax.tree.map(draw, shapes, is_leaf=lambda node: isinstance(node, tuple))


def random_batch(seed, b, tokens=True) -> Batch:
    """Texts of various lengths, groups with doubles and -1, exactly half of the patches masked."""
    rng = np.random.default_rng(seed)
    n = (SIDE // PATCH) ** 2
    length = rng.integers(3, LENGTH + 1, b).astype(np.int32)
    text = rng.integers(5, WORDS, (b, LENGTH)).astype(np.int32)
    text[:, 0] = 2
    text[np.arange(b), length - 1] = 3
    text[np.arange(LENGTH)[None] >= length[:, None]] = 0
    group = rng.integers(-1, b, b).astype(np.int32)
    group[-1] = group[0] = 0
    return Batch(
        image=rng.integers(0, 256, (b, 1, SIDE, SIDE, 3)).astype(np.uint8),
        image_mask=rng.permuted(np.tile(np.arange(n) < n // 2, (b, 1)), axis=1),
        text=text,
        text_length=length,
        pair_id=np.arange(b, dtype=np.int32),
        group_id=group,
        source=(np.arange(b) % 2).astype(np.int32),
        weight=np.ones(b, np.float32),
        image_tokens=rng.integers(0, CODES, (b, n)).astype(np.int32) if tokens else None,
    )


def changed(batch: Batch, **fields) -> Batch:
    """The batch with other fields; a function is given the field's copy to change in place."""
    new = {}
    for name, value in fields.items():
        if callable(value):
            copy = np.array(getattr(batch, name))
            value(copy)
            value = copy
        new[name] = value
    return dataclasses.replace(batch, **new)


def half_masked(**switches) -> MaskedConfig:
    """Masks that fit `random_batch`."""
    return MaskedConfig(**{"image_ratio": 0.5, "text_ratio": 0.5, **switches})


def partner_width(masked: MaskedConfig) -> int:
    return EMBED if masked.condition is Condition.JOINT else WIDTH
