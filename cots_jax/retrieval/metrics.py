# SPDX-License-Identifier: Apache-2.0
"""Retrieval ranks in both directions, ties counted against the model, and what they sum up to.

A query's rank is 1 + the number of wrong candidates that score at least as high as its best
correct one, so that a model that answers everything alike gains nothing. Right and wrong are read
from group ids: equal ids belong together, whatever their number on either side (own choice of
tie rule; most published code lets the sort's order decide).

Both directions are read from the same scores. The rows are sorted by group first, so that correct
pairs lie in the tiles along the diagonal: the first pass (best correct score) visits only those,
the second (wrong candidates that reach it) visits each tile once. Cost: one matrix product and a
little more; memory: the embeddings and one tile of scores.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from cots_jax.processes import WHOLE, Share, add_up
from cots_jax.retrieval.checks import check_embeddings, check_truth
from cots_jax.retrieval.tiles import TILE, Tile, TileShape, score_tile, split

TIE_RULE = "pessimistic"
_IMAGE_PADDING, _TEXT_PADDING = -1, -2  # never equal: padding is nobody's truth


@dataclass(frozen=True)
class Ranks:
    """Rank of each query, from 1; the best over its correct candidates."""

    image_to_text: Int[np.ndarray, "i"]
    text_to_image: Int[np.ndarray, "x"]


@dataclass(frozen=True)
class DirectionSummary:
    """Recalls in percent of the queries; ranks count from 1."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float


@dataclass(frozen=True)
class Summary:
    """Both directions; `rsum` is the sum of the six recalls (at most 600)."""

    image_to_text: DirectionSummary
    text_to_image: DirectionSummary
    rsum: float


def rank_both_ways(
    image_embeddings: Float[np.ndarray | Array, "i e"],
    text_embeddings: Float[np.ndarray | Array, "x e"],
    image_group: Int[np.ndarray | Array, "i"],
    text_group: Int[np.ndarray | Array, "x"],
    tile_shape: TileShape = TILE,
    share: Share = WHOLE,
) -> Ranks:
    """Ranks of all images among the texts and of all texts among the images, by dot product.

    Embeddings are taken as they are: normalise them first where cosine similarity is meant.
    Processes with the same embeddings can share the work: each scores its tiles of images, and all
    have all ranks in the end.
    Raises UserError for empty or unlike matrices, non-finite rows, and queries without a correct
    candidate (group id -1 is no group).
    """
    image = check_embeddings(image_embeddings, "image")
    text = check_embeddings(text_embeddings, "text")
    truth = check_truth(image, text, np.asarray(image_group), np.asarray(text_group))
    image_order = np.argsort(truth.image_group, kind="stable")
    text_order = np.argsort(truth.text_group, kind="stable")
    images = split(
        image[image_order], truth.image_group[image_order], tile_shape.rows, _IMAGE_PADDING
    )
    texts = split(text[text_order], truth.text_group[text_order], tile_shape.columns, _TEXT_PADDING)
    best = _best_correct_scores(images, texts)
    wrong = _count_wrong_in(share.of(len(images)), images, texts, best)
    return Ranks(
        image_to_text=1 + add_up(_in_input_order(wrong.rows, images, image_order), share),
        text_to_image=1 + add_up(_in_input_order(wrong.columns, texts, text_order), share),
    )


def summarise(ranks: Ranks) -> Summary:
    """R@1/5/10 in percent, median and mean rank, both ways."""
    both = [_summarise_direction(r) for r in (ranks.image_to_text, ranks.text_to_image)]
    return Summary(
        image_to_text=both[0],
        text_to_image=both[1],
        rsum=sum(d.r1 + d.r5 + d.r10 for d in both),
    )


def recall_at(ranks: Int[np.ndarray, "q"], k: int) -> float:
    """Percent of the queries with a correct candidate among the first k."""
    return 100.0 * float(np.count_nonzero(ranks <= k)) / len(ranks)


def _summarise_direction(ranks: Int[np.ndarray, "q"]) -> DirectionSummary:
    return DirectionSummary(
        r1=recall_at(ranks, 1),
        r5=recall_at(ranks, 5),
        r10=recall_at(ranks, 10),
        median_rank=float(np.median(ranks)),
        mean_rank=float(np.mean(ranks)),
    )


@dataclass(frozen=True)
class _PerTile:
    """One array for each tile of rows and for each tile of columns."""

    rows: list[Array]
    columns: list[Array]


def _best_correct_scores(images: list[Tile], texts: list[Tile]) -> _PerTile:
    best = _PerTile(
        rows=[jnp.full(t.groups.shape, -jnp.inf, jnp.float32) for t in images],
        columns=[jnp.full(t.groups.shape, -jnp.inf, jnp.float32) for t in texts],
    )
    for r, image in enumerate(images):
        for c, text in enumerate(texts):
            if image.most_group < text.least_group or text.most_group < image.least_group:
                continue
            scores = score_tile(image.embeddings, text.embeddings)
            best.rows[r], best.columns[c] = _raise_best(
                scores, image.groups, text.groups, best.rows[r], best.columns[c]
            )
    return best


def _count_wrong_in(
    share: range, images: list[Tile], texts: list[Tile], best: _PerTile
) -> _PerTile:
    """Counts in these tiles of images; zeros for the others."""
    wrong = _PerTile(
        rows=[jnp.zeros(t.groups.shape, jnp.int32) for t in images],
        columns=[jnp.zeros(t.groups.shape, jnp.int32) for t in texts],
    )
    for r in share:
        image = images[r]
        for c, text in enumerate(texts):
            wrong.rows[r], wrong.columns[c] = _count_wrong(
                score_tile(image.embeddings, text.embeddings),
                image.groups,
                text.groups,
                best.rows[r],
                best.columns[c],
                wrong.rows[r],
                wrong.columns[c],
            )
    return wrong


@jax.jit
def _raise_best(
    scores: Float32[Array, "r c"],
    row_groups: Int32[Array, "r"],
    column_groups: Int32[Array, "c"],
    best_rows: Float32[Array, "r"],
    best_columns: Float32[Array, "c"],
) -> tuple[Float32[Array, "r"], Float32[Array, "c"]]:
    correct = row_groups[:, None] == column_groups[None, :]
    masked = jnp.where(correct, scores, -jnp.inf)
    return jnp.maximum(best_rows, masked.max(axis=1)), jnp.maximum(best_columns, masked.max(axis=0))


@jax.jit
def _count_wrong(
    scores: Float32[Array, "r c"],
    row_groups: Int32[Array, "r"],
    column_groups: Int32[Array, "c"],
    best_rows: Float32[Array, "r"],
    best_columns: Float32[Array, "c"],
    wrong_rows: Int32[Array, "r"],
    wrong_columns: Int32[Array, "c"],
) -> tuple[Int32[Array, "r"], Int32[Array, "c"]]:
    wrong = row_groups[:, None] != column_groups[None, :]
    real_row = (row_groups != _IMAGE_PADDING)[:, None]
    real_column = (column_groups != _TEXT_PADDING)[None, :]
    beats_row = wrong & real_column & (scores >= best_rows[:, None])
    beats_column = wrong & real_row & (scores >= best_columns[None, :])
    return (
        wrong_rows + beats_row.sum(axis=1, dtype=jnp.int32),
        wrong_columns + beats_column.sum(axis=0, dtype=jnp.int32),
    )


def _in_input_order(
    per_tile: list[Array], tiles: list[Tile], order: Int[np.ndarray, "n"]
) -> Int32[np.ndarray, "n"]:
    result = np.empty(len(order), np.int32)
    for values, tile in zip(per_tile, tiles, strict=True):
        result[order[tile.start : tile.start + tile.used]] = np.asarray(values)[: tile.used]
    return result
