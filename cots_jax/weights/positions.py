# SPDX-License-Identifier: Apache-2.0
"""Position embeddings for another grid than they were trained on."""

import enum
import math

import numpy as np

from cots_jax.errors import UserError

# The free number of the cubic kernel in torch: without and with antialiasing.
CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5


class Resize(enum.StrEnum):
    """How a source resizes its own position embeddings."""

    BICUBIC = "bicubic"  # Hugging Face: torch's interpolate, centres of pixels aligned
    ANTIALIASED = "antialiased"  # timm: torch's interpolate with `antialias`, of Pillow's kernel
    CORNERS = "corners"  # the JAX ViTs: bilinear, centres of the corner pixels aligned


def resized_positions(table: np.ndarray, side: int, how: Resize) -> np.ndarray:
    """[1 + n, d] for a grid of n -> [1 + side * side, d]; the first row is that of [CLS].

    Raises UserError where n is no square.
    """
    old = math.isqrt(max(len(table) - 1, 0))
    if not old or old * old != len(table) - 1:
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
        share = _cubic(np.abs(centre - at), CUBIC)
        np.add.at(weights, (np.arange(new), np.clip(at, 0, old - 1)), share)
    return weights


def _antialiased(old: int, new: int) -> np.ndarray:
    """[new, old]: the kernel as wide as a cell of the coarser grid, cut at the border."""
    scale = max(old / new, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * old / new
    weights = _cubic(np.abs(np.arange(old) + 0.5 - centre) / scale, CUBIC_ANTIALIASED)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel for distances x; 0 from 2 on."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _corners(old: int, new: int) -> np.ndarray:
    at = np.linspace(0, old - 1, new)
    return np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(old)[None]))


_WEIGHTS = {
    Resize.BICUBIC: _bicubic,
    Resize.ANTIALIASED: _antialiased,
    Resize.CORNERS: _corners,
}
