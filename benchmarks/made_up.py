# SPDX-License-Identifier: Apache-2.0
"""Pictures, captions, vocabularies and image tokenizers that are made up, to measure speed with."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.measure import PROJECT
from cots_jax import checkpoint
from cots_jax.arguments import load_config
from cots_jax.config import build_config
from cots_jax.data.image_tokens import TokenFacts, write_tokens
from cots_jax.data.prepare.pairs import PairsOptions, prepare_pairs
from cots_jax.data.records import read_facts
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.models.dvae import Dvae
from cots_jax.models.two_stream import SIZES, TwoStream, model_size
from cots_jax.schema import MaskedConfig
from cots_jax.switches import Precision, Task
from cots_jax.train.assemble import DVAES

CONFIGS = PROJECT / "configs"
WORDS = ("red", "green", "small", "old", "dog", "tree", "boat", "house", "near", "under")
SCALES = (1, 2, 4, 8, 16, 32, 80)  # pixels a cell
DIFFERENT = 64  # drawings; the rest are these with other bytes behind the picture
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def draw(rng: np.random.Generator, width: int, height: int, quality: int = 90) -> bytes:
    """A JPEG that costs what a photograph costs: noise at seven scales."""
    canvas = np.full((height, width, 3), 128.0)
    for scale in SCALES:
        shape = (max(1, height // scale), max(1, width // scale), 3)
        coarse = rng.normal(0, 6 * scale**0.5, shape)
        bands = [
            np.asarray(
                Image.fromarray(coarse[..., band].astype(np.float32)).resize((width, height))
            )
            for band in range(3)
        ]
        canvas += np.stack(bands, axis=-1)
    out = io.BytesIO()
    Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def pictures(count: int, width: int, height: int) -> list[bytes]:
    """JPEGs, no two files alike."""
    rng = np.random.default_rng(0)
    drawn = [draw(rng, width, height) for _ in range(min(count, DIFFERENT))]
    return [drawn[number % len(drawn)] + number.to_bytes(4, "big") for number in range(count)]


def captions(count: int, words: int = 8) -> list[str]:
    """Sentences of the ten words."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, words)) for _ in range(count)]


def write_pairs(out: Path, count: int, side: int, held_out: int) -> None:
    """A prepared folder of square pictures with the splits `train` and `val`, `held_out` in val."""
    source = out.with_name(f"{out.name}-source")
    source.mkdir(parents=True)
    rows = [("image", "caption", "split")]
    for number, (data, caption) in enumerate(zip(pictures(count, side, side), captions(count))):
        (source / f"{number}.jpg").write_bytes(data)
        rows.append((f"{number}.jpg", caption, "val" if number < held_out else "train"))
    table = source.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    options = PairsOptions(captions=table, images=source, longest_side=side)
    with contextlib.redirect_stderr(io.StringIO()):
        prepare_pairs(out, options)


def write_codes(folder: Path, model: str, codes: int) -> None:
    """Codes of a prepared folder's pictures for a tower of that model, drawn at random."""
    vision, rng = SIZES[model].vision, np.random.default_rng(2)
    fingerprint = read_facts(folder)["fingerprint"]
    facts = TokenFacts("made up", "", codes, vision.side, vision.image_size,
                       str(Precision.FLOAT32), fingerprint)  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):
        write_tokens(
            folder, facts, lambda image: rng.integers(0, codes, (len(image), vision.tokens))
        )


def write_tokenizer(workdir: Path, name: str) -> None:
    """The workdir of an image tokenizer that was never trained, as if it had been."""
    config = DVAES[name]
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key: Dvae(config).init(key, pixels, method=Dvae.encode_ids)["params"],
        jax.random.key(0),
    )
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.02, leaf.shape).astype(np.float32), shapes)
    facts = {
        "config": {"task": str(Task.DVAE)},
        "fit": True,
        "dvae": {field: getattr(config, field) for field in config.__dataclass_fields__},
        "lineage": [],
    }
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(facts["config"]), "utf-8")
    checkpoint.save(
        workdir / checkpoint.FOLDER, 1, {"tokenizer": params}, {"facts": facts},
        keep=checkpoint.Keep(1),
    )  # fmt: skip


def write_model(workdir: Path, model: str, length: int) -> None:
    """A training folder whose one checkpoint holds random towers; length: text tokens."""
    words = train_wordpiece([" ".join(WORDS)], 64)
    config = build_config(
        {
            "name": "made-up",
            "model": model,
            "data": {"train": "data/pairs#train", "eval": "", "text_length": length},
            "duration": "1 steps",
            "batch": 64,
            "hardware": hardware_of_devices(),
        }
    )
    size = model_size(model, config.hardware, words.vocab_size)
    shapes = jax.eval_shape(TwoStream(size, MaskedConfig()).init_towers, jax.random.key(0))
    towers = jax.tree.map(np.asarray, random_weights(shapes))
    facts = {
        "config": config.to_dict(),
        "tokenizer": words.to_json(),
        "codes": 0,
        "heads": [],
        "preprocessing": {
            "size": size.vision.image_size,
            "mean": size.vision.mean,
            "std": size.vision.std,
        },
        "lineage": ["nothing"],
        "fine_tuned_on": [],
    }
    trees = {"towers": {"online": towers, "momentum": towers}, "heads": {}}
    checkpoint.save(
        workdir / checkpoint.FOLDER, 1, trees, {"facts": facts}, keep=checkpoint.Keep(1)
    )


def hardware_of_devices() -> dict[str, Any]:
    """The row of configs/hardware.py that a config takes here."""
    return load_config(f"{CONFIGS / 'tiny.py'}").to_dict()["hardware"]


def write_vocabulary(file: Path, words: int) -> None:
    """A vocab.txt of so many pieces, the ten words among them."""
    more = (f"word{number}" for number in range(words - len(SPECIALS) - len(WORDS)))
    file.write_text("\n".join((*SPECIALS, *WORDS, *more)) + "\n", "utf-8")


def random_weights(shapes: Any, seed: int = 0) -> Any:
    """Parameters of these shapes on the device; compiling the real initialisers takes longer."""
    rng = np.random.default_rng(seed)

    def leaf(shape: Any) -> jax.Array:
        return jnp.asarray(np.float32(0.02) * rng.standard_normal(shape.shape, np.float32))

    return jax.tree.map(leaf, shapes)
