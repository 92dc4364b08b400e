# SPDX-License-Identifier: Apache-2.0
"""Rules for the parts that every format has: norms, dense layers, attention."""

from collections.abc import Sequence

from cots_jax.weights.mapping import Rule, Turn
from cots_jax.weights.turns import MATRIX, SAME, THREE_MATRICES, THREE_VECTORS, VECTOR

BLOCKS = "transformer/blocks"


def norm(theirs: str, ours: str) -> list[Rule]:
    """torch's LayerNorm."""
    return [
        Rule((f"{theirs}.weight",), f"{ours}/scale", SAME),
        Rule((f"{theirs}.bias",), f"{ours}/bias", SAME),
    ]


def dense(theirs: str, ours: str, kernel: Turn = MATRIX) -> list[Rule]:
    """torch's Linear, or a convolution over patches."""
    return [
        Rule((f"{theirs}.weight",), f"{ours}/kernel", kernel),
        Rule((f"{theirs}.bias",), f"{ours}/bias", VECTOR),
    ]


def query_key_value(theirs: str, parts: Sequence[str]) -> list[Rule]:
    """Three Linears as one product of ours. A part that ends in ? has no bias."""
    ours = f"{BLOCKS}/attention/qkv"
    names = [part.removesuffix("?") for part in parts]
    biases = ["" if part.endswith("?") else f"{theirs}.{part}.bias" for part in parts]
    return [
        Rule(tuple(f"{theirs}.{n}.weight" for n in names), f"{ours}/kernel", THREE_MATRICES),
        Rule(tuple(biases), f"{ours}/bias", THREE_VECTORS),
    ]
