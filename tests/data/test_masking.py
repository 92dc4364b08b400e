# SPDX-License-Identifier: Apache-2.0
"""Masks are exact, block-wise, repeatable; token masking follows BERT and leaves the rest alone."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doors import fake_devices

from cots_jax.data import masking
from cots_jax.data.masking import (
    TextMasking,
    blockwise_masks,
    drop_words,
    masked_count,
    masked_positions,
    text_slots,
)
from cots_jax.errors import UserError

mask_text = jax.jit(masking.mask_text, static_argnames=("ratio", "masking"))
BERT = TextMasking(mask_id=103, vocab_size=1000, special_ids=(0, 100, 101, 102, 103))


def _blobs(mask: np.ndarray) -> int:
    """Connected parts of a square mask, counted by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = 0
    while left:
        parts += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge.extend(near)
    return parts


def _neighbours_masked(masks: np.ndarray) -> float:
    """The part of the neighbours of masked patches that are masked too."""
    pairs = [(masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])]
    both = sum(2 * np.count_nonzero(a & b) for a, b in pairs)
    one = sum(np.count_nonzero(a ^ b) for a, b in pairs)
    return both / (both + one)


@pytest.mark.parametrize(("n", "expected"), [(16, 6), (36, 14), (196, 78), (576, 230)])
def test_masked_count_is_the_rounded_ratio(n, expected):
    assert masked_count(n, 0.4) == expected


@pytest.mark.parametrize(
    ("side", "masked"),
    [(1, 0), (1, 1), (2, 3), (4, 0), (4, 1), (4, 6), (4, 16), (14, 78), (24, 230), (24, 576)],
)
def test_every_row_has_exactly_the_count(side, masked):
    masks = blockwise_masks(np.random.default_rng(0), 64, side, masked)
    assert masks.shape == (64, side * side)
    assert masks.dtype == bool
    assert (masks.sum(1) == masked).all()


def test_same_generator_same_masks():
    first, second, other = (
        blockwise_masks(np.random.default_rng(seed), 16, 14, 78) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any(1).all()


@pytest.mark.parametrize("masked", [-1, 17])
def test_impossible_counts_are_refused(masked):
    with pytest.raises(UserError, match=rf"cannot mask {masked} of 4 x 4 = 16"):
        blockwise_masks(np.random.default_rng(0), 2, 4, masked)


def test_masks_are_a_few_blocks():
    masks = blockwise_masks(np.random.default_rng(1), 200, 24, 230).reshape(-1, 24, 24)
    blobs = np.array([_blobs(mask) for mask in masks])
    assert np.isin(blobs, (1, 2, 3)).mean() > 0.97
    assert 0.88 < _neighbours_masked(masks) < 0.93
    # Scattered masks of the same size are far from that.
    scattered = np.random.default_rng(2).permuted(masks.reshape(200, -1), axis=1)
    assert _neighbours_masked(scattered.reshape(-1, 24, 24)) < 0.45


def test_every_patch_is_masked_about_as_often_as_in_blocks():
    often = blockwise_masks(np.random.default_rng(3), 4000, 14, 78).mean(0).reshape(14, 14)
    assert abs(often.mean() - 78 / 196) < 1e-9
    assert often.min() > 0.03 and often.max() < 0.75
    # No side is preferred.
    for turned in (often[::-1], often[:, ::-1], often.T):
        assert abs(often - turned).max() < 0.06


def test_single_blocks_keep_to_area_and_aspect():
    rng = np.random.default_rng(0)
    blocks = masking._random_blocks(rng, 24, 47, np.full(400, 230)).reshape(-1, 24, 24)
    blocks = blocks[blocks.any((1, 2))]
    height, width = blocks.any(2).sum(1), blocks.any(1).sum(1)
    np.testing.assert_array_equal(blocks.sum((1, 2)), height * width)
    assert (height * width).min() >= 47 * 0.85 and (height * width).max() <= 230 * 1.1
    aspect = height / width
    assert aspect.min() > 0.25 and aspect.max() < 4
    assert abs(np.log(aspect).mean()) < 0.05


def test_topping_up_takes_neighbours_only():
    masks = np.zeros((50, 8, 8), bool)
    masks[:, 3:5, 3:5] = True
    masking._top_up(np.random.default_rng(0), masks, 10)
    assert (masks.sum((1, 2)) == 10).all()
    assert all(_blobs(mask) == 1 for mask in masks)


def test_masked_positions_are_the_true_places():
    masks = blockwise_masks(np.random.default_rng(0), 32, 6, 14)
    expected = np.stack([np.flatnonzero(row) for row in masks])
    positions = jax.jit(masked_positions, static_argnums=1)(jnp.asarray(masks), 14)
    np.testing.assert_array_equal(positions, expected)


def test_rows_with_fewer_masked_places_are_filled_up_with_n():
    mask = jnp.asarray([[False, True, False, True], [False, False, False, True]])
    np.testing.assert_array_equal(masked_positions(mask, 3), [[1, 3, 4], [3, 4, 4]])


def test_equal_scores_still_choose_the_exact_number(monkeypatch):
    def tied(keys, length, facts):
        zeros = jnp.zeros((len(keys), length))
        return masking._Draws(zeros, zeros, zeros.astype(jnp.int32))

    monkeypatch.setattr(masking, "_draws", tied)
    text, lengths = _texts(30, 20)
    keys = jax.random.split(jax.random.key(0), 30)
    masked = masking.mask_text(keys, text, lengths, ratio=0.5, masking=BERT)
    wanted = [max(1, round(0.5 * n)) if n else 0 for n in np.asarray(lengths) - 2]
    np.testing.assert_array_equal(masked.weight.sum(1), wanted)


def _texts(rows: int, length: int, seed: int = 0):
    """Rows of [CLS] ordinary… [SEP] padding, all lengths from 2 up."""
    rng = np.random.default_rng(seed)
    lengths = (2 + np.arange(rows) % (length - 1)).astype(np.int32)
    text = rng.integers(104, 1000, (rows, length)).astype(np.int32)
    text[:, 0] = 101
    text[np.arange(rows), lengths - 1] = 102
    text[np.arange(length) >= lengths[:, None]] = 0
    return jnp.asarray(text), jnp.asarray(lengths)


def _mask(text, lengths, *, ratio=0.15, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(text))
    return mask_text(keys, text, lengths, ratio=ratio, masking=BERT)


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5, 1.0])
def test_counts_positions_and_targets(ratio):
    text, lengths = _texts(200, 24)
    masked = _mask(text, lengths, ratio=ratio)
    assert masked.positions.shape == (200, text_slots(24, ratio))
    before, after = np.asarray(text), np.asarray(masked.text)
    for row in range(200):
        ordinary = int(lengths[row]) - 2
        wanted = max(1, round(ratio * ordinary)) if ordinary else 0
        used = np.asarray(masked.weight[row]) > 0
        assert used.sum() == masked.weight[row].sum() == wanted
        places = np.asarray(masked.positions[row])[used]
        assert len(set(places.tolist())) == wanted
        assert (places > 0).all() and (places < lengths[row] - 1).all()
        np.testing.assert_array_equal(np.asarray(masked.targets[row])[used], before[row, places])
        untouched = np.setdiff1d(np.arange(24), places)
        np.testing.assert_array_equal(after[row, untouched], before[row, untouched])


def test_special_tokens_inside_a_text_are_left_alone():
    text = jnp.asarray([[101, 100, 100, 200, 103, 102, 0, 0]] * 64, jnp.int32)
    masked = _mask(text, jnp.full(64, 6, jnp.int32), ratio=0.5)
    np.testing.assert_array_equal(masked.weight.sum(1), np.ones(64))
    assert (np.asarray(masked.positions)[np.asarray(masked.weight) > 0] == 3).all()


def test_rows_without_ordinary_tokens_and_padded_rows_have_no_weight():
    text = jnp.asarray([[101, 102, 0, 0], [0, 0, 0, 0], [101, 7, 102, 0]], jnp.int32)
    masked = _mask(text, jnp.asarray([2, 0, 3], jnp.int32), ratio=0.5)
    np.testing.assert_array_equal(masked.weight.sum(1), [0, 0, 1])
    np.testing.assert_array_equal(masked.text[:2], text[:2])


def test_eighty_ten_ten():
    rows, length = 4000, 32
    text, _ = _texts(rows, length)
    text = text.at[:, 1:-1].set(500).at[:, -1].set(102)
    masked = _mask(text, jnp.full(rows, length, jnp.int32), ratio=0.5)
    shown = np.take_along_axis(np.asarray(masked.text), np.asarray(masked.positions), 1)
    shown = shown[np.asarray(masked.weight) > 0]
    spread = 5 / np.sqrt(shown.size)
    assert abs((shown == 103).mean() - 0.8) < 0.4 * spread
    assert abs((shown == 500).mean() - (0.1 + 0.1 / 995)) < 0.3 * spread
    drawn = shown[(shown != 103) & (shown != 500)]
    assert not np.isin(drawn, BERT.special_ids).any()
    assert drawn.min() < 20 and drawn.max() > 980
    assert abs(drawn.mean() - 505) < 5 * 290 / np.sqrt(drawn.size)


def test_every_place_is_equally_likely():
    rows, length = 8000, 12
    text, _ = _texts(rows, length)
    text = text.at[:, 1:-1].set(500).at[:, -1].set(102)
    masked = _mask(text, jnp.full(rows, length, jnp.int32), ratio=0.3)
    places = np.asarray(masked.positions)[np.asarray(masked.weight) > 0]
    counts = np.bincount(places, minlength=length)[1:-1]
    assert abs(counts / rows - 0.3).max() < 5 * np.sqrt(0.21 / rows)


def test_a_row_depends_on_its_own_key_alone():
    text, lengths = _texts(16, 20)
    keys = jax.random.split(jax.random.key(9), 16)
    whole = mask_text(keys, text, lengths, ratio=0.3, masking=BERT)
    halves = [
        mask_text(keys[part], text[part], lengths[part], ratio=0.3, masking=BERT)
        for part in (slice(0, 5), slice(5, 16))
    ]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(joined, field.name))
    other = _mask(text, lengths, ratio=0.3, seed=10)
    assert (np.asarray(other.positions) != np.asarray(whole.positions)).any()


class TestWordDropout:
    def test_the_rate_and_what_it_may_touch(self):
        text, _ = _texts(4000, 24)
        keys = jax.random.split(jax.random.key(0), len(text))
        after = np.asarray(drop_words(keys, text, 0.2, BERT))
        ordinary = ~np.isin(text, BERT.special_ids)
        dropped = after != np.asarray(text)
        assert not dropped[~ordinary].any()
        assert (after[dropped] == BERT.mask_id).all()
        spread = np.sqrt(0.2 * 0.8 / ordinary.sum())
        assert abs(dropped[ordinary].mean() - 0.2) < 5 * spread

    def test_a_row_depends_on_its_own_key_alone(self):
        text, _ = _texts(16, 24)
        keys = jax.random.split(jax.random.key(0), len(text))
        whole = drop_words(keys, text, 0.5, BERT)
        np.testing.assert_array_equal(whole[5:9], drop_words(keys[5:9], text[5:9], 0.5, BERT))


@pytest.mark.parametrize(
    ("length", "ratio", "slots"), [(80, 0.15, 12), (20, 0.15, 3), (24, 0.5, 12), (2, 0.15, 1)]
)
def test_slots_are_the_ceiling(length, ratio, slots):
    assert text_slots(length, ratio) == slots


def test_half_counts_round_as_python_does():
    text, _ = _texts(1, 40)
    text = text.at[:, 1:].set(500)
    # 0.15 * 30 = 4.5 exactly in the rule, a little more in float32.
    lengths = jnp.asarray([31], jnp.int32)
    assert _mask(text, lengths, ratio=0.15).weight.sum() == round(0.15 * 30) == 4


SPLIT_OVER_DEVICES = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cots_jax.data.masking import TextMasking, mask_text, masked_positions
from cots_jax.data.transforms import Augmentation, augment
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
settings = Augmentation(shift=0.1, crop=(0.5, 1.0), contrast=0.2, hue=0.1, flip_probability=0.5)
facts = TextMasking(mask_id=4, vocab_size=99, special_ids=(0, 1, 2, 3, 4))
keys = jax.random.split(jax.random.key(0), 16)
text, lengths = np.full((16, 12), 7, np.int32), np.full(16, 12, np.int32)
runs = {
    "augment": (lambda k, x: augment(k, x, settings, 8), keys, np.zeros((16, 1, 8, 8, 3), "uint8")),
    "mask_text": (lambda *a: mask_text(*a, ratio=0.5, masking=facts), keys, text, lengths),
    "masked_positions": (lambda mask: masked_positions(mask, 3), np.ones((16, 9), bool)),
}
for name, (function, *inputs) in runs.items():
    inputs = jax.device_put(inputs, rows)
    program = jax.jit(function, out_shardings=rows).lower(*inputs).compile().as_text()
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in program, (name, word)
print("nothing is sent")
"""


def test_rows_split_over_devices_need_no_communication():
    flags = {"XLA_FLAGS": fake_devices(8), "JAX_PLATFORMS": "cpu"}
    environment = os.environ | flags | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SPLIT_OVER_DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "nothing is sent" in done.stdout, done.stderr


class TestWholeWords:
    """Words of a text are hidden with all their pieces, or not at all."""

    CONTINUES = tuple(range(500, 1000))
    MASKING = dataclasses.replace(BERT, continues=CONTINUES)

    def texts(self, rows=64, length=24, seed=0):
        rng = np.random.default_rng(seed)
        text = rng.integers(200, 1000, (rows, length)).astype(np.int32)
        text[:, 0], text[:, 1] = 101, rng.integers(200, 500, rows)
        lengths = rng.integers(3, length + 1, rows).astype(np.int32)
        text[np.arange(rows), lengths - 1] = 102
        text[np.arange(length)[None] >= lengths[:, None]] = 0
        return jnp.asarray(text), jnp.asarray(lengths)

    def words(self, row, length):
        """Places of each word, special tokens left out."""
        found = []
        for place in range(1, length - 1):
            if row[place] in self.CONTINUES and found:
                found[-1].append(place)
            else:
                found.append([place])
        return found

    def hidden(self, ratio=0.3, masking=MASKING, seed=0):
        text, lengths = self.texts()
        keys = jax.random.split(jax.random.key(seed), len(text))
        masked = mask_text(keys, text, lengths, ratio=ratio, masking=masking)
        rows = zip(np.asarray(masked.positions), np.asarray(masked.weight) > 0)
        places = [set(p[used].tolist()) for p, used in rows]
        return np.asarray(text), np.asarray(lengths), places

    def test_a_word_is_hidden_whole_or_not_at_all(self):
        for row, length, places in zip(*self.hidden()):
            for word in self.words(row, length):
                assert len(places & set(word)) in (0, len(word))

    def test_tokens_would_be_torn_without_it(self):
        torn = sum(
            len(places & set(word)) not in (0, len(word))
            for row, length, places in zip(*self.hidden(masking=BERT))
            for word in self.words(row, length)
        )
        assert torn > 20

    def test_the_count_is_kept_but_for_a_first_word_that_is_longer(self):
        for row, length, places in zip(*self.hidden()):
            words = self.words(row, length)
            wanted = max(1, round(0.3 * (length - 2)))
            slots = text_slots(row.shape[0], 0.3)
            shortest = min(len(word) for word in words)
            taken = [word for word in words if word[0] in places]
            assert len(places) <= max(wanted, slots if len(taken) == 1 else 0)
            assert bool(places) == (shortest <= slots)
            # Whatever is left out does not fit any more.
            left = [len(word) for word in words if word[0] not in places]
            assert not left or len(places) + min(left) > wanted

    def test_every_word_has_its_turn(self):
        seen = [self.hidden(seed=seed)[2] for seed in range(60)]
        text, lengths, _ = self.hidden()
        row = int(np.argmax(lengths))
        for word in self.words(text[row], lengths[row]):
            if len(word) <= round(0.3 * (lengths[row] - 2)):
                assert any(word[0] in places[row] for places in seen)
