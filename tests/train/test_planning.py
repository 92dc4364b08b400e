# SPDX-License-Identifier: Apache-2.0
"""The step of the published sizes as shapes: how many parameters and operations, counted by hand.

docs/cost.md has the same count in words.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest
from doors import PROJECT

from cots_jax.arguments import parse_arguments
from cots_jax.data.tokenizer import train_wordpiece
from cots_jax.models.dalle import DalleConfig
from cots_jax.schema import Config
from cots_jax.train.flops import count_flops
from cots_jax.train.mesh import make_mesh
from cots_jax.train.planning import PlannedStep, planned_step
from cots_jax.weights.dalle import shapes_of

PRETRAIN = f"--config={PROJECT / 'configs' / 'pretrain.py'}:v5e-1"
BATCH = 2
D, FF, LAYERS, WORDS, CODES, E = 768, 3072, 12, 30_522, 8192, 256


def config_of(*flags: str) -> Config:
    # A recomputed forward is no work of the model's, so it is not counted.
    always = (f"--config.batch={BATCH}", "--config.hardware.remat=off")
    return parse_arguments([PRETRAIN, *always, *flags], "").config


@functools.cache
def planned(*flags: str) -> PlannedStep:
    config = config_of(*flags)
    return planned_step(config, make_mesh(config.hardware))


def flops(*flags: str) -> float:
    """Of a pair."""
    step = planned(*flags)
    return count_flops(step.step, *step.arguments) / BATCH


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block() -> int:
    attention = linear(D, 3 * D) + linear(D, D)
    return attention + linear(D, FF) + linear(FF, D) + 2 * 2 * D  # and two norms


def tower_parameters(patches: int) -> tuple[int, int]:
    """(image, text) with projections: cls, mask embedding, positions, patches, final norm; tables
    of words, positions and two types, norm of the embeddings."""
    image = 2 * D + (patches + 1) * D + linear(16 * 16 * 3, D) + LAYERS * block() + 2 * D
    text = (WORDS + 512 + 2) * D + 2 * D + LAYERS * block()
    return image + linear(D, E), text + linear(D, E)


def head_parameters() -> tuple[int, int]:
    """(codes, words): the partner's layer, the transform with its norm, the output; the words'
    output matrix is the embedding."""
    common = linear(D, D) + linear(D, D) + 2 * D
    return common + linear(D, CODES), common + WORDS


@pytest.mark.parametrize(("model", "patches"), [("b16-384", 576), ("b16-224", 196)])
def test_parameters_are_those_counted_by_hand(model: str, patches: int) -> None:
    wanted = sum(tower_parameters(patches)) + sum(head_parameters())
    assert planned(f"--config.model={model}").parameters == wanted


def test_the_number_in_the_documentation() -> None:
    assert planned().parameters == 204_072_250
    # ViT-B/16 and BERT-base without their poolers and heads, as published.
    image, text = tower_parameters(576)
    assert image - linear(D, E) - D == 86_090_496
    assert text - linear(D, E) == 108_891_648


def forward(tokens: int, read: int) -> int:
    """A stack of blocks: 24 n d^2 in the layers, 4 n^2 d in the attention; in the last one queries,
    keys and values of all tokens, 6 n d^2, and the rest of those that are read."""
    last = 6 * tokens * D**2 + 18 * read * D**2 + 4 * read * tokens * D
    return (LAYERS - 1) * (24 * tokens * D**2 + 4 * tokens**2 * D) + last


def by_hand(patches: int, length: int, masked_images: int, masked_texts: int, shared: bool) -> int:
    """Operations of a pair: forward 1, backward 2; the momentum towers go forward only."""

    def towers(image_read: int, text_read: int) -> int:
        image = forward(patches + 1, 1 + image_read) + 2 * patches * (16 * 16 * 3) * D + 2 * D * E
        return image + forward(length, 1 + text_read) + 2 * D * E

    whole, masked = towers(0, 0), towers(masked_images, masked_texts)
    codes = masked_images * (2 * D * D + 2 * D * CODES) + 2 * D * D
    words = masked_texts * (2 * D * D + 2 * D * WORDS) + 2 * D * D
    return whole + 3 * masked + (0 if shared else 3 * whole) + 3 * (codes + words)


@pytest.mark.parametrize(
    ("flags", "patches", "shared"),
    [
        ((), 576, False),
        (("--config.method.masked.forward=shared",), 576, True),
        (("--config.model=b16-224",), 196, False),
    ],
)
def test_operations_agree_with_a_count_by_hand(
    flags: tuple[str, ...], patches: int, shared: bool
) -> None:
    wanted = by_hand(patches, 80, round(0.4 * patches), 12, shared)
    found = flops(*flags)
    assert abs(found - wanted) < 0.02 * wanted, (found, wanted)
    assert found != wanted  # the queue and the augmentation are in it, and small


def test_the_queue_is_counted_column_by_column() -> None:
    """Four products of [b, e] with [e, k] go forward, and two gradients come back for each of the
    two losses; no objective is free of it."""
    short, long = flops("--config.method.queue_length=2048"), flops()
    columns = 12_800 - 2048
    assert (long - short) % (2 * E * columns) == 0
    assert 4 <= (long - short) / (2 * E * columns) <= 12


def test_frames_cost_the_image_tower_alone() -> None:
    """Each one four passes: momentum, online, and its gradients."""
    small = ("--config.model=photo-64", "--config.data.text_length=14")
    small += ("--config.method.weight_mvm=0", "--config.method.queue_length=64")
    two, four = (flops(*small, f"--config.data.frames={t}") for t in (2, 4))
    model = planned(*small, "--config.data.frames=2").step.model
    towers = jax.eval_shape(model.init_towers, jax.random.key(0))
    pixels = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), np.float32)
    image = count_flops(model.encode_image, towers, pixels)
    assert abs((four - two) - 2 * 4 * image) < 0.03 * (four - two)


def test_making_codes_online_costs_what_the_encoder_costs() -> None:
    config, dalle = config_of(), DalleConfig()
    without = planned()
    online = planned_step(config, without.step.mesh, dalle, dict(shapes_of(dalle)))
    assert online.arguments[2].image_tokens is None
    assert online.parameters == without.parameters
    extra = (
        count_flops(online.step, *online.arguments) - count_flops(without.step, *without.arguments)
    ) / BATCH
    assert abs(extra - dalle_by_hand(dalle)) < 0.02 * extra


def dalle_by_hand(config: DalleConfig) -> int:
    """Convolutions of w x w over s x s places: 2 s^2 w^2 in out."""

    def layer(side: int, width: int, inputs: int, outputs: int) -> int:
        return 2 * side**2 * width**2 * inputs * outputs

    side, total, inputs = config.image_size, 0, config.hidden
    total += layer(side, 7, 3, config.hidden)
    for group in range(4):
        outputs = config.hidden * 2**group
        for _ in range(config.blocks):
            total += layer(side, 1, inputs, outputs) if inputs != outputs else 0
            within = outputs // 4
            total += layer(side, 3, inputs, within) + 2 * layer(side, 3, within, within)
            total += layer(side, 1, within, outputs)
            inputs = outputs
        side = side // 2 if group < 3 else side
    return total + layer(side, 1, inputs, config.codes)


def test_a_scan_counts_as_often_as_it_runs() -> None:
    matrix = jax.ShapeDtypeStruct((8, 8), np.float32)

    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=5)[0]

    assert count_flops(looped, matrix) == 5 * 2 * 8**3
    assert count_flops(lambda x: jax.lax.cond(True, lambda: x @ x @ x, lambda: x), matrix) == (
        2 * 2 * 8**3
    )
    with pytest.raises(ValueError, match="no length"):
        count_flops(lambda x: jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ c, x), matrix)


def test_operations_agree_with_xla_on_a_small_unrolled_step() -> None:
    """XLA counts elementwise work too, and there is much of it beside such small products."""
    small = ("--config.model=emoji-32", "--config.data.text_length=14")
    step = planned(*small, "--config.hardware.scan=off", "--config.hardware.precision=float32")
    ours = count_flops(step.step, *step.arguments)
    analysis = jax.jit(step.step).lower(*step.arguments).cost_analysis()
    assert 0.75 * analysis["flops"] < ours < analysis["flops"]


def test_the_words_are_those_of_a_tokenizer_that_is_here(tmp_path: pathlib.Path) -> None:
    tokenizer = train_wordpiece(["a dog on a beach", "two dogs"], 150)
    tokenizer.save(tmp_path / "tokenizer.json")
    config = config_of(f"--config.data.tokenizer={tmp_path}")
    step = planned_step(config, make_mesh(config.hardware)).step
    assert step.model.config.text.vocabulary == tokenizer.vocab_size != WORDS
