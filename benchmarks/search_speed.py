# SPDX-License-Identifier: Apache-2.0
"""How long searches take, exact and approximate, and what the approximate ones find.

    python benchmarks/search_speed.py
    python benchmarks/search_speed.py --rows=1000000 --dtype=float16 --rounds=20
    python benchmarks/search_speed.py --engine=usearch

An index of made-up pictures, unit vectors 256 wide, is written to a temporary folder and searched
for the best 10: by one query at a time, by 100 at once, and by one among a twentieth of the rows.
NumPy has the vectors in memory and takes the product, `argpartition` and a sort of the best; both
in turn and in one process. Compilation and the first reading of the index, which compares its
digests, are outside and told apart.

Vectors that are drawn evenly from a sphere have no near neighbours worth finding, and no model
makes such. So a picture is 32 numbers at random by a random linear map, and a little noise; the
texts have those of a picture with much noise, and all of them stand off to one side, as the texts
of two-tower models do. Recall@10 is the part of the exact best 10 that an engine finds for texts.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cots_jax.retrieval.approximate import Wanted, follow, searching
from cots_jax.retrieval.engine import EngineKind
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

PART = 8192  # rows
TOP = 10
LATENT = 32  # numbers behind a vector
NOISE, TEXT_NOISE = 0.2, 0.7  # of both, and of what a text says, in parts of the picture's own
ASIDE = 0.8  # where the texts stand, in lengths of their vectors
KEPT = 20  # one row in so many passes the filter
TUNED = 200  # texts that an engine is tuned with, and as many others that it is measured with


@dataclasses.dataclass(frozen=True)
class World:
    """Made-up pictures, and texts that describe some of them."""

    pictures: np.ndarray
    texts: np.ndarray


def make_world(rows: int, width: int, texts: int) -> World:
    """Unit vectors, [rows, width] and [texts, width]."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    latent, spread = draw(rows, LATENT), draw(LATENT, width) / np.sqrt(width)
    described = latent[rng.integers(0, rows, texts)] + TEXT_NOISE * draw(texts, LATENT)
    noise = NOISE * np.sqrt(LATENT / width)
    pictures = unit(latent @ spread + noise * draw(rows, width))
    said = unit(described @ spread + noise * draw(texts, width))
    return World(pictures, unit(said + ASIDE * unit(draw(1, width))))


def unit(rows: np.ndarray) -> np.ndarray:
    """The same directions, of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_index(folder: Path, vectors: np.ndarray, storage: Storage) -> None:
    """An index of these vectors."""
    parts = []
    for number, start in enumerate(range(0, len(vectors), PART)):
        chunk = vectors[start : start + PART]
        rows = [Row(f"{start + row}.jpg", (), "", "") for row in range(len(chunk))]
        parts.append(write_part(folder, number, rows, {IMAGES: stored(chunk, storage)}, {}))
    width = vectors.shape[1]
    write_facts(folder, Facts({}, {}, {}, width, storage, {}, tuple(parts)))


def numpy_search(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Rows of the best, [q, TOP]."""
    scores = queries @ vectors.T
    best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(index: Index, vectors: np.ndarray, queries: np.ndarray, rounds: int) -> dict[str, Any]:
    """p50 and p95 in milliseconds of both, and their ratio at p50."""
    ours, theirs = [], []
    index.search(queries, TOP)
    for _ in range(rounds):
        ours.append(seconds(lambda: index.search(queries, TOP)))
        theirs.append(seconds(lambda: numpy_search(vectors, queries)))
    same = index.search(queries, TOP).index == numpy_search(vectors, queries)
    found = {
        f"{name}_p{at}_ms": round(1000 * float(np.percentile(times, at)), 2)
        for name, times in (("index", ours), ("numpy", theirs))
        for at in (50, 95)
    }
    ratio = float(np.median(ours) / np.median(theirs))
    return {**found, "ratio": round(ratio, 3), "same_answers": float(same.mean())}


def times(call: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """p50 and p95 in milliseconds of a call, which is told the number of the round."""
    call(0)
    found = [seconds(lambda number=number: call(number)) for number in range(rounds)]
    return {f"p{at}_ms": round(1000 * float(np.percentile(found, at)), 2) for at in (50, 95)}


def approximate(index: Index, kind: EngineKind, world: World, rounds: int) -> dict[str, Any]:
    """What it takes to fill an engine, and what it then finds in which time."""
    tuned, asked = world.texts[:TUNED], world.texts[TUNED:]
    begin = time.perf_counter()
    copy = follow(index, Wanted(kind), lambda: tuned)
    filled = time.perf_counter() - begin
    assert copy is not None
    with searching(index) as engine:
        exact, found = index.search(asked, TOP).index, engine.search(asked, TOP).index
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True))
        ask = times(lambda n: engine.search(asked[n % TUNED, None], TOP), rounds)
    return {"filled_s": round(filled, 1), "effort": copy.effort,
            "recall@10": round(hits / exact.size, 4), **ask}  # fmt: skip


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=100, help="queries at once")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--dtype", type=Storage, choices=list(Storage), default=Storage.FLOAT32)
    parser.add_argument("--engine", type=EngineKind, choices=list(EngineKind)[1:])
    options = parser.parse_args()
    world = make_world(options.rows, options.width, 2 * TUNED)
    queries = world.texts[: options.batch]
    keep = np.arange(options.rows) % KEPT == 0
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), world.pictures, options.dtype)
        index = Index.open(folder)
        first = seconds(lambda: index.search(queries[:1], TOP))
        facts = {
            "rows": options.rows,
            "width": options.width,
            "dtype": str(options.dtype),
            "first_search_ms": round(1000 * first),
            "one_query": compare(index, world.pictures, queries[:1], options.rounds),
            f"{options.batch}_queries": compare(index, world.pictures, queries, options.rounds),
            "filtered": times(lambda _: index.search(queries[:1], TOP, keep), options.rounds),
        }
        if options.engine:
            facts[str(options.engine)] = approximate(
                index, options.engine, world, max(options.rounds, TUNED)
            )
    facts |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
