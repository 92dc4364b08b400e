# SPDX-License-Identifier: Apache-2.0
"""Small indexes of given vectors."""

import pathlib

import numpy as np

from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import (
    IMAGES,
    Facts,
    Row,
    Storage,
    stored,
    write_facts,
    write_part,
)


def write(
    folder: pathlib.Path, parts: list[np.ndarray], storage: Storage = Storage.FLOAT32
) -> Index:
    """An index of these vectors, a part each."""
    written, start = [], 0
    for number, vectors in enumerate(parts):
        rows = [Row(f"{start + row}.png", (f"picture {start + row}",), "s", "d")
                for row in range(len(vectors))]  # fmt: skip
        written.append(write_part(folder, number, rows, {IMAGES: stored(vectors, storage)}, {}))
        start += len(vectors)
    model = {"path": "run", "relative": "../run", "step": 1}
    images = {"kind": "folder", "path": "/photos"}
    width = parts[0].shape[1]
    write_facts(folder, Facts(images, model, {"size": 8}, width, storage, {}, tuple(written)))
    return Index.open(folder)


def integers(seed: int, *shape: int) -> np.ndarray:
    """Small whole numbers: sums are exact in any order, and ties abound."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
