# SPDX-License-Identifier: Apache-2.0
"""Indexes without a model: a stub that embeds by the mean colours of four bands."""

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Encoder, Maker, Updated, update
from cots_jax.retrieval.index_files import (
    IMAGES,
    TEXTS,
    Storage,
    part_rows,
    part_vectors,
    read_facts,
)

SIZE, PART = 16, 4  # pixels a side; rows of a part


def save_picture(path: pathlib.Path, seed: int) -> None:
    """Noise in large cells, another for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(cells.repeat(8, 0).repeat(8, 1)).save(path)


@dataclasses.dataclass
class Stub:
    """Counts what it embeds; stops after `fail_after` pictures, or takes its time."""

    identity: dict[str, object] = dataclasses.field(
        default_factory=lambda: {"step": 1, "checkpoint": "a"}
    )
    loads: int = 0
    embedded: int = 0
    fail_after: int | None = None
    seconds: float = 0.0  # a batch

    def maker(self, storage: Storage = Storage.FLOAT32) -> Maker:
        return Maker(pathlib.Path("run"), self.identity, {"size": SIZE}, storage, self._load)

    def _load(self) -> Encoder:
        self.loads += 1
        return Encoder(self._images, self._texts)

    def _images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        time.sleep(self.seconds)
        self.embedded += len(images)
        if self.fail_after is not None and self.embedded > self.fail_after:
            raise KeyboardInterrupt
        return _unit([image[0].reshape(4, -1, 3).mean(1).ravel() + 1 for image in images])

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        return _unit([np.random.default_rng(list(t.encode())).standard_normal(12) for t in texts])


def build(
    images: pathlib.Path | str, out: pathlib.Path, stub: Stub, size: int = PART, **more
) -> Updated:
    with open_source(str(images), out) as source:
        return update(out, source, stub.maker(**more), size)


@dataclasses.dataclass(frozen=True)
class Held:
    """What an index holds, without its order: by name the captions and vectors as bytes."""

    rows: dict[str, tuple[object, ...]]
    skipped: dict[str, int]


def held(out: pathlib.Path) -> Held:
    facts = read_facts(out)
    rows: dict[str, tuple[object, ...]] = {}
    for part in facts.parts:
        kinds = [kind for kind in (IMAGES, TEXTS) if kind in part.files]
        vectors = [part_vectors(out, part, kind) for kind in kinds]
        for number, row in enumerate(part_rows(out, part)):
            assert row.name not in rows, f"{row.name} twice"
            rows[row.name] = (row, *(matrix[number].tobytes() for matrix in vectors))
    return Held(rows, dict(facts.skipped))


def _unit(rows: Iterable[np.ndarray]) -> np.ndarray:
    matrix = np.array(list(rows), np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
