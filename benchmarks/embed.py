# SPDX-License-Identifier: Apache-2.0
"""How fast pictures and texts become vectors, beside the bare compiled encoder.

    python -m benchmarks.embed [--model=runs/demo] [--size=b16-224]

The bare encoder is the same compiled program on a batch that lies on the device already, as often
as the path calls it. Against it stand, in turn and in one process, the path of search and
evaluation (`Pretrained`, retrieval/embed.py): `decoded`, pictures in memory at the tower's size;
`files`, JPEGs of 256 px from the disk, decoded by threads; `texts`, captions, tokenizing included;
and `index`, what `search index` does with the files, vectors and metadata written. `decode` is the
decoding alone. Loading and compilation are outside.

--model names a training folder; without one, towers of --size with random weights are taken, which
are as fast as trained ones. With --collection=100000 so many small pictures are indexed besides by
an encoder that costs nothing, which is the rate of all the rest (listing, decoding, writing), and
once more with nothing changed.
"""

import argparse
import collections
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import plots
from benchmarks.made_up import captions, pictures, write_model
from benchmarks.measure import (
    Found,
    Table,
    bar,
    flags_of,
    in_turns,
    median,
    ratio,
    run_benchmark,
    seconds,
    spread,
)
from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Encoder, Maker, Updated, update
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.data.pictures import decode_given
from cots_jax.errors import UserError
from cots_jax.models.two_stream import SIZES
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.embed import EMBED_BATCH, encode_images, encode_texts
from cots_jax.retrieval.index_files import Storage

SIDE, SMALL = 256, 64  # pixels of the JPEGs, and of those of --collection
WIDTH = 256  # of the encoder that costs nothing
LENGTH = 80  # text tokens of random towers
SIZE, QUICK = "photo-64", "tiny-16"
ROUNDS = 3
AIM = 90  # percent of the bare encoder's rate, of the path into an index


def write_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """JPEGs, a thousand to a folder."""
    paths = []
    for number, data in enumerate(pictures(count, side, side)):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


def index(source: Path, out: Path, size: int, encode: Callable[..., np.ndarray]) -> Updated:
    """As `search index` does with a model that is loaded."""
    maker = Maker(
        out, {"step": 0}, {"size": size}, Storage.FLOAT32, lambda: Encoder(encode, encode)
    )
    with open_source(str(source), out) as opened:
        return update(out, opened, maker)


def nothing(clips: Sequence[np.ndarray]) -> np.ndarray:
    """A vector for each picture."""
    return np.full((len(clips), WIDTH), WIDTH**-0.5, np.float32)


def bare_images(model: Pretrained, count: int) -> Callable[[], Any]:
    """The image tower's program, for as many batches as `count` pictures are."""
    side = model.preprocessing.size
    shape = (EMBED_BATCH, 1, side, side, 3)
    batch = jax.device_put(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

    def once() -> jax.Array:
        return encode_images(model.towers, batch, model.model, model.preprocessing)

    return lambda: jax.block_until_ready([once() for _ in range(-(-count // EMBED_BATCH))])


def bare_texts(model: Pretrained, count: int) -> Callable[[], Any]:
    """The text tower's program, likewise."""
    length = model.config.data.text_length
    words = np.random.default_rng(0).integers(
        0, model.tokenizer.vocab_size, (EMBED_BATCH, length), np.int32
    )
    batch = jax.device_put((words, np.full(EMBED_BATCH, length, np.int32)))

    def once() -> jax.Array:
        return encode_texts(model.towers, *batch, model.model)

    return lambda: jax.block_until_ready([once() for _ in range(-(-count // EMBED_BATCH))])


def measured(flags: argparse.Namespace) -> Found:
    """A row for each way that pictures and texts take."""
    if flags.quick:
        flags.pictures, flags.texts = EMBED_BATCH, EMBED_BATCH
    _check(flags)
    use_compilation_cache()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = flags.model
        if folder is None:
            folder = root / "model"
            size = flags.size or (QUICK if flags.quick else SIZE)
            write_model(folder, size, min(LENGTH, SIZES[size].text.positions))
        model = Pretrained.load(folder)
        rounds = flags.rounds or (1 if flags.quick else ROUNDS)
        rows, spent = _embed(model, root, flags, rounds)
        if flags.collection:
            rows += _collection(root, flags.collection)
    length = model.config.data.text_length
    title = f"{model.config.model}, {model.preprocessing.size} px, {length} tokens a text"
    columns = ("way", "items", "items/s", "of the bare encoder's rate, %", "least to most, %")
    bars = [
        bar(way, spent, (_bare(way), way), AIM if way == "index" else None, unit=100)
        for way in spent
        if way != _bare(way)
    ]
    plot = plots.bars(title, "% of the bare encoder's rate", bars)
    return Found([Table(title, columns, rows)], {"seconds": spent}, plot)


def _embed(
    model: Pretrained, root: Path, flags: argparse.Namespace, rounds: int
) -> tuple[list[tuple[Any, ...]], dict[str, list[float]]]:
    paths = write_pictures(root / "files", flags.pictures, SIDE)
    side, texts = model.preprocessing.size, captions(flags.texts)
    decoded = [picture[None] for picture in decode_given(paths, side)]
    number = iter(range(rounds + 1))

    def indexed() -> None:
        index(root / "files", root / f"index{next(number)}", side, model.encode_decoded)

    calls: dict[str, Callable[[], Any]] = {
        "bare images": bare_images(model, len(paths)),
        "decoded": lambda: model.encode_decoded(decoded),
        "decode": lambda: collections.deque(decode_given(paths, side), maxlen=0),
        "files": lambda: model.encode_images(paths),
        "index": indexed,
        "bare texts": bare_texts(model, len(texts)),
        "texts": lambda: model.encode_texts(texts),
    }
    for call in calls.values():
        call()
    spent, rows = in_turns(calls, rounds), []
    for name in calls:
        of = _bare(name)
        count = len(texts if "texts" in name else paths)
        rate, least_to_most = count / median(spent[name]), spread(spent, of, name, unit=100)
        rows.append((name, count, rate, 100 * ratio(spent, of, name), least_to_most))
    return rows, spent


def _bare(way: str) -> str:
    """The encoder that a way is held against."""
    return "bare texts" if "texts" in way else "bare images"


def _collection(root: Path, count: int) -> list[tuple[Any, ...]]:
    write_pictures(root / "many", count, SMALL)
    rows = []
    for way in ("index without an encoder", "index, nothing changed"):
        spent = seconds(lambda: index(root / "many", root / "free", SMALL, nothing))
        rows.append((way, count, count / spent, None, None))
    return rows


def _check(flags: argparse.Namespace) -> None:
    for name, least in (("pictures", 1), ("texts", 1), ("collection", 0)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}: use {least} or more")
    if flags.size and flags.size not in SIZES:
        raise UserError(f"--size={flags.size}: use one of {', '.join(SIZES)}")


def main(argv: Sequence[str]) -> int:
    """Exit status as `run_benchmark` has it."""
    parser = flags_of("embed", __doc__ or "")
    parser.add_argument("--model", type=Path, help="a training folder; else random towers")
    parser.add_argument("--size", default="", help=f"of random towers; {SIZE}")
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--collection", type=int, default=0, help="small pictures to index besides")
    return run_benchmark("embed", parser, argv, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
