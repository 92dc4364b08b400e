# SPDX-License-Identifier: Apache-2.0
"""Pairs to batches: training in a shuffled endless order, evaluation in stored order."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grain
import numpy as np
from jaxtyping import Bool, Int

from cots_jax.batch import Batch, ImageBatch, TextBatch
from cots_jax.data.frames import drawn_offsets
from cots_jax.data.masking import blockwise_masks
from cots_jax.data.mixture import Segment
from cots_jax.data.pair_table import PairTable
from cots_jax.processes import WHOLE, Share

MASK_GROUP = 64  # rows whose masks are drawn together
ENDLESS = 2**40  # batches

Rows = TypeVar("Rows")


def training_batches(
    table: PairTable,
    batch: int,
    seed: int,
    *,
    masked: int,
    patch_side: int,
    segments: Sequence[Segment] = (),
    rows: Int[np.ndarray, "r"] | None = None,
    threads: int = 4,
) -> grain.IterDataset[Batch]:
    """An endless stream of shuffled batches: each pair once an epoch, or as sources weigh in
    `segments` (in positions of pairs), and as the table's do where none are given.

    What stands at a position, its frames included, depends on the seed and the position alone: not
    on threads, nor on `rows`, those of the global batch that this process reads (None: all).
    `iter(...)` of it has `get_state()` and `set_state()`, a JSON-able dict. masked = 0 hides no
    patches.
    """
    mine = np.arange(batch) if rows is None else rows
    order = table.order(seed, segments)

    def load(step: int) -> Batch:
        positions = step * batch + mine
        pairs = order(positions).astype(np.int32)
        masks = _masks_of_rows(seed, step, mine, masked, patch_side)
        offsets = drawn_offsets(seed, positions, table.frames) if table.frames > 1 else None
        return load_pairs(table, pairs, masks, offsets)

    return grain.MapDataset.range(ENDLESS).map(load).to_iter_dataset(_reading(threads))


def _masks_of_rows(
    seed: int, step: int, rows: Int[np.ndarray, "r"], masked: int, side: int
) -> Bool[np.ndarray, "r n"]:
    """Masks are drawn for fixed groups of rows, so that a process draws few beside its own."""
    groups, place = np.unique(rows // MASK_GROUP, return_inverse=True)
    drawn = [
        blockwise_masks(np.random.default_rng([seed, step, group]), MASK_GROUP, side, masked)
        for group in groups.tolist()
    ]
    return np.stack(drawn)[place, rows % MASK_GROUP]


def load_pairs(
    table: PairTable, pairs: np.ndarray, image_mask: np.ndarray, offsets: np.ndarray | None = None
) -> Batch:
    """The batch of these pairs; pair -1 is a padded row of weight 0.

    offsets: [b, t], of the frames within their segments; None: in the middle.
    """
    real = pairs >= 0
    found = np.where(real, pairs, np.int32(0))
    content = table.images_and_texts(found, offsets)
    rows = table.record_of_pair[found]
    group = table.group_of_record[rows]
    return Batch(
        image=content.images,
        image_mask=image_mask,
        text=content.texts.ids,
        text_length=content.texts.length,
        pair_id=pairs,
        group_id=np.where(real, group, np.int32(-1)),
        source=table.source_of_pair[found],
        weight=real.astype(np.float32),
        image_tokens=table.image_tokens(rows),
    )


def image_batches(
    table: PairTable, batch: int, threads: int = 1, share: Share = WHOLE
) -> Iterator[ImageBatch]:
    """Every record's picture once (or a share of them), in stored order; the last batch padded."""

    def load(rows: np.ndarray) -> ImageBatch:
        real = rows >= 0
        found = np.where(real, rows, np.int32(0))
        group = np.where(real, table.group_of_record[found], np.int32(-1))
        return ImageBatch(table.images(found), group, real.astype(np.float32))

    return _in_order(load, table.records, batch, threads, share)


def text_batches(
    table: PairTable, batch: int, threads: int = 1, share: Share = WHOLE
) -> Iterator[TextBatch]:
    """Every caption once (or a share of them), in pair order; the last batch is padded."""

    def load(pairs: np.ndarray) -> TextBatch:
        real = pairs >= 0
        found = np.where(real, pairs, np.int32(0))
        text = table.texts(found)
        group = table.group_of_record[table.record_of_pair[found]]
        group = np.where(real, group, np.int32(-1))
        return TextBatch(text.ids, text.length, group, real.astype(np.float32))

    return _in_order(load, table.pairs, batch, threads, share)


def paired_evaluation_batches(
    table: PairTable, batch: int, *, masked: int, patch_side: int, seed: int = 0, threads: int = 1
) -> Iterator[Batch]:
    """Each record with its first caption and a fixed mask, for losses on held-out pairs."""
    first = table.first_pairs()
    masks = blockwise_masks(np.random.default_rng(seed), len(first), patch_side, masked)

    def load(rows: np.ndarray) -> Batch:
        pairs = np.where(rows >= 0, first[np.maximum(rows, 0)], np.int32(-1))
        return load_pairs(table, pairs, masks[np.maximum(rows, 0)])

    return _in_order(load, len(first), batch, threads)


def _in_order(
    load: Callable[[np.ndarray], Rows],
    count: int,
    batch: int,
    threads: int,
    share: Share = WHOLE,
) -> Iterator[Rows]:
    """Loads rows 0..count in batches, -1 after the end, read ahead by threads."""
    padded = np.full(-(-count // batch) * batch, -1, np.int32)
    padded[:count] = np.arange(count, dtype=np.int32)
    mine = share.of(len(padded) // batch)
    if not mine:
        return iter(())
    loaded = grain.MapDataset.source(list(padded.reshape(-1, batch)[mine])).map(load)
    return iter(loaded.to_iter_dataset(_reading(threads)))


def _reading(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
