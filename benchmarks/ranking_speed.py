# SPDX-License-Identifier: Apache-2.0
"""What ranking costs beside the bare matrix product of the same embeddings.

    python benchmarks/ranking_speed.py

Random unit vectors in the shape of COCO's test set: 5,000 images, 25,000 captions, 256 wide. Ranks
both ways with all metrics, and the product of the whole matrices in float32, in turn and in one
process; compilation is outside. The memory is that of a process of its own that only ranks.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cots_jax.retrieval.metrics import Summary, rank_both_ways, summarise

Rows = np.ndarray


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> Rows:
    """[rows, width] on the unit sphere."""
    drawn = rng.standard_normal((rows, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@jax.jit
def bare_product(image: jax.Array, text: jax.Array) -> jax.Array:
    """All scores at once, [i, x]."""
    return jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def peak_bytes(options: argparse.Namespace) -> int:
    """The most memory that a process held which only ranks."""
    shape = (f"--{name}={getattr(options, name)}" for name in ("images", "captions", "width"))
    command = [sys.executable, __file__, "--memory", *shape]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5, help="of each image")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--memory", action="store_true", help="print the peak memory of one ranking"
    )
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    image = unit_rows(rng, options.images, options.width)
    text = unit_rows(rng, options.images * options.captions, options.width)
    groups = np.arange(options.images), np.repeat(np.arange(options.images), options.captions)

    def ranking() -> Summary:
        return summarise(rank_both_ways(image, text, *groups))

    ranking()
    if options.memory:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    on_device = jax.device_put(image), jax.device_put(text)

    def product() -> None:
        bare_product(*on_device).block_until_ready()

    product()
    times: dict[str, list[float]] = {"ranking": [], "product": []}
    for _ in range(options.rounds):
        times["product"].append(seconds(product))
        times["ranking"].append(seconds(ranking))
    ratios = [r / p for r, p in zip(times["ranking"], times["product"], strict=True)]
    facts = {
        "images": options.images,
        "texts": len(text),
        "width": options.width,
        "product_seconds": statistics.median(times["product"]),
        "ranking_seconds": statistics.median(times["ranking"]),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "peak_mib": round(peak_bytes(options) / 2**20),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
