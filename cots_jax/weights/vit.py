# SPDX-License-Identifier: Apache-2.0
"""Image towers as Hugging Face (`ViTModel`, `BeitModel`), timm and big_vision name them."""

import re
from collections.abc import Mapping

import numpy as np

from cots_jax.weights.mapping import Format, Rule
from cots_jax.weights.rules import BLOCKS, dense, norm, query_key_value
from cots_jax.weights.turns import (
    FROM_HEADS,
    JAX_PATCHES,
    MATRIX,
    ONE_ROW,
    ONE_TOKEN,
    PATCHES,
    SAME,
    STACK_FIRST,
    STACK_SECOND,
)

_LAYER = "encoder.layer.{i}"
_BLOCK = "blocks.{i}"
_TABLE = "relative_position_bias.relative_position_bias_table"

_HUGGING_FACE = (
    Rule(("embeddings.cls_token",), "cls", ONE_TOKEN),
    *dense("embeddings.patch_embeddings.projection", "patch_embedding", PATCHES),
    *dense(f"{_LAYER}.attention.output.dense", f"{BLOCKS}/attention/out", FROM_HEADS),
    *norm(f"{_LAYER}.layernorm_before", f"{BLOCKS}/attention_norm"),
    *norm(f"{_LAYER}.layernorm_after", f"{BLOCKS}/mlp_norm"),
    *dense(f"{_LAYER}.intermediate.dense", f"{BLOCKS}/mlp_in"),
    *dense(f"{_LAYER}.output.dense", f"{BLOCKS}/mlp_out"),
)

VIT = Format(
    name="Hugging Face's ViT",
    prefixes=("vit.",),
    rules=(
        *_HUGGING_FACE,
        Rule(("embeddings.position_embeddings",), "position_embedding", ONE_ROW),
        Rule(("embeddings.mask_token",), "mask_embedding", ONE_TOKEN),
        *query_key_value(f"{_LAYER}.attention.attention", ("query", "key", "value")),
        *norm("layernorm", "final_norm"),
    ),
    left=(r"pooler\..*", r"classifier\..*", r"decoder\..*"),
    fresh=("projection/.*", "mask_embedding"),
)

BEIT = Format(
    name="Hugging Face's BEiT",
    prefixes=("beit.",),
    rules=(
        *_HUGGING_FACE,
        Rule(("embeddings.mask_token",), "mask_embedding", ONE_TOKEN),
        *query_key_value(f"{_LAYER}.attention.attention", ("query", "key?", "value")),
        Rule((f"{_LAYER}.lambda_1",), f"{BLOCKS}/attention_scale", SAME),
        Rule((f"{_LAYER}.lambda_2",), f"{BLOCKS}/mlp_scale", SAME),
        Rule(
            (f"{_LAYER}.attention.attention.{_TABLE}",),
            f"{BLOCKS}/attention/relative_bias",
            SAME,
        ),
        *norm("layernorm", "final_norm"),
    ),
    left=(r"pooler\..*", r"classifier\..*", r"lm_head\..*", r".*relative_position_index"),
    # Fine-tuned ones have no mask token, and their last norm is that of averaged patches.
    fresh=("projection/.*", "mask_embedding", "final_norm/.*"),
    zero=("position_embedding",),
)

TIMM = Format(
    name="timm's ViT",
    rules=(
        Rule(("cls_token",), "cls", ONE_TOKEN),
        Rule(("pos_embed",), "position_embedding", ONE_ROW),
        *dense("patch_embed.proj", "patch_embedding", PATCHES),
        *norm(f"{_BLOCK}.norm1", f"{BLOCKS}/attention_norm"),
        *dense(f"{_BLOCK}.attn.qkv", f"{BLOCKS}/attention/qkv", MATRIX),
        *dense(f"{_BLOCK}.attn.proj", f"{BLOCKS}/attention/out", FROM_HEADS),
        *norm(f"{_BLOCK}.norm2", f"{BLOCKS}/mlp_norm"),
        *dense(f"{_BLOCK}.mlp.fc1", f"{BLOCKS}/mlp_in"),
        *dense(f"{_BLOCK}.mlp.fc2", f"{BLOCKS}/mlp_out"),
        *norm("norm", "final_norm"),
    ),
    left=(r"head\..*", r"pre_logits\..*"),
    fresh=("projection/.*", "mask_embedding"),
)


def own_tables(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """BEiT's pre-training has one table of relative positions for all layers: one for each."""
    shared = next((name for name in tensors if name.endswith(f"encoder.{_TABLE}")), None)
    if shared is None:
        return dict(tensors)
    prefix = shared.removesuffix(f"encoder.{_TABLE}")
    layer = re.compile(re.escape(f"{prefix}encoder.layer.") + r"\d+")
    layers = {found.group() for found in map(layer.match, tensors) if found}
    own = {f"{each}.attention.attention.{_TABLE}": tensors[shared] for each in sorted(layers)}
    return {name: tensor for name, tensor in tensors.items() if name != shared} | own


def _jax_dense(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule((f"{theirs}/kernel",), f"{ours}/kernel", SAME),
        Rule((f"{theirs}/bias",), f"{ours}/bias", SAME),
    ]


def _jax_norm(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule((f"{theirs}/scale",), f"{ours}/scale", SAME),
        Rule((f"{theirs}/bias",), f"{ours}/bias", SAME),
    ]


def _jax_vit(name: str, attention: int, prefixes: tuple[str, ...], positions: str) -> Format:
    """`attention`: the number behind the attention's name; Flax counted all modules once."""
    block = "Transformer/encoderblock_{i}"
    mixer = f"{block}/MultiHeadDotProductAttention_{attention}"
    second, mlp = (2, 3) if attention else (1, 0)
    parts = [f"{mixer}/{part}" for part in ("query", "key", "value")]
    qkv = f"{BLOCKS}/attention/qkv"
    return Format(
        name=name,
        prefixes=prefixes,
        rules=(
            Rule(("cls",), "cls", ONE_TOKEN),
            Rule((positions,), "position_embedding", ONE_ROW),
            Rule(("embedding/kernel",), "patch_embedding/kernel", JAX_PATCHES),
            Rule(("embedding/bias",), "patch_embedding/bias", SAME),
            *_jax_norm(f"{block}/LayerNorm_0", f"{BLOCKS}/attention_norm"),
            Rule(tuple(f"{part}/kernel" for part in parts), f"{qkv}/kernel", STACK_SECOND),
            Rule(tuple(f"{part}/bias" for part in parts), f"{qkv}/bias", STACK_FIRST),
            *_jax_dense(f"{mixer}/out", f"{BLOCKS}/attention/out"),
            *_jax_norm(f"{block}/LayerNorm_{second}", f"{BLOCKS}/mlp_norm"),
            *_jax_dense(f"{block}/MlpBlock_{mlp}/Dense_0", f"{BLOCKS}/mlp_in"),
            *_jax_dense(f"{block}/MlpBlock_{mlp}/Dense_1", f"{BLOCKS}/mlp_out"),
            *_jax_norm("Transformer/encoder_norm", "final_norm"),
        ),
        left=(r"head/.*", r"pre_logits/.*"),
        fresh=("projection/.*", "mask_embedding"),
    )


AUGREG = _jax_vit("vision_transformer's .npz", 1, (), "Transformer/posembed_input/pos_embedding")
BIG_VISION = _jax_vit("big_vision's .npz", 0, ("params/",), "pos_embedding")
