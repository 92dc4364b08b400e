# SPDX-License-Identifier: Apache-2.0
"""Which image patches and which text tokens are hidden from the masked passes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Key

from cots_jax.errors import UserError

SMALLEST_BLOCK = 16 / 196  # of the patches; BEiT's 16 of 14 x 14
LOWEST_ASPECT = 0.3  # height over width, log-uniform up to its inverse; BEiT
ATTEMPTS = 10  # blocks tried in a row without success before a mask is topped up; BEiT

KEEP_MASK_TOKEN = 0.8  # of the chosen tokens become [MASK]; BERT
REPLACE_RANDOM = 0.1  # become any ordinary token; the rest stay as they are


def masked_count(n: int, ratio: float) -> int:
    """The number of patches that a ratio means, the same for every image."""
    return round(ratio * n)


def blockwise_masks(
    rng: np.random.Generator, batch: int, side: int, masked: int
) -> Bool[np.ndarray, "b n"]:
    """Block-wise masks with exactly `masked` of side x side patches True in every row.

    Blocks as in BEiT, of at least 16/196 of the patches; what the blocks leave short is topped
    up by neighbours of masked patches (own choice: BEiT leaves it short).
    """
    patches = side * side
    if not 0 <= masked <= patches:
        raise UserError(f"cannot mask {masked} of {side} x {side} = {patches} patches")
    masks = np.zeros((batch, side, side), bool)
    _draw_blocks(rng, masks, masked)
    _top_up(rng, masks, masked)
    return masks.reshape(batch, patches)


def _draw_blocks(rng: np.random.Generator, masks: np.ndarray, masked: int) -> None:
    """Adds random rectangles to all rows at once until none fits any more."""
    side = masks.shape[1]
    smallest = max(1, round(SMALLEST_BLOCK * side * side))
    missing = np.full(len(masks), masked)
    open_ = np.ones(len(masks), bool)
    while (rows := np.flatnonzero(open_ & (missing >= smallest))).size:
        blocks = _random_blocks(rng, side, smallest, missing[rows])
        blocks &= ~masks[rows, None]
        added = np.count_nonzero(blocks, axis=(2, 3))
        good = (added > 0) & (added <= missing[rows, None])
        row, first = np.arange(rows.size), good.argmax(axis=1)
        fits = open_[rows] = good[row, first]
        masks[rows[fits]] |= blocks[row, first][fits]
        missing[rows] -= np.where(fits, added[row, first], 0)


def _random_blocks(
    rng: np.random.Generator, side: int, smallest: int, largest: np.ndarray
) -> np.ndarray:
    """[row, attempt, side, side]: rectangles of an area uniform in smallest..largest.

    Empty where the rectangle is longer than the picture.
    """
    draws = rng.random((4, len(largest), ATTEMPTS))
    area = smallest + (largest[:, None] - smallest) * draws[0]
    aspect = np.exp((2 * draws[1] - 1) * math.log(1 / LOWEST_ASPECT))
    height = np.rint(np.sqrt(area * aspect))
    width = np.rint(np.sqrt(area / aspect))
    fits = (height <= side) & (width <= side)
    down = _stripe(draws[2], np.where(fits, height, 0), side)
    across = _stripe(draws[3], np.where(fits, width, 0), side)
    return down[..., :, None] & across[..., None, :]


def _stripe(draw: np.ndarray, extent: np.ndarray, side: int) -> np.ndarray:
    start = np.floor(draw * (side - extent + 1))[..., None]
    line = np.arange(side)
    return (line >= start) & (line < start + extent[..., None])


def _top_up(rng: np.random.Generator, masks: np.ndarray, masked: int) -> None:
    """Adds random neighbours of masked patches, ring by ring, until every row is exact."""
    batch, side, _ = masks.shape
    flat = masks.reshape(batch, -1)
    missing = masked - np.count_nonzero(flat, axis=1)
    while (rows := np.flatnonzero(missing)).size:
        # A free patch scores 0..1, a free neighbour of a masked one 1..2: neighbours go first,
        # and a row without any masked patch starts anywhere.
        score = rng.random((len(rows), side * side))
        score += _next_to_masked(masks[rows]).reshape(len(rows), -1)
        score[flat[rows]] = -1
        ring = np.count_nonzero(score >= 1, axis=1)
        take = np.minimum(missing[rows], np.maximum(ring, 1))
        order = np.argsort(-score, axis=1)
        chosen = np.zeros_like(flat[rows])
        np.put_along_axis(chosen, order, np.arange(side * side) < take[:, None], axis=1)
        flat[rows] |= chosen
        missing[rows] -= take


def _next_to_masked(masks: np.ndarray) -> np.ndarray:
    near = np.zeros_like(masks)
    near[:, 1:] |= masks[:, :-1]
    near[:, :-1] |= masks[:, 1:]
    near[:, :, 1:] |= masks[:, :, :-1]
    near[:, :, :-1] |= masks[:, :, 1:]
    return near


def masked_positions(mask: Bool[Array, "b n"], m: int) -> Int32[Array, "b m"]:
    """The m masked positions of each row in rising order; n fills up rows that hold fewer.

    A plain sort, because top_k makes XLA gather a batch that is split over devices.
    """
    n = mask.shape[1]
    places = jnp.where(mask, jnp.arange(n, dtype=jnp.int32)[None], n)
    return jax.lax.sort(places, dimension=1)[:, :m]


@dataclasses.dataclass(frozen=True)
class TextMasking:
    """What token masking must know of a tokenizer."""

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...]  # never chosen, never drawn as a replacement
    continues: tuple[int, ...] = ()  # pieces that continue a word; set: words are hidden whole


@dataclasses.dataclass(frozen=True)
class MaskedText:
    """A text with hidden tokens; the slots beyond a row's own count have weight 0."""

    text: Int32[Array, "*b l"]
    positions: Int32[Array, "*b m"]
    targets: Int32[Array, "*b m"]
    weight: Float32[Array, "*b m"]


jax.tree_util.register_dataclass(
    MaskedText, data_fields=["text", "positions", "targets", "weight"], meta_fields=[]
)


def text_slots(length: int, ratio: float) -> int:
    """m: the slots for masked tokens in a text of `length` tokens, ceil(ratio * length)."""
    return max(1, math.ceil(ratio * length - 1e-9))


def mask_text(
    keys: Key[Array, "b"],
    text: Int32[Array, "b l"],
    text_length: Int32[Array, "b"],
    *,
    ratio: float,
    masking: TextMasking,
) -> MaskedText:
    """Hides round(ratio * ordinary tokens) of each row, at least one where there is one (BERT).

    80 % become [MASK], 10 % a random ordinary token, 10 % stay. Where `masking.continues` is set,
    words are hidden with all their pieces: in random order each that still fits (whole-word
    masking, Google's BERT), at first one that fits into the slots (own choice). Row i depends on
    keys[i] alone, so that splitting the batch changes nothing.
    """
    length = text.shape[1]
    slots = text_slots(length, ratio)
    # A table in float64: float32 products round 4.5 up or down by accident.
    counts = [min(slots, max(1, round(ratio * n))) if n else 0 for n in range(length + 1)]
    table = jnp.asarray(counts, jnp.int32)
    maskable = jnp.arange(length)[None] < text_length[:, None]
    for special in masking.special_ids:
        maskable &= text != special
    draws = _draws(keys, length, masking)
    score = jnp.where(maskable, draws.score, -1.0)
    if masking.continues:
        word, wanted = _words(text, maskable, masking.continues), table[maskable.sum(axis=1)]
        chosen = maskable & _whole_words(word, score, wanted, slots)
    else:
        rank = _rank(score)
        chosen = maskable & (rank < table[maskable.sum(axis=1)][:, None])
    shown = jnp.where(draws.kind < KEEP_MASK_TOKEN + REPLACE_RANDOM, draws.token, text)
    shown = jnp.where(draws.kind < KEEP_MASK_TOKEN, masking.mask_id, shown)
    positions = masked_positions(chosen, slots)
    used = positions < length
    positions = jnp.where(used, positions, 0)
    targets = jnp.where(used, jnp.take_along_axis(text, positions, axis=1), 0)
    masked = jnp.where(chosen, shown, text)
    return MaskedText(masked, positions, targets, used.astype(jnp.float32))


def drop_words(
    keys: Key[Array, "b"],
    text: Int32[Array, "b l"],
    rate: float,
    masking: TextMasking,
) -> Int32[Array, "b l"]:
    """Puts [MASK] in the place of each ordinary token with probability `rate`.

    Word dropout (Iyyer et al., 2015) that keeps the places (own choice). Row i depends on keys[i]
    alone.
    """

    def drop(key: Array, row: Array) -> Array:
        dropped = jax.random.uniform(key, row.shape, jnp.float32) < rate
        for special in masking.special_ids:
            dropped &= row != special
        return jnp.where(dropped, masking.mask_id, row)

    return jax.vmap(drop)(keys, text)


def _words(text: Array, maskable: Array, continues: tuple[int, ...]) -> Array:
    """[b, l]: the place at which each token's word begins."""
    place = jnp.arange(text.shape[1])
    after = jnp.isin(text, jnp.asarray(continues, text.dtype)) & maskable
    # A continuation after a special token begins a word: what it continues was cut off.
    after &= jnp.pad(maskable, ((0, 0), (1, 0)))[:, :-1]
    return jax.lax.cummax(jnp.where(after, 0, place[None]), axis=1)


def _whole_words(word: Array, score: Array, wanted: Array, slots: int) -> Array:
    """[b, l]: the tokens of the words that are taken; a word's score is that of its beginning."""
    begins = word == jnp.arange(word.shape[1])[None]
    ordinary = score >= 0
    size = jnp.sum((word[:, None, :] == jnp.arange(word.shape[1])[None, :, None]), axis=-1)
    order = jnp.argsort(-jnp.where(begins & ordinary, score, -1.0), axis=1)
    rows = jnp.arange(len(word))

    def take(used: Array, place: Array) -> tuple[Array, Array]:
        more = size[rows, place]
        fits = (used + more <= wanted) | ((used == 0) & (more <= slots))
        fits &= (begins & ordinary)[rows, place]
        return used + jnp.where(fits, more, 0), fits

    _, taken = jax.lax.scan(take, jnp.zeros_like(wanted), order.T)
    by_place = jnp.zeros(word.shape, bool).at[rows[:, None], order].set(taken.T)
    return jnp.take_along_axis(by_place, word, axis=1)


def _rank(score: Array) -> Array:
    """How many of a row's scores come first, for each; equal scores in order of place."""
    place = jnp.arange(score.shape[1])
    mine, other = score[:, :, None], score[:, None, :]
    first = (other > mine) | ((other == mine) & (place[None, :] < place[:, None])[None])
    return first.sum(axis=-1, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Draws:
    """Random numbers for every token: who is chosen, what becomes of it, which token is drawn."""

    score: Array
    kind: Array
    token: Array


def _draws(keys: Array, length: int, masking: TextMasking) -> _Draws:
    def draw(key: Array) -> _Draws:
        score_key, kind_key, token_key = jax.random.split(key, 3)
        return _Draws(
            jax.random.uniform(score_key, (length,)),
            jax.random.uniform(kind_key, (length,)),
            _ordinary_tokens(token_key, length, masking),
        )

    return jax.vmap(draw)(keys)


def _ordinary_tokens(key: Array, count: int, masking: TextMasking) -> Array:
    """Uniform over the vocabulary without the special tokens."""
    specials = sorted(set(masking.special_ids))
    ids = jax.random.randint(key, (count,), 0, masking.vocab_size - len(specials), jnp.int32)
    for special in specials:
        ids += ids >= special
    return ids
