# SPDX-License-Identifier: Apache-2.0
"""What ranking a set costs with a cross-encoder, and what it costs with the two towers.

    python -m benchmarks.cross_encoder [--model=b16-384] [--out=FILE.json]

A cross-encoder sends each pair of an image and a text through one stack. Two are measured, both
with a stack of the text tower's shape: `regions`, VinVL-like, over a few region features and a
text; `patches`, over all tokens of our image tower and a text. Neither is trained, nor any tower:
speed does not depend on the weights. Their images' features are kept (`cached`: made once an
image) or not (`uncached`: made anew for every pair). VinVL's detector is not built here; our image
tower stands in for it.

Time is taken for an image, a text and a pair, in blocks of about as many tokens that take turns,
and the medians are multiplied by how many there are: nothing else is extrapolated. The ranking, and
the search of one query, run in full with the package's own code on random unit vectors. Operations
are counted (train/flops.py) and put into the same formulas: ratios without any machine.
Prints tables; --out takes everything as JSON.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from benchmarks import measure
from benchmarks.made_up import random_weights
from cots_jax.arguments import load_config
from cots_jax.batch import ImageBatch, TextBatch
from cots_jax.compilation_cache import use_compilation_cache
from cots_jax.config import build_config
from cots_jax.errors import UserError
from cots_jax.files import write_whole
from cots_jax.models.apply import apply
from cots_jax.models.outputs import FIRST
from cots_jax.models.text import TextConfig
from cots_jax.models.transformer import Norm, Span, Transformer, embedding_init, layer_norm, linear
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.retrieval.candidates import top_candidates
from cots_jax.retrieval.embed import (
    Preprocessing,
    embed_images,
    embed_texts,
    encode_images,
    encode_texts,
)
from cots_jax.retrieval.metrics import rank_both_ways
from cots_jax.retrieval.tiles import TILE, score_tile
from cots_jax.schema import HardwareConfig, MaskedConfig
from cots_jax.train.flops import count_flops

HARDWARE = Path(__file__).resolve().parents[1] / "configs" / "pretrain.py"  # for its rows alone
REGION_WIDTH = 2054  # 2,048 features of a detector and 6 numbers of the box; remembered of VinVL
SHOWN = 10  # best images of one query
PARTNERS = ("regions", "patches")
FORMULAS = {
    "offline": {
        "towers": "images * image + texts * text + ranking",
        "cached": "images * image + images * texts * pair",
        "uncached": "images * texts * (image + pair)",
    },
    "online": {
        "towers": "query + search",
        "cached": "images * pair",
        "uncached": "images * (image + pair)",
    },
}
UNITS = {"operations": ("GFLOP", 1e9), "milliseconds": ("ms", 1)}  # as the tables show them

Costs = Mapping[str, float]  # of each part: milliseconds or operations


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is ranked. Own choices but for the numbers of COCO's test set."""

    images: int = 5000
    texts: int = 25_000
    text_tokens: int = 35  # of the towers and of `patches`, padding included
    regions: int = 50  # image tokens of `regions`
    region_text: int = 70  # its text tokens: the caption, and the names of the objects found


class CrossEncoder(nn.Module):
    """Features of an image and ids of a text -> one logit a pair, read at [CLS].

    BERT's embeddings (text: type 0, image: type 1) and the package's stack. The features carry
    their own positions: patches have them added, and regions come with their boxes.
    """

    config: TextConfig

    @nn.compact
    def __call__(
        self, image: Float[Array, "b n f"], text: Int[Array, "b l"], length: Int[Array, "b"]
    ) -> Float[Array, "b"]:
        """`length` counts the text's tokens before its padding, which is never attended to."""
        config, stack = self.config, self.config.transformer
        l, normal = text.shape[1], embedding_init(stack)
        words = self.param("token_embedding", normal, (config.vocabulary, stack.width))
        position = self.param("position_embedding", normal, (config.positions, stack.width))
        types = self.param("type_embedding", normal, (2, stack.width))
        dense = functools.partial(linear, precision=stack.precision, init_std=stack.init_std)
        said = words[text] + position[None, :l] + types[None, :1]
        shown = dense(stack.width, name="image_projection")(image) + types[None, 1:]
        x = jnp.concatenate([said, shown], axis=1)
        if stack.norm is Norm.POST:
            x = layer_norm(stack.epsilon, "embedding_norm")(x)
        place = jnp.arange(x.shape[1])[None]
        seen = (place < length[:, None]) | (place >= l)
        bias = jnp.where(seen, 0.0, -1e9)[:, None, None, :]
        x = Transformer(stack, name="transformer")(x, bias, FIRST)
        if stack.norm is Norm.PRE:
            x = layer_norm(stack.epsilon, "final_norm")(x)
        return dense(1, name="head")(x[:, 0])[:, 0]


@functools.partial(jax.jit, static_argnames="module")
def score_pairs(
    params: Any, image: Array, text: Array, length: Array, module: CrossEncoder
) -> Float[Array, "b"]:
    """The logit of each pair."""
    return apply(module, params, image, text, length)


@dataclasses.dataclass(frozen=True)
class Bench:
    """The towers, the cross-encoder and the shapes that they read."""

    model: TwoStream
    sizes: Sizes

    @property
    def cross(self) -> CrossEncoder:
        """The text tower's stack, attending to everything."""
        text = self.model.config.text
        stack = dataclasses.replace(text.transformer, span=Span.FULL)
        return CrossEncoder(dataclasses.replace(text, transformer=stack))

    @property
    def preprocessing(self) -> Preprocessing:
        """What the image tower is fed with."""
        vision = self.model.config.vision
        return Preprocessing(vision.image_size, vision.mean, vision.std)

    def pictures(self, b: int) -> Any:
        """Shape of b pictures."""
        side = self.model.config.vision.image_size
        return jax.ShapeDtypeStruct((b, 1, side, side, 3), jnp.uint8)

    def text(self, b: int, tokens: int) -> tuple[Any, Any]:
        """Shapes of b texts and their lengths."""
        ids, lengths = (b, tokens), (b,)
        return jax.ShapeDtypeStruct(ids, jnp.int32), jax.ShapeDtypeStruct(lengths, jnp.int32)

    def rows(self, batch: int, tokens: int) -> int:
        """How many rows of `tokens` are about as much work as `batch` pairs of `patches`."""
        longest = self.model.config.vision.tokens + 1 + self.sizes.text_tokens
        return max(1, batch * longest // tokens)

    def pair(self, partner: str, b: int) -> tuple[Any, Any, Any]:
        """Shapes of b pairs: features, ids and lengths."""
        sizes, vision = self.sizes, self.model.config.vision
        shape, tokens = (b, vision.tokens + 1, vision.transformer.width), sizes.text_tokens
        if partner == "regions":
            shape, tokens = (b, sizes.regions, REGION_WIDTH), sizes.region_text
        return jax.ShapeDtypeStruct(shape, jnp.float32), *self.text(b, tokens)


def operations(bench: Bench) -> dict[str, int]:
    """Floating-point operations of each part: one image, one text, one pair, whole rankings."""
    model, key = bench.model, jax.random.key(0)
    towers = jax.eval_shape(model.init_towers, key)
    image = functools.partial(encode_images, model=model, preprocessing=bench.preprocessing)
    text = count_flops(
        functools.partial(encode_texts, model=model),
        towers,
        *bench.text(1, bench.sizes.text_tokens),
    )
    found = {
        "image": count_flops(image, towers, bench.pictures(1)),
        "text": text,
        "query": text,
        "ranking": _products(bench, bench.sizes.images, bench.sizes.texts),
        "search": _products(bench, 1, bench.sizes.images),
    }
    for partner in PARTNERS:
        shapes = bench.pair(partner, 1)
        params = jax.eval_shape(bench.cross.init, key, *shapes)["params"]
        score = functools.partial(score_pairs, module=bench.cross)
        found[partner] = count_flops(score, params, *shapes)
    return found


def _products(bench: Bench, rows: int, columns: int) -> int:
    """All tiles once, as they are padded; the few that a ranking reads twice count once."""
    e = bench.model.config.vision.embed_dim
    tile = [jax.ShapeDtypeStruct((n, e), jnp.float32) for n in (TILE.rows, TILE.columns)]
    return -(-rows // TILE.rows) * -(-columns // TILE.columns) * count_flops(score_tile, *tile)


@dataclasses.dataclass(frozen=True)
class Part:
    """Something timed; `run` ends when its result is there, and does `items` of them."""

    run: Callable[[], Any]
    items: int = 1


def parts(bench: Bench, batch: int) -> dict[str, Part]:
    """The parts on random inputs and weights, each with about as many tokens a block.

    The towers go the way of evaluation, transfers included; the features that a cross-encoder
    reads lie on the device already.
    """
    model, sizes, chance = bench.model, bench.sizes, np.random.default_rng(0)
    towers = random_weights(jax.eval_shape(model.init_towers, jax.random.key(0)))
    b, many = bench.rows(batch, model.config.vision.tokens), bench.rows(batch, sizes.text_tokens)
    pictures = chance.integers(0, 256, bench.pictures(b).shape, np.uint8)
    pictures = ImageBatch(pictures, *_rows(b))
    texts = TextBatch(*_texts(bench, chance, many, sizes.text_tokens), *_rows(many))
    query = jax.tree.map(lambda leaf: leaf[:1], texts)
    images, captions = (
        _unit_rows(chance, n, model.config.vision.embed_dim) for n in (sizes.images, sizes.texts)
    )
    groups = np.arange(sizes.images), np.arange(sizes.texts) * sizes.images // sizes.texts
    embed = functools.partial(embed_images, towers, model, bench.preprocessing)
    found = {
        "image": Part(lambda: embed([pictures]), b),
        "text": Part(lambda: embed_texts(towers, model, [texts]), many),
        "query": Part(lambda: embed_texts(towers, model, [query])),
        "ranking": Part(lambda: rank_both_ways(images, captions, *groups)),
        "search": Part(lambda: top_candidates(captions[:1], images, SHOWN)),
    }
    return found | {name: _scoring(bench, chance, name, batch) for name in PARTNERS}


def _rows(b: int) -> tuple[Int[np.ndarray, "b"], Float32[np.ndarray, "b"]]:
    """Groups and weights of b real rows."""
    return np.zeros(b, np.int32), np.ones(b, np.float32)


def _scoring(bench: Bench, chance: np.random.Generator, partner: str, batch: int) -> Part:
    image, text, _ = bench.pair(partner, 1)
    b = bench.rows(batch, image.shape[1] + text.shape[1])
    features, ids, _ = bench.pair(partner, b)
    image = chance.standard_normal(features.shape, np.float32)
    pair = jax.device_put((image, *_texts(bench, chance, *ids.shape)))
    shapes = jax.eval_shape(bench.cross.init, jax.random.key(0), *pair)
    params = random_weights(shapes["params"])
    run = functools.partial(score_pairs, params, *pair, module=bench.cross)
    return Part(lambda: jax.block_until_ready(run()), b)


def _texts(
    bench: Bench, chance: np.random.Generator, b: int, tokens: int
) -> tuple[Int[np.ndarray, "b l"], Int[np.ndarray, "b"]]:
    """Random words; none is padding, which would take the same time."""
    ids = chance.integers(0, bench.model.config.text.vocabulary, (b, tokens), np.int32)
    return ids, np.full(b, tokens, np.int32)


def _unit_rows(chance: np.random.Generator, n: int, e: int) -> Float32[np.ndarray, "n e"]:
    rows = chance.standard_normal((n, e), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(found: Mapping[str, Part], repeats: int) -> dict[str, list[float]]:
    """Milliseconds an item, a list of blocks for each part; the parts take turns."""
    for part in found.values():
        part.run()  # compiles
    blocks: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, part in found.items():
            begin = time.perf_counter()
            part.run()
            blocks[name].append(1e3 * (time.perf_counter() - begin) / part.items)
    return blocks


def totals(cost: Costs, images: int, texts: int) -> dict[str, dict[str, float]]:
    """The formulas: what each case costs as a whole, in the unit of its parts."""
    image, pairs = cost["image"], images * texts
    offline = {"towers": images * image + texts * cost["text"] + cost["ranking"]}
    online = {"towers": cost["query"] + cost["search"]}
    for name in PARTNERS:
        offline[f"{name}, cached"] = images * image + pairs * cost[name]
        offline[f"{name}, uncached"] = pairs * (image + cost[name])
        online[f"{name}, cached"] = images * cost[name]
        online[f"{name}, uncached"] = images * (image + cost[name])
    return {"offline": offline, "online": online}


def ratios(total: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """How many times the towers' cost each cross-encoder has."""
    return {
        case: {name: cost / costs["towers"] for name, cost in costs.items() if name != "towers"}
        for case, costs in total.items()
    }


def measured(bench: Bench, batch: int, repeats: int) -> dict[str, Any]:
    """All that is found, JSON-able; with no repeats the operations alone."""
    costs: dict[str, Costs] = {"operations": operations(bench)}
    found = parts(bench, batch) if repeats else {}
    blocks = timed(found, repeats)
    if blocks:
        costs["milliseconds"] = {name: statistics.median(b) for name, b in blocks.items()}
    sizes = bench.sizes
    whole = {unit: totals(cost, sizes.images, sizes.texts) for unit, cost in costs.items()}
    return {
        "sizes": {**dataclasses.asdict(sizes), "batch": batch, "repeats": repeats},
        "weights": "random",
        "formulas": FORMULAS,
        "parts": costs,
        "blocks_milliseconds": blocks,
        "items_a_block": {name: part.items for name, part in found.items()},
        "totals": whole,
        "ratios": {unit: ratios(total) for unit, total in whole.items()},
    }


def machine(hardware: HardwareConfig) -> dict[str, Any]:
    """Device, precision and versions."""
    return measure.machine() | {
        "devices": 1,  # that are used
        "hardware_row": hardware.row,
        "precision": str(hardware.precision),
        "versions": measure.versions(),
    }


def table(found: Mapping[str, Any]) -> str:
    """The parts, then the ratios."""
    costs, times = found["parts"], found["ratios"]
    lines = [_row("part", [UNITS[unit][0] for unit in costs])]
    for name in costs["operations"]:
        values = [cost[name] / UNITS[unit][1] for unit, cost in costs.items()]
        lines.append(_row(name, [f"{value:,.4g}" for value in values]))
    for case in FORMULAS:
        lines += ["", _row(f"{case}, times the towers'", [UNITS[unit][0] for unit in times])]
        for name in times["operations"][case]:
            lines.append(_row(name, [f"{ratio[case][name]:,.0f}" for ratio in times.values()]))
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def _flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cross_encoder", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", default="b16-384", help="a size of models/two_stream.py")
    parser.add_argument("--hardware", default="", help="a row of configs/hardware.py")
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--batch", type=int, default=2, help="pairs of `patches` at a time")
    parser.add_argument("--repeats", type=int, default=5, help="blocks; 0: count operations only")
    parser.add_argument("--out", type=Path, help="a JSON file")
    return parser.parse_args(argv)


def _check(flags: argparse.Namespace, bench: Bench) -> None:
    sizes = dataclasses.asdict(bench.sizes)
    for name, value in {**sizes, "batch": flags.batch, "repeats": flags.repeats}.items():
        least = 0 if name == "repeats" else 1
        if value < least:
            raise UserError(f"--{name} is {value}: use {least} or more")
    if bench.sizes.texts < bench.sizes.images:
        raise UserError(
            f"--texts={bench.sizes.texts} is less than --images={bench.sizes.images}: each image "
            "needs a text of its own"
        )
    longest = max(bench.sizes.text_tokens, bench.sizes.region_text)
    positions = bench.model.config.text.positions
    if longest > positions:
        raise UserError(
            f"{longest} text tokens are more than the {positions} positions of {flags.model}: "
            f"use --text_tokens and --region_text of at most {positions}"
        )


def main(argv: Sequence[str]) -> int:
    """Measures and prints. Exit status: 0 done, 1 failed with one line of reason, 2 wrong use."""
    flags = _flags(argv)
    try:
        config = build_config(load_config(f"{HARDWARE}:{flags.hardware}").to_dict())
        size = model_size(flags.model, config.hardware)
        sizes = Sizes(**{field.name: getattr(flags, field.name) for field in _fields()})
        bench = Bench(TwoStream(size, MaskedConfig()), sizes)
        _check(flags, bench)
        use_compilation_cache()
        found = measured(bench, flags.batch, flags.repeats)
        found = {"model": flags.model, **machine(config.hardware), **found}
        if flags.out:
            write_whole(flags.out, json.dumps(found, indent=1) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(found))
    return 0


def _fields() -> tuple[Any, ...]:
    return dataclasses.fields(Sizes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
