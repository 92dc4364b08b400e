# SPDX-License-Identifier: Apache-2.0
"""Each query's rank and the wrong candidate that it takes first, in one direction.

What classification and confusions need beside the ranks of metrics.py, by the same tie rule: a
wrong candidate that scores as high as the best correct one stands before it. Unlike there, a
candidate may be nobody's truth, as a class without a picture is. Scores come in tiles, so memory is
the embeddings and one tile.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from cots_jax.errors import UserError
from cots_jax.retrieval.checks import check_embeddings
from cots_jax.retrieval.tiles import TILE, Tile, TileShape, score_tile, split

_QUERY_PADDING, _CANDIDATE_PADDING = -1, -2  # never equal: padding is nobody's truth


@dataclass(frozen=True)
class Answers:
    """rank: from 1, of the best correct candidate. wrong: the row of the best wrong candidate, of
    equal ones the first; -1 where every candidate is correct."""

    rank: Int[np.ndarray, "q"]
    wrong: Int[np.ndarray, "q"]


def first_answers(
    queries: Float[np.ndarray, "q e"],
    candidates: Float[np.ndarray, "c e"],
    query_group: Int[np.ndarray, "q"],
    candidate_group: Int[np.ndarray, "c"],
    tile_shape: TileShape = TILE,
) -> Answers:
    """By dot product in float32; equal groups, from 0, are correct.

    Raises UserError for non-finite rows and queries without a correct candidate.
    """
    queries = check_embeddings(queries, "query")
    candidates = check_embeddings(candidates, "candidate")
    lonely = np.flatnonzero(~np.isin(query_group, candidate_group))
    if len(lonely):
        raise UserError(f"{len(lonely)} of {len(queries)} queries have no correct candidate")
    columns = split(candidates, candidate_group, tile_shape.columns, _CANDIDATE_PADDING)
    found = [_answer(row, columns) for row in split(queries, query_group, tile_shape.rows, -1)]
    return Answers(
        np.concatenate([answers.rank for answers in found]),
        np.concatenate([answers.wrong for answers in found]),
    )


def _answer(row: Tile, columns: list[Tile]) -> Answers:
    best = jnp.full(row.groups.shape, -jnp.inf, jnp.float32)
    for column in columns:
        scores = score_tile(row.embeddings, column.embeddings)
        best = _raise_best(scores, row.groups, column.groups, best)
    before = jnp.zeros(row.groups.shape, jnp.int32)
    wrong = _Wrong(jnp.full(row.groups.shape, -jnp.inf, jnp.float32), before - 1)
    for column in columns:
        scores = score_tile(row.embeddings, column.embeddings)
        before, *first = _judge(
            scores, row.groups, column.groups, best, before, wrong.score, wrong.index, column.start
        )
        wrong = _Wrong(*first)
    return Answers(
        1 + np.asarray(before)[: row.used].astype(np.int64),
        np.asarray(wrong.index)[: row.used].astype(np.int64),
    )


@dataclass(frozen=True)
class _Wrong:
    score: Float32[Array, "r"]
    index: Int32[Array, "r"]


@jax.jit
def _raise_best(
    scores: Float32[Array, "r c"],
    row_groups: Int32[Array, "r"],
    column_groups: Int32[Array, "c"],
    best: Float32[Array, "r"],
) -> Float32[Array, "r"]:
    correct = row_groups[:, None] == column_groups[None, :]
    return jnp.maximum(best, jnp.where(correct, scores, -jnp.inf).max(axis=1))


@jax.jit
def _judge(
    scores: Float32[Array, "r c"],
    row_groups: Int32[Array, "r"],
    column_groups: Int32[Array, "c"],
    best: Float32[Array, "r"],
    before: Int32[Array, "r"],
    wrong_score: Float32[Array, "r"],
    wrong_index: Int32[Array, "r"],
    start: int | Int32[Array, ""],
) -> tuple[Int32[Array, "r"], Float32[Array, "r"], Int32[Array, "r"]]:
    real = (column_groups != _CANDIDATE_PADDING)[None, :]
    wrong = real & (row_groups[:, None] != column_groups[None, :])
    before = before + (wrong & (scores >= best[:, None])).sum(axis=1, dtype=jnp.int32)
    masked = jnp.where(wrong, scores, -jnp.inf)
    place, score = masked.argmax(axis=1).astype(jnp.int32), masked.max(axis=1)
    raised = score > wrong_score  # earlier tiles stand first, so that the first of equals stays
    return before, jnp.maximum(score, wrong_score), jnp.where(raised, place + start, wrong_index)
