# SPDX-License-Identifier: Apache-2.0
"""A training folder with random towers, made in a second, and what others would do with exports."""

import pathlib
import subprocess
import sys
from collections.abc import Mapping

import jax
import numpy as np
from PIL import Image

from cots_jax import checkpoint
from cots_jax.config import build_config
from cots_jax.data.tokenizer import Tokenizer, train_wordpiece
from cots_jax.models.two_stream import TwoStream, size_of
from cots_jax.schema import MaskedConfig
from cots_jax.weights.architecture import architecture

WORDS = train_wordpiece(["a red car over two dogs", "two cars under a dog, and Café"], 120)
LENGTH, STEP = 9, 7
TEXTS = ("A red car", "two dogs over a car under two dogs over a car", "a [SEP] café", "")
BLOCKED = """
import runpy, sys
sys.modules["cots_jax"] = None  # to import it is an error from now on
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write_run(
    folder: pathlib.Path,
    model: str = "tiny-16",
    words: Tokenizer = WORDS,
    trained_on: str = "data/own#train (0123456789ab)",
    heads: Mapping[str, object] | None = None,
    **keys: object,
) -> pathlib.Path:
    """`folder` with one checkpoint, whose online and momentum towers differ.

    heads: what stands beside the towers. keys: of the config, with double underscores for dots:
    data__frames=2.
    """
    mapping = {
        "name": "random",
        "data": {"train": "data/own#train", "eval": "", "text_length": LENGTH},
        "model": model,
        "duration": "1 steps",
        "batch": 4,
    }
    for key, value in keys.items():
        *above, last = key.split("__")
        inner = mapping
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    config = build_config(mapping)
    size = size_of(config, words.vocab_size)
    towers = TwoStream(size, MaskedConfig())
    shapes = jax.eval_shape(towers.init_towers, jax.random.key(0))
    vision = towers.config.vision
    facts = {
        "config": config.to_dict(),
        "tokenizer": words.to_json(),
        "architecture": architecture(size),
        "codes": 0,
        "heads": [],
        "preprocessing": {"size": vision.image_size, "mean": vision.mean, "std": vision.std},
        "lineage": [trained_on],
        "fine_tuned_on": ["data/other#train (ba9876543210)"],
        "image_tokens": "",
    }
    trees = {
        "towers": {name: drawn(shapes, seed) for seed, name in enumerate(("online", "momentum"))},
        "heads": heads or {},
    }
    keep = checkpoint.Keep(1)
    checkpoint.save(folder / checkpoint.FOLDER, STEP, trees, {"facts": facts}, keep=keep)
    return folder


def drawn(shapes: object, seed: int) -> object:
    """Not as at a start, where biases are 0 and norms 1: every array must matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def write_photo(file: pathlib.Path, seed: int = 0, size: tuple[int, int] = (70, 50)) -> None:
    """A coarse random picture, enlarged: smooth, as photographs are."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(file)


def scores_of_example(
    folder: pathlib.Path, name: str, picture: pathlib.Path, texts: tuple[str, ...] = TEXTS
) -> np.ndarray:
    """What an exported example prints, in a process that cannot import the package."""
    example = folder / "examples" / name
    command = [sys.executable, "-c", BLOCKED, str(example), str(picture), *texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ", 1) for line in done.stdout.splitlines()]
    assert [words for _, words in lines] == list(texts)
    return np.array([float(score) for score, _ in lines])
