# SPDX-License-Identifier: Apache-2.0
"""How near `prepare` and reading for training come to the bare work on pictures.

    python benchmarks/data_speed.py

Draws 640 x 480 pictures with detail at all scales, in tars with a caption each. Against `prepare
webdataset` stands the bare decoding, shrinking and encoding of the same bytes by as many threads;
against training batches of the prepared folder (nothing kept in memory, tokenizing included) the
bare decoding of its stored pictures by as many threads. Each pair in turn and in one process;
prints ratios of rates. Everything is on the disk of the temporary folder.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cots_jax.data.decoding import decode_picture
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import training_batches
from cots_jax.data.prepare.pictures import normalise_picture, strict_decoding
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.switches import Cache

WIDTH, HEIGHT, QUALITY = 640, 480, 90
SIDE, BATCH, LENGTH = 224, 64, 32  # of training
WORDS = ("red", "green", "small", "old", "dog", "tree", "boat", "house", "near", "under")


def draw(rng: np.random.Generator) -> bytes:
    """A JPEG that costs what a photograph costs: noise at seven scales."""
    canvas = np.full((HEIGHT, WIDTH, 3), 128.0)
    for scale in (1, 2, 4, 8, 16, 32, 80):
        coarse = rng.normal(0, 6 * scale**0.5, (HEIGHT // scale, WIDTH // scale, 3))
        size = (WIDTH, HEIGHT)
        bands = [
            np.asarray(Image.fromarray(coarse[..., band].astype(np.float32)).resize(size))
            for band in range(3)
        ]
        canvas += np.stack(bands, axis=-1)
    out = io.BytesIO()
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def write_tars(folder: Path, pictures: int, tars: int) -> list[bytes]:
    """The pictures' bytes, which are in the tars too."""
    rng = np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(min(pictures, 64))]
    found = [drawn[number % len(drawn)] + number.to_bytes(4, "big") for number in range(pictures)]
    folder.mkdir()
    for tar in range(tars):
        with tarfile.open(folder / f"train-{tar:05}.tar", "w") as file:
            for number in range(tar, pictures, tars):
                caption = " ".join(rng.choice(WORDS, 8)).encode()
                for name, data in ((f"{number:06}.jpg", found[number]),
                                   (f"{number:06}.txt", caption)):  # fmt: skip
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    file.addfile(entry, io.BytesIO(data))
    return found


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def by_threads(work: Callable[[bytes], Any], items: Sequence[bytes], threads: int) -> None:
    """All of them, results thrown away."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--longest_side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    spent: dict[str, list[float]] = {"prepare": [], "bare_prepare": [], "read": [], "bare_read": []}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        given = write_tars(root / "tars", options.pictures, tars=8)

        def bare_prepare() -> None:
            with strict_decoding():
                by_threads(lambda b: normalise_picture(b, options.longest_side), given, threads)

        settings = WebdatasetOptions(
            source=root / "tars", held_out=0, longest_side=options.longest_side
        )
        for number in range(options.rounds):
            out = root / f"prepared{number}"
            with contextlib.redirect_stderr(io.StringIO()):
                spent["prepare"].append(seconds(lambda o=out: prepare_webdataset(o, settings)))
            spent["bare_prepare"].append(seconds(bare_prepare))
        words = train_wordpiece([" ".join(WORDS)], 64)
        source = Source(str(root / "prepared0"), "train")
        with PairTable([source], words, size=SIDE, length=LENGTH, cache=Cache.NONE) as table:
            stored = [table.record(row).image for row in range(table.records)]
            steps = table.pairs // BATCH

            def read() -> None:
                batches = iter(
                    training_batches(table, BATCH, 0, masked=0, patch_side=14, threads=threads)
                )
                for _ in range(steps):
                    next(batches)

            for _ in range(options.rounds):
                spent["read"].append(seconds(read))
                spent["bare_read"].append(
                    seconds(lambda: by_threads(lambda b: decode_picture(b, SIDE),
                                               stored[: steps * BATCH], threads))
                )  # fmt: skip
    rates = {name: options.pictures / statistics.median(times) for name, times in spent.items()}
    facts = {
        "pictures": options.pictures,
        "threads": threads,
        "pictures_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "prepare_of_bare": round(_share(spent["bare_prepare"], spent["prepare"]), 3),
        "read_of_bare": round(_share(spent["bare_read"], spent["read"]), 3),
    }
    print(json.dumps(facts, indent=1))


def _share(bare: Sequence[float], whole: Sequence[float]) -> float:
    return statistics.median(b / w for b, w in zip(bare, whole, strict=True))


if __name__ == "__main__":
    main()
