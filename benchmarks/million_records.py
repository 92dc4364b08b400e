# SPDX-License-Identifier: Apache-2.0
"""A million small pictures: prepared, read for an epoch, and gone on with in the middle.

    python benchmarks/million_records.py --records=1000000

Tars of 64 px JPEGs with a caption each go through `python -m cots_jax.prepare webdataset`; then all
pairs are read in training order, in a process of its own; and another one starts in the middle of
the epoch, as a resumed training does. Prints rates, the most memory that each process held, and the
seconds from the start of the third process to its first batch, imports excluded. It needs some
5 KB of disk a record in the temporary folder.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cots_jax.data.pair_table import PairTable, Source
from cots_jax.data.pipeline import training_batches
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.switches import Cache

SIDE, BATCH, LENGTH = 64, 256, 24
PER_TAR = 10_000
DIFFERENT = 2048  # drawings; the rest are these with other bytes after the picture
WORDS = ("red", "green", "small", "old", "dog", "tree", "boat", "house", "near", "under")


def write_tars(folder: Path, records: int) -> None:
    """`records` pictures, no two files alike."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(min(records, DIFFERENT)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        drawn.append(out.getvalue())
    folder.mkdir()
    for first in range(0, records, PER_TAR):
        with tarfile.open(folder / f"train-{first // PER_TAR:05}.tar", "w") as file:
            for number in range(first, min(records, first + PER_TAR)):
                caption = " ".join(WORDS[int(d)] for d in f"{number:07}").encode()
                data = drawn[number % len(drawn)] + number.to_bytes(4, "big")
                for name, content in ((f"{number:07}.jpg", data), (f"{number:07}.txt", caption)):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    file.addfile(entry, io.BytesIO(content))


def read(folder: str, first_step: int, last_step: int) -> dict[str, Any]:
    """Reads these batches of the training order; -1 ends with the epoch."""
    begin = time.perf_counter()
    words = train_wordpiece([" ".join(WORDS)], 64)
    threads = os.cpu_count() or 1
    source = Source(folder, "train")
    with PairTable([source], words, size=SIDE, length=LENGTH, cache=Cache.NONE) as table:
        batches = iter(training_batches(table, BATCH, 0, masked=0, patch_side=8, threads=threads))
        batches.set_state({"next_index": first_step})
        next(batches)
        waited = time.perf_counter() - begin
        last = table.pairs // BATCH if last_step < 0 else last_step
        for _ in range(first_step + 1, last):
            next(batches)
    spent = time.perf_counter() - begin
    return {
        "seconds_to_first_batch": round(waited, 2),
        "pairs_per_second": round((last - first_step) * BATCH / spent),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _apart(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True, text=True)


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--read", nargs=3, metavar=("FOLDER", "FIRST", "LAST"), help="for itself")
    options = parser.parse_args()
    if options.read:
        folder, first, last = options.read
        print(json.dumps(read(folder, int(first), int(last))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        print("drawing", file=sys.stderr)
        write_tars(root / "tars", options.records)
        out = root / "prepared"
        begin = time.perf_counter()
        door = ("-m", "cots_jax.prepare", "webdataset", f"--source={root / 'tars'}")
        _apart(*door, f"--out={out}", "--held_out=0", f"--longest_side={SIDE}")
        spent = time.perf_counter() - begin
        facts: dict[str, Any] = {
            "records": options.records,
            "prepare": {
                "records_per_second": round(options.records / spent),
                "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
            },
        }
        middle = options.records // BATCH // 2
        for name, steps in (("epoch", (0, -1)), ("from_the_middle", (middle, middle + 10))):
            said = _apart(__file__, "--read", str(out), *map(str, steps)).stdout
            facts[name] = json.loads(said)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
