# SPDX-License-Identifier: Apache-2.0
"""What ranking costs beside the bare matrix product of the same embeddings, NumPy and PyTorch.

    python -m benchmarks.evaluate [--sizes=1000x1000,5000x25000,50000x50000] [--million]

Random unit vectors, IMAGESxTEXTS of them; each image has as many texts as the other. All rank both
ways with all metrics, ties against the model: ours (retrieval/metrics.py), and the same ranks by
NumPy and PyTorch, a block of rows at a time. The product is that of the whole matrices in float32,
a block of rows at a time too, and nothing is made of it. In turn and in one process; compilation is
outside. `alike` says how many of our ranks are those of the peer: products round by their shapes,
so that near ties may fall otherwise.

Memory is that by which a process of its own grows while it ranks, embeddings not counted, after a
smaller set has been ranked. `--million` adds 1,000,000 x 1,000,000, peers left out, and the best 10
images of each text: minutes on an accelerator, many hours on a few cores.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import plots
from benchmarks.measure import (
    PROJECT,
    Found,
    Table,
    bar,
    flags_of,
    grown,
    in_turns,
    median,
    ratio,
    run_benchmark,
    spread,
)
from cots_jax.errors import UserError
from cots_jax.retrieval.candidates import top_candidates
from cots_jax.retrieval.metrics import Ranks, rank_both_ways, summarise
from cots_jax.retrieval.tiles import TILE

SIZES, QUICK, MILLION = "1000x1000,5000x25000,50000x50000", "60x300", 1_000_000
WIDTH = 256
BLOCK = 2**28  # scores that the product and the peers hold at once: 1 GiB
SMALL = 1e9  # scores; larger sets are ranked in fewer rounds, and without peers from PEERS on
PEERS = 1e10
ROUNDS, FEW = 7, 3
TOP = 10
COCO, AT_MOST = "5,000 x 25,000", 1.5  # aim: times the product


class World(NamedTuple):
    """Unit vectors, and the image of each text; the texts of an image stand together."""

    image: np.ndarray
    text: np.ndarray
    text_image: np.ndarray

    @property
    def scores(self) -> int:
        """How many pairs there are."""
        return len(self.image) * len(self.text)


def make_world(images: int, texts: int, width: int = WIDTH) -> World:
    """Random directions, [images, width] and [texts, width]."""
    rng = np.random.default_rng(0)

    def unit_rows(rows: int) -> np.ndarray:
        drawn = rng.standard_normal((rows, width), np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    return World(unit_rows(images), unit_rows(texts), np.arange(texts) * images // texts)


def ours(world: World) -> Ranks:
    """The package's own ranks, and what evaluation reports of them."""
    ranks = rank_both_ways(world.image, world.text, np.arange(len(world.image)), world.text_image)
    summarise(ranks)
    return ranks


def by_numpy(world: World) -> Ranks:
    """The same by NumPy: the right scores first, then all of them, a block of images at a time."""
    image, text, right = world.image, world.text, world.text_image
    own = np.einsum("xe,xe->x", image[right], text)
    first = np.searchsorted(right, np.arange(len(image)))
    best = np.maximum.reduceat(own, first)
    rows, columns = [], np.zeros(len(text), np.int64)
    for start, stop in blocks(world):
        scores = image[start:stop] @ text.T
        mine = np.arange(*np.searchsorted(right, [start, stop]))
        scores[right[mine] - start, mine] = -np.inf
        rows.append(np.count_nonzero(scores >= best[start:stop, None], axis=1))
        columns += np.count_nonzero(scores >= own, axis=0)
    ranks = Ranks(1 + np.concatenate(rows), 1 + columns)
    summarise(ranks)
    return ranks


def by_torch(world: World) -> Callable[[], Ranks]:
    """The same by PyTorch, on the CPU; the vectors are its tensors already."""
    import torch

    image, text = torch.from_numpy(world.image), torch.from_numpy(world.text)
    right = torch.from_numpy(world.text_image)

    @torch.inference_mode()
    def rank() -> Ranks:
        own = (image[right] * text).sum(1)
        best = torch.full((len(image),), -torch.inf).scatter_reduce(0, right, own, "amax")
        rows, columns = [], torch.zeros(len(text), dtype=torch.int64)
        for start, stop in blocks(world):
            scores = image[start:stop] @ text.T
            mine = torch.nonzero((right >= start) & (right < stop))[:, 0]
            scores[right[mine] - start, mine] = -torch.inf
            rows.append((scores >= best[start:stop, None]).sum(1))
            columns += (scores >= own).sum(0)
        ranks = Ranks(1 + torch.cat(rows).numpy(), 1 + columns.numpy())
        summarise(ranks)
        return ranks

    return rank


def blocks(world: World) -> list[tuple[int, int]]:
    """Rows of images whose scores are held at once."""
    rows = max(1, BLOCK // len(world.text))
    return [(s, min(s + rows, len(world.image))) for s in range(0, len(world.image), rows)]


@jax.jit
def _product(image: jax.Array, text: jax.Array) -> jax.Array:
    return jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)


def bare_product(world: World) -> Callable[[], None]:
    """All scores, made and thrown away."""
    image, text = jax.device_put(world.image), jax.device_put(world.text)
    parts = [image[start:stop] for start, stop in blocks(world)]

    def run() -> None:
        for part in parts:
            _product(part, text).block_until_ready()

    return run


def ways_of(world: World) -> dict[str, Callable[[], Any]]:
    """What is measured, by its name."""
    found: dict[str, Callable[[], Any]] = {
        "product": bare_product(world),
        "ours": lambda: ours(world),
    }
    if world.scores <= PEERS:
        found["numpy"] = lambda: by_numpy(world)
        if importlib.util.find_spec("torch"):
            found["torch"] = by_torch(world)
    else:
        found["top 10"] = lambda: top_candidates(world.text, world.image, TOP)
    return found


def alike(one: Ranks, other: Ranks) -> float:
    """The share of equal ranks, in percent."""
    pairs = zip((one.image_to_text, one.text_to_image), (other.image_to_text, other.text_to_image))
    return 100 * float(np.concatenate([a == b for a, b in pairs]).mean())


def memory(images: int, texts: int, way: str) -> float | None:
    """MiB by which a process of its own grows; None on accelerators, whose memory is elsewhere."""
    if jax.default_backend() != "cpu":
        return None
    command = [sys.executable, "-m", "benchmarks.evaluate", f"--memory={images}x{texts}:{way}"]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout) / 2**20


def own_memory(asked: str) -> int:
    """The same in this process, which has not ranked so much before."""
    size, _, way = asked.partition(":")
    warm = ways_of(make_world(TILE.rows, TILE.columns))
    if way in warm:  # the best 10 are found in large sets alone
        warm[way]()
    run = ways_of(make_world(*parse_size(size)))[way]
    return grown(run)


def measured(flags: argparse.Namespace) -> Found:
    """A row for each size and way."""
    columns = ("images x texts", "way", "seconds", "of the product", "least to most",
               "memory, MiB", "alike, %")  # fmt: skip
    rows, spent_of = [], {}
    for images, texts in sizes_of(flags):
        world = make_world(images, texts)
        ways = ways_of(world)
        answers = {way: run() for way, run in ways.items()}  # compiles too
        own = FEW if world.scores > SMALL or flags.quick else ROUNDS
        spent = in_turns(ways, flags.rounds or own)
        name = f"{images:,} x {texts:,}"
        spent_of[name] = spent
        for way in ways:
            same = isinstance(answers[way], Ranks) and way != "ours"
            rows.append(
                (name, way, median(spent[way]), ratio(spent, way, "product"),
                 spread(spent, way, "product"), memory(images, texts, way),
                 alike(answers["ours"], answers[way]) if same else None)
            )  # fmt: skip
        print(f"{name} done", file=sys.stderr, flush=True)
    title = f"Ranking, {WIDTH} wide"
    bars = [
        bar(f"{name}, {way}", spent, (way, "product"), _aim(name, way), at_least=False)
        for name, spent in spent_of.items()
        for way in spent
        if way != "product"
    ]
    plot = plots.bars(title, "times the bare product", bars)
    return Found([Table(title, columns, rows)], {"seconds": spent_of}, plot)


def _aim(size: str, way: str) -> float | None:
    return AT_MOST if (size, way) == (COCO, "ours") else None


def parse_size(text: str) -> tuple[int, int]:
    """5000x25000 -> (5000, 25000). Raises UserError."""
    images, _, texts = text.partition("x")
    if not (images.isdigit() and texts.isdigit() and 0 < int(images) <= int(texts)):
        raise UserError(
            f"--sizes has {text!r}: write IMAGESxTEXTS, with a text for each image at least, as in "
            f"{SIZES}"
        )
    return int(images), int(texts)


def sizes_of(flags: argparse.Namespace) -> list[tuple[int, int]]:
    """What the flags ask for. Raises UserError."""
    found = [
        parse_size(text) for text in (flags.sizes or (QUICK if flags.quick else SIZES)).split(",")
    ]
    return found + [(MILLION, MILLION)] * flags.million


def main(argv: Sequence[str]) -> int:
    """Exit status as `run_benchmark` has it."""
    parser = flags_of("evaluate", __doc__ or "")
    parser.add_argument("--sizes", default="", help=f"IMAGESxTEXTS, …; {SIZES}")
    parser.add_argument("--million", action="store_true", help="1,000,000 x 1,000,000 as well")
    parser.add_argument("--memory", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv).memory
    if asked:
        print(own_memory(asked))
        return 0
    return run_benchmark("evaluate", parser, argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
