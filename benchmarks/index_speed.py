# SPDX-License-Identifier: Apache-2.0
"""How fast pictures come into an index, beside the encoder alone on pictures decoded before.

    python benchmarks/index_speed.py --model=runs/demo

`--pictures` small JPEGs are written to a temporary folder. First all of them are indexed with an
encoder that costs nothing, which is the rate of all the rest (listing, decoding, writing), and
once more with nothing changed. Then `--embedded` of them are indexed by the model, in turn with
the model alone; loading and compilation are outside.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cots_jax.collection.sources import open_source
from cots_jax.collection.update import Encoder, Maker, Updated, update
from cots_jax.data.pictures import decode_given
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.index_files import Storage

SIDE = 64  # pixels
WIDTH = 256  # of the encoder that costs nothing


def write_pictures(folder: Path, count: int) -> None:
    """Noise in large cells, a thousand to a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        below = folder / f"{number // 1000:03d}"
        below.mkdir(parents=True, exist_ok=True)
        cells = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        Image.fromarray(cells).save(below / f"{number:06d}.jpg", quality=90)


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def index(pictures: Path, out: Path, size: int, encode: Callable[..., np.ndarray]) -> Updated:
    """As `search index` does with a model that is loaded."""
    maker = Maker(
        out, {"step": 0}, {"size": size}, Storage.FLOAT32, lambda: Encoder(encode, encode)
    )
    with open_source(str(pictures), out) as source:
        return update(out, source, maker)


def nothing(clips: Sequence[np.ndarray]) -> np.ndarray:
    """A vector for each picture."""
    return np.full((len(clips), WIDTH), WIDTH**-0.5, np.float32)


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="a training folder")
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--embedded", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = Pretrained.load(options.model)
    size = model.preprocessing.size
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_pictures(root / "all", options.pictures)
        write_pictures(root / "some", options.embedded)
        free = seconds(lambda: index(root / "all", root / "free", size, nothing))
        again = seconds(lambda: index(root / "all", root / "free", size, nothing))
        paths = sorted((root / "some").rglob("*.jpg"))
        decoded = [picture[None] for picture in decode_given(paths, size)]
        model.encode_decoded(decoded[:1])
        bare, through = [], []
        for number in range(options.rounds):
            bare.append(seconds(lambda: model.encode_decoded(decoded)))
            out = root / f"index{number}"
            through.append(
                seconds(lambda out=out: index(root / "some", out, size, model.encode_decoded))
            )
    per_second = {
        "without_encoder": options.pictures / free,
        "encoder_alone": options.embedded / float(np.median(bare)),
        "index": options.embedded / float(np.median(through)),
    }
    facts = {
        "pictures": options.pictures,
        "per_second": {what: round(rate, 1) for what, rate in per_second.items()},
        "of_encoder": round(per_second["index"] / per_second["encoder_alone"], 3),
        "nothing_changed_s": round(again, 2),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
