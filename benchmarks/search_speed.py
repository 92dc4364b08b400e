# SPDX-License-Identifier: Apache-2.0
"""How long an exact search takes beside NumPy's on the same vectors.

    python benchmarks/search_speed.py

An index of 100,000 random unit vectors, 256 wide, is written to a temporary folder and searched for
the best 10: by one query at a time, and by 100 at once. NumPy has the vectors in memory and takes
the product, `argpartition` and a sort of the best. Both in turn and in one process; compilation and
the first reading of the index, which compares its digests, are outside and told apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
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

PART = 8192  # rows
TOP = 10


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """[rows, width] on the unit sphere."""
    drawn = rng.standard_normal((rows, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


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


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=100, help="queries at once")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--dtype", type=Storage, choices=list(Storage), default=Storage.FLOAT32)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = unit_rows(rng, options.rows, options.width)
    queries = unit_rows(rng, options.batch, options.width)
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), vectors, options.dtype)
        index = Index.open(folder)
        first = seconds(lambda: index.search(queries[:1], TOP))
        facts = {
            "rows": options.rows,
            "width": options.width,
            "dtype": str(options.dtype),
            "first_search_ms": round(1000 * first),
            "one_query": compare(index, vectors, queries[:1], options.rounds),
            f"{options.batch}_queries": compare(index, vectors, queries, options.rounds),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
