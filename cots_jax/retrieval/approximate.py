# SPDX-License-Identifier: Apache-2.0
"""Approximate search: an engine proposes, the stored vectors decide, and what the engine may not
know is searched exactly."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int64

from cots_jax.data.prepare.progress import track
from cots_jax.errors import UserError
from cots_jax.retrieval.candidates import TopCandidates
from cots_jax.retrieval.engine import (
    NONE,
    RECORD_FILE,
    Copy,
    Engine,
    EngineKind,
    part_of,
    read_copy,
    row_of,
    write_copy,
)
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import IMAGES, Facts, part_vectors
from cots_jax.retrieval.milvus_engine import MilvusEngine, default_uri
from cots_jax.retrieval.usearch_engine import UsearchEngine

GRAPHS = "usearch"  # the folder of graph files
TOP = 10  # of recall@10
RECALL = 0.98  # to be reached at the least effort that does; own choice
EFFORTS = (32, 64, 128, 256, 512, 1024, 2048)
MOST_GONE = 1 / 4  # of the copy's parts; a graph that loses more is made anew. Own choice


class Approximate:
    """An index and an engine that holds its present parts; to be searched as `Index` is."""

    def __init__(self, index: Index, engine: Engine, copy: Copy):
        self.index, self.copy = index, copy
        self._engine = engine
        self._first = np.zeros(1 + max(copy.parts), np.int64)  # of each part, by its number
        start = 0
        for part in index.facts.parts:
            self._first[part.number] = start
            start += part.rows

    def search(
        self,
        queries: Float[np.ndarray | Array, "q e"],
        k: int,
        keep: Bool[np.ndarray, "n"] | None = None,
    ) -> TopCandidates:
        """As `Index.search`, whose best few it may miss. With a mask the answer is exact: graphs
        that are filtered lose too many."""
        rows = self.index.checked(queries, k)
        k = min(k, len(self.index))
        if keep is not None or k > EFFORTS[-1]:
            return self.index.search(rows, k, keep)
        found = self.proposed(rows, k)
        short = (found == NONE).any(axis=1)  # a graph may have lost the way
        if short.any():
            found[short] = self.index.search(rows[short], k).index
        return _best_first(self.index, rows, found)

    def proposed(self, queries: Float32[np.ndarray, "q e"], k: int) -> Int64[np.ndarray, "q k"]:
        """The rows that the engine itself finds, NONE where it finds no more."""
        keys = self._engine.search(queries, k, self.copy.effort)
        return np.where(keys == NONE, NONE, self._first[part_of(keys)] + row_of(keys))


def _best_first(
    index: Index, queries: Float32[np.ndarray, "q e"], found: np.ndarray
) -> TopCandidates:
    """Scores by the stored vectors: engines round theirs, or store them rounded."""
    found = np.sort(found, axis=1).astype(np.int32)  # equal scores in stored order
    vectors = index.vectors(found.ravel()).reshape(*found.shape, -1)
    scores = np.einsum("qe,qke->qk", queries, vectors)
    order = np.argsort(-scores, axis=1, kind="stable")
    return TopCandidates(
        np.take_along_axis(found, order, axis=1), np.take_along_axis(scores, order, axis=1)
    )


@contextlib.contextmanager
def searching(index: Index, kind: EngineKind | None = None) -> Generator[Index | Approximate]:
    """What answers queries: the engine that the index was given, or the one that is named.

    Exact where the index has none, and while its copy is out of date. UserError where the index
    has no such engine, or its package is not installed.
    """
    copy = None if kind is EngineKind.EXACT else read_copy(index.folder)
    if kind not in (None, EngineKind.EXACT) and (copy is None or copy.kind is not kind):
        raise UserError(
            f"{index.folder} has no engine {kind}: make it with `search index --engine={kind}`"
        )
    if copy is None or copy.unsure or copy.parts != _present(index.facts):
        yield index
        return
    engine = _opened(index, copy)
    if engine is None:
        yield index
        return
    with contextlib.closing(engine):
        yield Approximate(index, engine, copy)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An engine to be had; uri: of Milvus, by default a file in the index."""

    kind: EngineKind
    uri: str = ""


def follow(
    index: Index, wanted: Wanted, texts: Callable[[], Float32[np.ndarray, "q e"]]
) -> Copy | None:
    """Gives the index's engine the parts that it lacks, takes away those that are gone, and
    measures the least effort that finds RECALL of the exact best TOP.

    texts: unit vectors of texts to measure with; a graph that pictures find well in may lose
    texts, which lie elsewhere. None where nothing was to be done. A killed run is made up for by
    the next. UserError.
    """
    folder = index.folder
    new = Copy(wanted.kind, wanted.uri, "")
    old = read_copy(folder) or new
    if (old.kind, old.uri) != (wanted.kind, wanted.uri):
        old = new
    present = _present(index.facts)
    if old.place and not old.unsure and old.parts == present:
        return None
    gone = {number for number, digest in old.parts.items() if present.get(number) != digest}
    if len(gone) > MOST_GONE * len(old.parts) and wanted.kind is EngineKind.USEARCH:
        old, gone = new, set()
    kept = old.parts.keys() - gone
    fresh = [part for part in index.facts.parts if part.number not in kept]
    unsure = {*old.unsure, *gone, *(part.number for part in fresh)}
    with contextlib.closing(_open(index, old, writable=True)) as engine:
        if engine.place:  # there is something that a killed run would leave half done
            begun = dataclasses.replace(old, place=engine.place, unsure=tuple(sorted(unsure)))
            write_copy(folder, begun)
        if old.place:
            for number in sorted(unsure):
                engine.drop(number)
        for part in track(fresh, f"filling {wanted.kind}"):
            engine.put(part.number, part_vectors(folder, part, IMAGES))
        engine.save()
        full = dataclasses.replace(new, place=engine.place, parts=present)
        measured = _measured(index, engine, full, texts())
    write_copy(folder, measured)
    for path in (folder / GRAPHS).glob("graph-*"):
        if path.name != measured.place:
            path.unlink()
    return measured


def forget(folder: Path) -> None:
    """From now on the index is searched exactly. A collection in Milvus stays."""
    (folder / RECORD_FILE).unlink(missing_ok=True)
    for path in (folder / GRAPHS).glob("*"):
        path.unlink()


def _measured(index: Index, engine: Engine, copy: Copy, texts: Float32[np.ndarray, "q e"]) -> Copy:
    """The copy with the least effort that suffices, or else the largest, and its recall.

    That is the engine's own: what it does not find is missed, though `search` would find it.
    """
    exact, tried = index.search(texts, TOP).index, copy
    for effort in EFFORTS:
        tried = dataclasses.replace(copy, effort=effort, texts=len(texts))
        found = Approximate(index, engine, tried).proposed(texts, exact.shape[1])
        hits = sum(len(np.intersect1d(one, other)) for one, other in zip(found, exact, strict=True))
        tried = dataclasses.replace(tried, recall=hits / exact.size)
        if tried.recall >= RECALL:
            break
    return tried


def _present(facts: Facts) -> dict[int, str]:
    return {part.number: part.files[IMAGES].sha256 for part in facts.parts}


def _open(index: Index, copy: Copy, writable: bool = False) -> Engine:
    if copy.kind is EngineKind.MILVUS:
        return MilvusEngine(copy.uri or default_uri(index.folder), copy.place, index.width)
    return UsearchEngine(index.folder / GRAPHS, copy.place, index.width, writable)


def _opened(index: Index, copy: Copy) -> Engine | None:
    """None where the copy was brought up to date, or taken away, since it was read of."""
    try:
        return _open(index, copy)
    except (UserError, FileNotFoundError):
        if read_copy(index.folder) == copy:
            raise
        return None
