# SPDX-License-Identifier: Apache-2.0
"""usearch: a graph in one file of half-precision vectors, searched where it lies on the disk."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from cots_jax import manifest
from cots_jax.errors import UserError
from cots_jax.retrieval.engine import NONE, part_keys, part_of

INSTALL = "pip install 'cots_jax[search]'"
CONNECTIVITY, EXPANSION_ADD = 32, 128  # neighbours of a vector, and those looked at to find them
# The first of a graph come one by one: threads that begin together do not see each other's, and
# leave some of them where no search comes by
ALONE = 2048
DIGEST = 16  # hexadecimal digits of the file's SHA-256 in its name


class UsearchEngine:
    """A graph in `folder`, of which `place` is the file; a new one where that is empty."""

    def __init__(self, folder: Path, place: str, width: int, writable: bool):
        self._folder, self.place = folder, place
        if not place:
            self._graph = _usearch().Index(
                ndim=width,
                metric="ip",
                dtype="f16",
                connectivity=CONNECTIVITY,
                expansion_add=EXPANSION_ADD,
            )
            return
        path = folder / place
        if not path.is_file() or _name(path) != place:
            raise UserError(
                f"{path} is not as it was written: remove {folder.parent / 'engine.json'} and run "
                "`search index` with --engine=usearch again"
            )
        self._graph = _usearch().Index.restore(path, view=not writable)

    def put(self, part: int, vectors: Float[np.ndarray, "n e"]) -> None:
        """Takes the vectors of a part."""
        keys = part_keys(part, len(vectors)).astype(np.uint64)
        alone = max(0, ALONE - len(self._graph))
        self._graph.add(keys[:alone], np.float32(vectors[:alone]), threads=1)
        self._graph.add(keys[alone:], np.float32(vectors[alone:]))

    def drop(self, part: int) -> None:
        """Forgets those of a part, where it has any."""
        keys = self._graph.keys[: len(self._graph)].astype(np.int64)
        gone = keys[part_of(keys) == part]
        if len(gone):
            self._graph.remove(gone.astype(np.uint64))

    def search(
        self, queries: Float32[np.ndarray, "q e"], k: int, effort: int
    ) -> Int64[np.ndarray, "q k"]:
        """Keys of the largest dot products, best first; NONE where there are no more."""
        self._graph.expansion_search = max(effort, k)
        keys = np.full((len(queries), k), NONE, np.int64)
        for row, query in enumerate(queries):
            found = self._graph.search(query, k)
            keys[row, : len(found)] = found.keys
        return keys

    def save(self) -> None:
        """Writes the graph to a file of its own; the older ones are left to whoever reads them."""
        self._folder.mkdir(exist_ok=True)
        unfinished = self._folder / ".unfinished"
        self._graph.save(unfinished)
        manifest.sync(unfinished)
        self.place = _name(unfinished)
        unfinished.rename(self._folder / self.place)
        manifest.sync(self._folder)

    def close(self) -> None:
        """Nothing is held but memory."""


def _name(path: Path) -> str:
    with path.open("rb") as file:
        return f"graph-{hashlib.file_digest(file, 'sha256').hexdigest()[:DIGEST]}.usearch"


def _usearch() -> Any:
    try:
        return importlib.import_module("usearch.index")
    except ImportError as error:
        raise UserError(f"--engine=usearch needs the package usearch: run `{INSTALL}`") from error
