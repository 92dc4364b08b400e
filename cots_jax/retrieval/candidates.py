# SPDX-License-Identifier: Apache-2.0
"""The best few candidates of chosen queries, to be looked at in a report or a search."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

from cots_jax.errors import UserError
from cots_jax.retrieval.checks import check_embeddings
from cots_jax.retrieval.tiles import TILE, TileShape, score_tile, split

_PADDING = -1


@dataclass(frozen=True)
class TopCandidates:
    """Candidate rows and their scores, best first; equal scores in the candidates' order."""

    index: Int[np.ndarray, "q k"]
    score: Float32[np.ndarray, "q k"]


def top_candidates(
    queries: Float[np.ndarray | Array, "q e"],
    candidates: Float[np.ndarray | Array, "c e"],
    k: int,
    tile_shape: TileShape = TILE,
) -> TopCandidates:
    """The k candidates (all, where there are fewer) with the largest dot product for each query.

    Raises UserError for unlike widths, non-finite rows and k < 1.
    """
    query_rows = check_embeddings(queries, "query")
    candidate_rows = check_embeddings(candidates, "candidate")
    if query_rows.shape[1] != candidate_rows.shape[1]:
        raise UserError(
            f"queries are {query_rows.shape[1]} wide and candidates {candidate_rows.shape[1]}: "
            "they must come from the same joint space"
        )
    if k < 1:
        raise UserError(f"the number of candidates to show is {k}: use 1 or more")
    k = min(k, len(candidate_rows))
    row_tiles = split(query_rows, np.arange(len(query_rows)), tile_shape.rows, _PADDING)
    column_tiles = split(candidate_rows, np.arange(len(candidate_rows)), tile_shape.columns, -1)
    index, score = [], []
    for row in row_tiles:
        best = _Best.empty(tile_shape.rows, k)
        for column in column_tiles:
            scores = score_tile(row.embeddings, column.embeddings)
            best = _Best(*_merge(scores, column.groups, best.index, best.score, k))
        index.append(np.asarray(best.index)[: row.used])
        score.append(np.asarray(best.score)[: row.used])
    return TopCandidates(np.concatenate(index), np.concatenate(score))


@dataclass(frozen=True)
class _Best:
    index: Int32[Array, "r k"]
    score: Float32[Array, "r k"]

    @staticmethod
    def empty(rows: int, k: int) -> "_Best":
        return _Best(jnp.full((rows, k), -1), jnp.full((rows, k), -jnp.inf))


@partial(jax.jit, static_argnames="k")
def _merge(
    scores: Float32[Array, "r c"],
    column_index: Int32[Array, "c"],
    best_index: Int32[Array, "r k"],
    best_score: Float32[Array, "r k"],
    k: int,
) -> tuple[Int32[Array, "r k"], Float32[Array, "r k"]]:
    real = jnp.broadcast_to((column_index >= 0)[None, :], scores.shape)
    # earlier tiles stand first and top_k is stable, so that ties keep the candidates' order
    all_scores = jnp.concatenate([best_score, jnp.where(real, scores, -jnp.inf)], axis=1)
    columns = jnp.broadcast_to(column_index[None, :], scores.shape)
    all_index = jnp.concatenate([best_index, columns], axis=1)
    score, place = lax.top_k(all_scores, k)
    return jnp.take_along_axis(all_index, place, axis=1), score
