# SPDX-License-Identifier: Apache-2.0
"""DALL-E's encoder in OpenAI's own names and as Hugging Face's FlavaImageCodebook."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cots_jax.errors import UserError
from cots_jax.models.dalle import CELL, GROUPS, DalleConfig, Encoder
from cots_jax.switches import Precision
from cots_jax.weights.files import read_tensors
from cots_jax.weights.mapping import Format, Rule, Turn, import_tree
from cots_jax.weights.turns import SAME

SMALLEST = 4  # channels: a block's inner layers have a fourth of them

# torch's convolution [out, in, h, w] -> [h, w, in, out].
CONVOLUTION = Turn(
    lambda shape: [(shape[3], shape[2], shape[0], shape[1])],
    lambda theirs, shape: theirs[0].transpose(2, 3, 1, 0),
    lambda ours: [ours.transpose(3, 2, 0, 1)],
)


@dataclasses.dataclass(frozen=True)
class _Names:
    """How one publisher names the layers of a block, and the arrays of a layer."""

    block: str  # of group {g} and number {b}
    path: str
    kernel: str
    bias: str


_OPENAI = _Names("blocks.group_{g}.block_{b}", "res_path", "w", "b")
_FLAVA = _Names("blocks.group_{g}.group.block_{b}", "res_path.path", "weight", "bias")


def _rules(names: _Names, blocks: int) -> tuple[Rule, ...]:
    layers = {"input": "blocks.input", "output": "blocks.output.conv"}
    for g in range(1, GROUPS + 1):
        for b in range(1, blocks + 1):
            ours, theirs = f"group_{g}_block_{b}", names.block.format(g=g, b=b)
            layers[f"{ours}_straight"] = f"{theirs}.id_path"
            for number in range(1, 5):
                layers[f"{ours}_conv_{number}"] = f"{theirs}.{names.path}.conv_{number}"
    return tuple(
        rule
        for ours, theirs in layers.items()
        for rule in (
            Rule((f"{theirs}.{names.kernel}",), f"{ours}/kernel", CONVOLUTION),
            Rule((f"{theirs}.{names.bias}",), f"{ours}/bias", SAME),
        )
    )


def formats(blocks: int = 2) -> tuple[Format, Format]:
    """OpenAI's own names, and Hugging Face's."""
    return (
        Format("DALL-E's encoder", _rules(_OPENAI, blocks), prefixes=("encoder.", "")),
        Format(
            "FlavaImageCodebook",
            _rules(_FLAVA, blocks),
            prefixes=("image_codebook.", ""),
            left=(r"flava\..*", r"mim_head\..*", r"mlm_head\..*", r"itm_head\..*", r"mmm_.*"),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Dalle:
    """An encoder out of a file."""

    config: DalleConfig
    params: Mapping[str, Any]


def read_dalle(path: Path, grid: int, precision: Precision) -> Dalle:
    """The encoder of a file or folder, its sizes read off the arrays.

    grid: cells a side of the pictures that it will see. Raises UserError where nothing fits.
    """
    tensors = read_tensors(path)
    for number, fmt in enumerate(formats()):
        first, last = (rule.theirs[0] for rule in (fmt.rules[0], fmt.rules[2]))
        prefix = next((p for p in ("", *fmt.prefixes) if p + first in tensors), None)
        if prefix is None or prefix + last not in tensors:
            continue
        shapes = [tensors[prefix + name].shape for name in (first, last)]
        if any(len(shape) != 4 or shape[0] < SMALLEST for shape in shapes):
            raise UserError(
                f"{path} holds no convolutions for {first} and {last} ({shapes[0]} and "
                f"{shapes[1]}): fetch it again"
            )
        hidden, codes = (shape[0] for shape in shapes)
        config = DalleConfig(grid * CELL, codes, hidden, _blocks(tensors), precision)
        fmt = formats(config.blocks)[number]
        return Dalle(config, import_tree(tensors, fmt, shapes_of(config), source=str(path)))
    raise UserError(
        f"{path} holds no image tokenizer that is known here (DALL-E's encoder in OpenAI's names, "
        f"or FlavaImageCodebook); its first names are {', '.join(sorted(tensors)[:3]) or 'none'}"
    )


def _blocks(tensors: Mapping[str, Any]) -> int:
    found = (re.search(r"group_1\.(?:group\.)?block_(\d+)\.", name) for name in tensors)
    return max((int(match.group(1)) for match in found if match), default=1)


def shapes_of(config: DalleConfig) -> Mapping[str, Any]:
    """The shapes of the encoder's parameters."""
    pixels = jnp.zeros((1, CELL, CELL, 3), jnp.float32)
    return jax.eval_shape(Encoder(config).init, jax.random.key(0), pixels)["params"]
