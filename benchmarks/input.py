# SPDX-License-Identifier: Apache-2.0
"""How near `prepare`, and reading from shards to the device, come to bare decoding; and whether a
training waits for its data.

    python -m benchmarks.input [--pictures=2048] [--side=224] [--model=photo-32] [--steps=200]

Draws 640 x 480 pictures with detail at all scales, in tars with a caption each.

- `prepare webdataset` against bare decoding, shrinking and encoding of the same bytes by as many
  threads.
- Shards to device: the batches of a training (nothing kept in memory, tokenizing included), each
  put on the device, against a loader of the same library with as many threads and as much read
  ahead, that only decodes the same stored pictures from memory; and that against a bare pool of
  threads.
- A real run: `python -m cots_jax.main` trains a small model (contrastive alone) on the shards, with
  nothing kept in memory and with everything kept there. Its own log has the share of the time that
  it waited for data; beside it stands how fast decoding alone is at that size.

Each pair in turn and in one process, everything on the disk of the temporary folder.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import io
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from benchmarks import plots
from benchmarks.made_up import WORDS, captions, pictures
from benchmarks.measure import (
    PROJECT,
    Cell,
    Found,
    Table,
    bar,
    cores,
    flags_of,
    in_turns,
    median,
    ratio,
    run_benchmark,
    spread,
)
from cots_jax.arguments import parse_arguments
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.data.decoding import decode_picture
from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import training_batches
from cots_jax.data.prepare.pictures import normalise_picture, strict_decoding
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.errors import UserError
from cots_jax.models.two_stream import SIZES
from cots_jax.switches import Cache
from cots_jax.train.logging import read
from cots_jax.train.loop import train

WIDTH, HEIGHT, TARS = 640, 480, 8
BATCH, LENGTH = 64, 32  # pairs, tokens
CONFIG = PROJECT / "configs" / "flickr8k.py"
ROUNDS = 3
AIM = 90  # percent of decoding alone

Spent = dict[str, list[float]]


def write_tars(folder: Path, count: int) -> list[bytes]:
    """The pictures' bytes, which are in the tars too."""
    drawn, said = pictures(count, WIDTH, HEIGHT), captions(count)
    folder.mkdir()
    for tar in range(TARS):
        with tarfile.open(folder / f"train-{tar:05}.tar", "w") as file:
            for number in range(tar, count, TARS):
                members = {"jpg": drawn[number], "txt": said[number].encode()}
                for ending, data in members.items():
                    entry = tarfile.TarInfo(f"{number:06}.{ending}")
                    entry.size = len(data)
                    file.addfile(entry, io.BytesIO(data))
    return drawn


def by_threads(work: Callable[[bytes], Any], items: Sequence[bytes], threads: int) -> None:
    """All of them, results thrown away."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        collections.deque(pool.map(work, items), maxlen=0)


def by_loader(work: Callable[[bytes], Any], items: Sequence[bytes], threads: int) -> None:
    """The same by the library that training reads with, a batch at a time."""

    def load(first: int) -> int:
        done = [work(item) for item in items[first : first + BATCH]]
        return len(done)  # the pictures themselves are not copied together

    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    firsts = grain.MapDataset.source(list(range(0, len(items), BATCH)))
    collections.deque(firsts.map(load).to_iter_dataset(ahead), maxlen=0)


def measure_prepare(root: Path, given: list[bytes], flags: argparse.Namespace) -> Spent:
    """Seconds of `prepare` into root/prepared0 and on, and of the bare work."""
    settings = WebdatasetOptions(source=root / "tars", held_out=0, longest_side=flags.longest_side)
    made = iter(range(flags.rounds))

    def prepare() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            prepare_webdataset(root / f"prepared{next(made)}", settings)

    def bare() -> None:
        with strict_decoding():
            by_threads(lambda data: normalise_picture(data, flags.longest_side), given, cores())

    return in_turns({"prepare": prepare, "bare": bare}, flags.rounds)


def measure_reading(folder: Path, flags: argparse.Namespace) -> Spent:
    """Seconds of shards to device, of the loader that only decodes, and of the pool of threads."""
    words, threads = train_wordpiece([" ".join(WORDS)], 64), cores()
    source = Source(str(folder), "train")
    with PairTable([source], words, size=flags.side, length=LENGTH, cache=Cache.NONE) as table:
        steps = table.pairs // BATCH
        stored = stored_pictures(table)[: steps * BATCH]

        def to_device() -> None:
            order = training_batches(table, BATCH, 0, masked=0, patch_side=14, threads=threads)
            batches = iter(order)
            for _ in range(steps):
                jax.block_until_ready(jax.device_put(next(batches)))

        def decode(data: bytes) -> np.ndarray:
            return decode_picture(data, flags.side)

        ways = {
            "to_device": to_device,
            "loader": lambda: by_loader(decode, stored, threads),
            "threads": lambda: by_threads(decode, stored, threads),
        }
        ways["loader"]()  # the library's own first call
        return in_turns(ways, flags.rounds)


def stored_pictures(table: PairTable) -> list[bytes]:
    """All JPEGs of a table."""
    return [table.record(row).image for row in range(table.records)]


def measure_run(folder: Path, cache: Cache, flags: argparse.Namespace) -> dict[str, float]:
    """The last line that the log of a real run has of its speed."""
    often = [f"--config.{name}_every={flags.steps} steps"
             for name in ("log", "evaluate", "checkpoint", "diagnose")]  # fmt: skip
    keys = {"data.train": f"{folder}#train", "data.eval": "", "data.threads": cores(),
            "data.cache": cache, "data.tokenizer": "captions:64", "model": flags.model,
            "batch": BATCH, "duration": f"{flags.steps} steps"}  # fmt: skip
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    config = parse_arguments([f"--config={CONFIG}:contrastive", *overrides, *often], "").config
    with tempfile.TemporaryDirectory() as workdir:
        train(config, Path(workdir), io.StringIO())
        rows = read(Path(workdir) / "metrics.jsonl")
    return next(row for row in reversed(rows) if "data_wait" in row)


def decoding_rate(folder: Path, flags: argparse.Namespace) -> float:
    """Pictures a second that the loader decodes at the size of the model's tower."""
    words, side = train_wordpiece([" ".join(WORDS)], 64), SIZES[flags.model].vision.image_size
    with PairTable([Source(str(folder), "train")], words, size=side, length=LENGTH,
                   cache=Cache.NONE) as table:  # fmt: skip
        stored = stored_pictures(table)
    decode = {"decode": lambda: by_loader(lambda d: decode_picture(d, side), stored, cores())}
    return len(stored) / median(in_turns(decode, flags.rounds)["decode"])


def measured(flags: argparse.Namespace) -> Found:
    """A table of rates against the bare work, and one of real runs."""
    flags.rounds = flags.rounds or (1 if flags.quick else ROUNDS)
    if flags.quick:
        flags.pictures, flags.steps, flags.model = 2 * BATCH, 10, "tiny-16"
    _check(flags)
    use_compilation_cache()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        preparing = measure_prepare(root, write_tars(root / "tars", flags.pictures), flags)
        folder = root / "prepared0"
        reading = measure_reading(folder, flags)
        decoding = decoding_rate(folder, flags)
        runs = {cache: measure_run(folder, cache, flags) for cache in (Cache.NONE, Cache.MEMORY)}
    read_pictures = flags.pictures // BATCH * BATCH
    pairs = {
        "prepare webdataset": ("decode, shrink, encode by threads", flags.pictures, preparing,
                               ("prepare", "bare"), None),
        "shards to device": ("a loader that only decodes", read_pictures, reading,
                             ("to_device", "loader"), AIM),
        "a loader that only decodes": ("a pool of threads", read_pictures, reading,
                                       ("loader", "threads"), None),
    }  # fmt: skip
    rates = [_row(work, *pair[:4]) for work, pair in pairs.items()]
    bars = [
        bar(work, spent, (of, name), aim, unit=100)
        for work, (_, _, spent, (name, of), aim) in pairs.items()
    ]
    columns = ("work", "pictures/s", "bare work", "pictures/s of it", "share, %",
               "least to most, %")  # fmt: skip
    title = f"{flags.pictures:,} pictures of {WIDTH} x {HEIGHT}, read at {flags.side} px"
    waits: list[tuple[Cell, ...]] = [
        (str(cache), row["pairs_per_second"], 100 * row["data_wait"], decoding)
        for cache, row in runs.items()
    ]
    run_columns = ("kept", "pairs/s", "data wait, %", "decoding alone, pictures/s")
    run_title = f"A run of {flags.steps} steps, {flags.model}, batch {BATCH}, {cores()} threads"
    return Found(
        [Table(title, columns, rates), Table(run_title, run_columns, waits)],
        {"seconds": {**preparing, **reading}},
        plots.bars("Reading and preparing", "% of the rate of the bare work", bars),
    )


def _row(work: str, bare: str, count: int, spent: Spent, pair: tuple[str, str]) -> tuple[Cell, ...]:
    name, of = pair
    return (
        work,
        count / median(spent[name]),
        bare,
        count / median(spent[of]),
        100 * ratio(spent, of, name),
        spread(spent, of, name, unit=100),
    )


def _check(flags: argparse.Namespace) -> None:
    for name, least in (("pictures", BATCH), ("side", 8), ("steps", 2), ("longest_side", 8)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}: use {least} or more")
    if flags.model not in SIZES:
        raise UserError(f"--model={flags.model}: use one of {', '.join(SIZES)}")


def main(argv: Sequence[str]) -> int:
    """Exit status as `run_benchmark` has it."""
    parser = flags_of("input", __doc__ or "")
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--longest_side", type=int, default=256, help="of what prepare stores")
    parser.add_argument("--side", type=int, default=224, help="pixels that reading decodes to")
    parser.add_argument("--model", default="photo-32", help="of the real run")
    parser.add_argument("--steps", type=int, default=200, help="of the real run")
    return run_benchmark("input", parser, argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
