# SPDX-License-Identifier: Apache-2.0
"""What the parts of our step cost, each compiled by itself.

Their sum need not be the step's time: in one program XLA shares what two of them have in common.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.step.ours import MOMENTUM, RATE, Ours
from cots_jax.data.masking import MaskedText, mask_text
from cots_jax.data.transforms import augment, normalise
from cots_jax.models.image_tokens import picture_ids
from cots_jax.models.two_stream import TwoStream
from cots_jax.objectives.contrastive import Rows
from cots_jax.objectives.masked import masked_loss
from cots_jax.objectives.queue import Columns, enqueue, queue_columns
from cots_jax.objectives.total import (
    OBJECTIVES,
    Candidates,
    Terms,
    Tools,
    feature_losses,
    hidden_patches,
    masked_patches,
)
from cots_jax.planning.tokenizers import TokenizerShapes
from cots_jax.switches import Negatives
from cots_jax.train.state import advance


@dataclasses.dataclass(frozen=True)
class Part:
    """A compiled call and its arguments."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]

    def run(self) -> None:
        """One call, to its end."""
        jax.block_until_ready(self.call(*self.arguments))


def parts(mine: Ours, tokenizer: TokenizerShapes | None) -> dict[str, Part]:
    """The parts that a step of these objectives has."""
    found = {
        "augmentation": _augmentation(mine),
        "online towers": _online(mine),
        "momentum towers": _momentum(mine),
        "queue": _queue(mine),
        "update": _update(mine),
    }
    if "mvm" in mine.bare.active:
        found |= {"masked pictures": _masked_image(mine), "codes' head": _codes(mine)}
        if tokenizer is not None:
            found["image tokenizer"] = _tokenizer(mine, tokenizer)
    if "mlm" in mine.bare.active:
        found |= {"masked texts": _masked_text(mine), "words' head": _words(mine)}
    return found


def _pixels(mine: Ours) -> Array:
    vision = mine.bare.model.config.vision
    return jax.jit(lambda image: normalise(image, vision.mean, vision.std))(mine.batch.image)


def _gradient(loss: Callable[..., Array], *arguments: Any) -> Part:
    """Forward and backward with respect to the first argument."""
    return Part(jax.jit(jax.grad(loss)), arguments)


def _augmentation(mine: Ours) -> Part:
    bare, batch = mine.bare, mine.batch
    size = bare.model.config.vision.image_size
    keys = jax.random.split(jax.random.key(0), len(batch.weight))
    return Part(
        jax.jit(lambda k, image: augment(k, image, bare.augmentation, size)), (keys, batch.image)
    )


def _encode(model: TwoStream, towers: Any, image: Array, batch: Any) -> tuple[Array, Array]:
    seen = model.encode_image(towers, image).joint
    return seen, model.encode_text(towers, batch.text, batch.text_length).joint


def _online(mine: Ours) -> Part:
    def loss(towers: Any, image: Array, batch: Any) -> Array:
        seen, read = _encode(mine.bare.model, towers, image, batch)
        return jnp.sum(seen * read)

    return _gradient(loss, mine.state.params["towers"], _pixels(mine), mine.batch)


def _momentum(mine: Ours) -> Part:
    call = jax.jit(lambda *found: _encode(mine.bare.model, *found))
    return Part(call, (mine.state.method.momentum_params, _pixels(mine), mine.batch))


def _unit_rows(seed: int, b: int, e: int) -> Array:
    rows = jax.random.normal(jax.random.key(seed), (b, e))
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)


def _queue(mine: Ours) -> Part:
    """The instance and the task level on features, and the enqueueing."""
    bare, batch, method = mine.bare, mine.batch, mine.bare.method
    b, e = len(batch.weight), bare.model.config.vision.embed_dim
    place = jnp.arange(b)
    weights = Terms(**mine.weights)
    tools = Tools(bare.model, method, bare.active, frozenset(), lambda x: x, lambda x: x)
    keys = Rows(_unit_rows(3, b, e), _unit_rows(4, b, e), batch.group_id, place)

    own = Columns(keys.image, keys.text, batch.group_id, batch.weight > 0, place)
    pairs = Terms(**dict.fromkeys(OBJECTIVES, b))

    def loss(features: tuple[Array, Array], heads: Any, queue: Any) -> tuple[Array, Any]:
        rows = Rows(*features, batch.group_id, place)
        pieces = (queue_columns(queue),)
        if method.negatives is Negatives.QUEUE_AND_BATCH:
            pieces = *pieces, own
        candidates = Candidates(keys, pieces)
        found = feature_losses(heads, tools, rows, batch.weight, candidates, weights, pairs)
        filled = enqueue(
            queue, keys.image, keys.text, batch.group_id, own.valid, length=method.queue_length
        )
        return found.total, filled

    features = (_unit_rows(1, b, e), _unit_rows(2, b, e))
    call = jax.jit(jax.grad(loss, has_aux=True))
    return Part(call, (features, mine.state.params["heads"], mine.state.method.queue))


def _update(mine: Ours) -> Part:
    """Optimizer and momentum."""
    bare = mine.bare

    def update(state: Any, grads: Any) -> Any:
        new = advance(state, grads, jnp.float32(RATE), bare.optimizer, state.step >= 0)
        old = state.method.momentum_params
        kept = jax.tree.map(
            lambda m, p: MOMENTUM * m + (1 - MOMENTUM) * p, old, new.params["towers"]
        )
        return new.params, new.opt_state, kept

    return Part(jax.jit(update), (mine.state, jax.tree.map(jnp.ones_like, mine.state.params)))


def _masked_image(mine: Ours) -> Part:
    model, every = mine.bare.model, mine.bare.model.masked.image_every

    def loss(towers: Any, image: Array, mask: Array) -> Array:
        positions = hidden_patches(model, mask)
        return jnp.sum(model.encode_image(towers, image, mask, positions).tokens)

    batch = mine.batch
    return _gradient(
        loss, mine.state.params["towers"], _pixels(mine)[::every], batch.image_mask[::every]
    )


def _hidden(mine: Ours) -> MaskedText:
    bare, every = mine.bare, mine.bare.model.masked.text_every
    text, length = mine.batch.text[::every], mine.batch.text_length[::every]
    keys = jax.random.split(jax.random.key(0), len(text))
    ratio = bare.method.masked.text_ratio
    return mask_text(keys, text, length, ratio=ratio, masking=bare.masking)


def _masked_text(mine: Ours) -> Part:
    model, hidden = mine.bare.model, _hidden(mine)
    length = mine.batch.text_length[:: model.masked.text_every]

    def loss(towers: Any, text: Array, length: Array, positions: Array) -> Array:
        return jnp.sum(model.encode_text(towers, text, length, positions).tokens)

    towers = mine.state.params["towers"]
    return _gradient(loss, towers, hidden.text, length, hidden.positions)


def _codes(mine: Ours) -> Part:
    model = mine.bare.model
    rows = len(mine.batch.image_mask[:: model.masked.image_every])
    hidden = jnp.ones((rows, masked_patches(model), model.config.vision.transformer.width))

    def predict(heads: Any, _: Any, hidden: Array, partner: Array) -> Array:
        return model.predict_codes(heads, hidden, partner)

    return _head(predict, mine.state.params, hidden, model.config.text.transformer.width)


def _words(mine: Ours) -> Part:
    model, hidden = mine.bare.model, _hidden(mine)
    outputs = jnp.ones((*hidden.positions.shape, model.config.text.transformer.width))
    width = model.config.vision.transformer.width
    return _head(model.predict_words, mine.state.params, outputs, width)


def _head(predict: Callable[..., Array], params: Any, hidden: Array, width: int) -> Part:
    """On the outputs at the masked positions."""
    rows, m = hidden.shape[:2]

    def loss(inputs: tuple[Any, Any, Array, Array]) -> Array:
        logits = predict(*inputs)
        return masked_loss(logits, jnp.zeros((rows, m), jnp.int32), jnp.ones((rows, m))).total

    words = {"text": {"token_embedding": params["towers"]["text"]["token_embedding"]}}
    return _gradient(loss, (params["heads"], words, hidden, jnp.ones((rows, width))))


def _tokenizer(mine: Ours, shapes: TokenizerShapes) -> Part:
    size = shapes.config.image_size
    rows = len(mine.batch.image[:: mine.bare.model.masked.image_every])
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes.params)
    pixels = jnp.full((rows, size, size, 3), 0.5)
    return Part(jax.jit(lambda p, x: picture_ids(shapes.config, p, x, 1)), (params, pixels))
