# SPDX-License-Identifier: Apache-2.0
"""What must hold of embeddings and their truth before anybody ranks them.

The arguments are what users hand in, so nothing about their shape is taken for granted here: each
function says what is wrong in one sentence with the numbers.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Shaped

from cots_jax.errors import UserError


@dataclass(frozen=True)
class Truth:
    """Dense group ids from 0; equal ids on both sides are correct pairs."""

    image_group: Int32[np.ndarray, "i"]
    text_group: Int32[np.ndarray, "x"]


def check_embeddings(
    embeddings: Shaped[np.ndarray | Array, "..."], kind: str
) -> Float32[np.ndarray, "n e"]:
    """The same matrix in float32, or a UserError: rank, dtype, emptiness, non-finite rows."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise UserError(
            f"{kind} embeddings have shape {list(embeddings.shape)}; give [rows, width], "
            "neither of them 0"
        )
    if not jnp.issubdtype(embeddings.dtype, jnp.floating):
        raise UserError(
            f"{kind} embeddings are {embeddings.dtype}; give floating-point numbers (float32)"
        )
    matrix = np.asarray(embeddings).astype(np.float32)
    _check_finite(matrix, kind)
    return matrix


def check_truth(
    image: Shaped[np.ndarray, "i e"],
    text: Shaped[np.ndarray, "x f"],
    image_group: Shaped[np.ndarray, "..."],
    text_group: Shaped[np.ndarray, "..."],
) -> Truth:
    """Dense group ids, or a UserError: widths, counts, dtype, queries without a correct answer."""
    if image.shape[1] != text.shape[1]:
        raise UserError(
            f"image embeddings are {image.shape[1]} wide and text embeddings {text.shape[1]}: "
            "they must come from the same joint space"
        )
    _check_groups(image_group, len(image), "image")
    _check_groups(text_group, len(text), "text")
    _check_answered(image_group, text_group, "image", "text")
    _check_answered(text_group, image_group, "text", "image")
    ids, dense = np.unique(np.concatenate([image_group, text_group]), return_inverse=True)
    if len(ids) > np.iinfo(np.int32).max:
        raise UserError(f"{len(ids)} groups are more than 32 bits can number: score fewer at once")
    dense = dense.astype(np.int32)
    return Truth(image_group=dense[: len(image)], text_group=dense[len(image) :])


def _check_finite(matrix: Float32[np.ndarray, "n e"], kind: str) -> None:
    # a row's sum is finite only where all its numbers are, short of overflow, looked at below
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(matrix.sum(axis=1)))
    bad = suspects[~np.isfinite(matrix[suspects]).all(axis=1)]
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(matrix)} {kind} embeddings are not finite (the first is row "
            f"{bad[0]}): the model diverged or an input was empty, so no recall is reported"
        )


def _check_groups(groups: Shaped[np.ndarray, "..."], rows: int, kind: str) -> None:
    if not np.issubdtype(groups.dtype, np.integer):
        raise UserError(f"{kind} group ids are {groups.dtype}; give whole numbers")
    if groups.shape != (rows,):
        raise UserError(
            f"{kind} group ids have shape {list(groups.shape)} for {rows} {kind} embeddings: "
            "give one id a row"
        )


def _check_answered(
    queries: Shaped[np.ndarray, "q"], candidates: Shaped[np.ndarray, "c"], query: str, other: str
) -> None:
    lonely = np.flatnonzero((queries < 0) | ~np.isin(queries, candidates))
    if len(lonely):
        raise UserError(
            f"{len(lonely)} of {len(queries)} {query}s have no correct {other} in the set (the "
            f"first is row {lonely[0]}, group {queries[lonely[0]]}): leave them out or add "
            f"their {other}s"
        )
