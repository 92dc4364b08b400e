# SPDX-License-Identifier: Apache-2.0
"""Is each level of interaction alive? Measured on held-out pairs (own choice of measures).

Token level: cross-entropy at masked positions with the pair's own feature and with another pair's,
against the unigram entropy of the very targets. Task level: the KL of both retrieval tasks' rows.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cots_jax.batch import Batch
from cots_jax.data.masking import TextMasking, mask_text
from cots_jax.data.transforms import normalise
from cots_jax.models.two_stream import Params, TwoStream
from cots_jax.objectives.masked import cross_entropy
from cots_jax.objectives.total import hidden_patches, partner


@dataclasses.dataclass(frozen=True)
class TokenLevel:
    """Nats a masked token on held-out pairs; all NaN where there are fewer than two to compare."""

    cross_entropy: float
    exchanged: float  # with the feature of another pair
    unigram_entropy: float  # of the targets at the masked positions
    difference: float  # exchanged - own, mean over pairs
    standard_error: float  # of that mean
    pairs: int


def word_level(
    model: TwoStream,
    towers: Params,
    heads: Params,
    masking: TextMasking,
    batches: Iterable[Batch],
    seed: int = 0,
) -> TokenLevel:
    """MLM on held-out pairs; masks are fixed by `seed`."""
    key = jax.random.key(seed)

    @jax.jit
    def losses(towers: Params, heads: Params, batch: Batch, key: Array) -> tuple[Array, ...]:
        keys = jax.random.split(key, batch.weight.shape[0])
        ratio = model.masked.text_ratio
        masked = mask_text(keys, batch.text, batch.text_length, ratio=ratio, masking=masking)
        hidden = model.encode_text(towers, masked.text, batch.text_length, masked.positions).tokens
        image = partner(model, model.encode_image(towers, _view(model, batch)))
        both = [
            cross_entropy(model.predict_words(heads, towers, hidden, p), masked.targets)
            for p in (image, _exchange(image))
        ]
        return *both, masked.targets, masked.weight

    parts = []
    for number, batch in enumerate(batches):
        placed = jax.device_put(batch)
        out = jax.device_get(losses(towers, heads, placed, jax.random.fold_in(key, number)))
        parts.append(_real(out, batch))
    return _token_level(parts)


def code_level(
    model: TwoStream, towers: Params, heads: Params, tokenize: Any, batches: Iterable[Batch]
) -> TokenLevel:
    """MVM on held-out pairs. tokenize: uint8 pictures [b t s s 3] -> code ids [b n].

    Not asked where the batches hold ids that were made ahead of time.
    """

    @jax.jit
    def losses(towers: Params, heads: Params, batch: Batch) -> tuple[Array, ...]:
        image = _view(model, batch)
        positions = hidden_patches(model, batch.image_mask)
        hidden = model.encode_image(towers, image, batch.image_mask, positions).tokens
        text = partner(model, model.encode_text(towers, batch.text, batch.text_length))
        ids = batch.image_tokens if batch.image_tokens is not None else tokenize(batch.image)
        targets = jnp.take_along_axis(ids, positions, axis=1)
        both = [
            cross_entropy(model.predict_codes(heads, hidden, p), targets)
            for p in (text, _exchange(text))
        ]
        return *both, targets, jnp.ones(targets.shape, jnp.float32)

    parts = [_real(jax.device_get(losses(towers, heads, jax.device_put(b))), b) for b in batches]
    return _token_level(parts)


def retrieval_kl(
    image: Float[np.ndarray, "n e"], text: Float[np.ndarray, "n e"], temperature: float
) -> float:
    """Mean symmetric KL in nats of the rows image-to-text and text-to-image over n pairs."""
    logits = np.asarray(image, np.float64) @ np.asarray(text, np.float64).T / temperature
    x, y = _log_softmax(logits), _log_softmax(logits.T)
    return float(np.mean(np.sum((np.exp(x) - np.exp(y)) * (x - y), axis=1)) / 2)


def _view(model: TwoStream, batch: Batch) -> Array:
    vision = model.config.vision
    return normalise(jnp.asarray(batch.image), vision.mean, vision.std)


def _exchange(feature: Array) -> Array:
    """Each row gets its neighbour's feature; neighbours are other pairs in stored order."""
    return jnp.roll(feature, 1, axis=0)


def _real(out: tuple[np.ndarray, ...], batch: Batch) -> tuple[np.ndarray, ...]:
    keep = np.asarray(batch.weight) > 0
    # The first row's neighbour may be padding: it is left out.
    keep[0] = False
    return tuple(column[keep] for column in out)


def _token_level(parts: list[tuple[np.ndarray, ...]]) -> TokenLevel:
    own, exchanged, targets, weight = (np.concatenate(column) for column in zip(*parts))
    rows = weight.sum(1) > 0
    if rows.sum() < 2:
        return TokenLevel(*[math.nan] * 5, pairs=int(rows.sum()))
    own, exchanged, targets, weight = (x[rows] for x in (own, exchanged, targets, weight))
    count = weight.sum(1)
    gap = ((exchanged - own) * weight).sum(1) / count
    used = weight > 0
    return TokenLevel(
        cross_entropy=float(own[used].mean(dtype=np.float64)),
        exchanged=float(exchanged[used].mean(dtype=np.float64)),
        unigram_entropy=entropy_of(targets[used]),
        difference=float(gap.mean(dtype=np.float64)),
        standard_error=float(gap.std(ddof=1, dtype=np.float64) / np.sqrt(len(gap))),
        pairs=len(gap),
    )


def entropy_of(ids: Int[np.ndarray, "n"]) -> float:
    """Entropy of the empirical distribution of these ids, nats."""
    p = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(-(p * np.log(p)).sum())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
