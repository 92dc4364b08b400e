# SPDX-License-Identifier: Apache-2.0
"""Position embeddings for another grid than they were trained on."""

import enum
import math

import numpy as np

from cots_jax.errors import UserError

CUBIC = -0.75  # the free number of the cubic kernel, torch's choice


class Resize(enum.StrEnum):
    """How a source resizes its own position embeddings; neither is antialiased."""

    BICUBIC = "bicubic"  # Hugging Face and timm: torch's interpolate, centres of pixels aligned
    CORNERS = "corners"  # the JAX ViTs: bilinear, centres of the corner pixels aligned


def resized_positions(table: np.ndarray, side: int, how: Resize) -> np.ndarray:
    """[1 + n, d] for a grid of n -> [1 + side * side, d]; the first row is that of [CLS].

    Raises UserError where n is no square.
    """
    old = math.isqrt(len(table) - 1)
    if old * old != len(table) - 1:
        raise UserError(
            f"position embeddings of {len(table)} rows are no square grid behind a [CLS]: only "
            "square pictures can be resized"
        )
    if old == side:
        return table
    weights = _WEIGHTS[how](old, side)
    grid = table[1:].reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("yi,xj,ijd->yxd", weights, weights, grid)
    rows = [table[:1], grid.reshape(side * side, -1).astype(table.dtype)]
    return np.concatenate(rows)


def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old]: weights of the four nearest, the border repeated."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int)
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        at = first + offset
        np.add.at(weights, (np.arange(new), np.clip(at, 0, old - 1)), _cubic(np.abs(centre - at)))
    return weights


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel for distances 0..2."""
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return np.where(x <= 1, near, far)


def _corners(old: int, new: int) -> np.ndarray:
    at = np.linspace(0, old - 1, new)
    return np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(old)[None]))


_WEIGHTS = {Resize.BICUBIC: _bicubic, Resize.CORNERS: _corners}
