# SPDX-License-Identifier: Apache-2.0
"""The two towers of CLIP as Hugging Face names them (`CLIPModel`), projections included."""

from cots_jax.weights.mapping import Format, Rule
from cots_jax.weights.rules import BLOCKS, dense, norm, query_key_value
from cots_jax.weights.turns import FROM_HEADS, MATRIX, PATCHES, SAME

_LAYER = "encoder.layers.{i}"

_BLOCK = (
    *query_key_value(f"{_LAYER}.self_attn", ("q_proj", "k_proj", "v_proj")),
    *dense(f"{_LAYER}.self_attn.out_proj", f"{BLOCKS}/attention/out", FROM_HEADS),
    *norm(f"{_LAYER}.layer_norm1", f"{BLOCKS}/attention_norm"),
    *dense(f"{_LAYER}.mlp.fc1", f"{BLOCKS}/mlp_in"),
    *dense(f"{_LAYER}.mlp.fc2", f"{BLOCKS}/mlp_out"),
    *norm(f"{_LAYER}.layer_norm2", f"{BLOCKS}/mlp_norm"),
)

TEXT_TOWER = Format(
    name="CLIP's text tower",
    prefixes=("text_model.",),
    rules=(
        *_BLOCK,
        Rule(("embeddings.token_embedding.weight",), "token_embedding", SAME),
        Rule(("embeddings.position_embedding.weight",), "position_embedding", SAME),
        *norm("final_layer_norm", "final_norm"),
        Rule(("text_projection.weight",), "projection/kernel", MATRIX),
    ),
    left=(r"vision_model\..*", r"visual_projection\..*", "logit_scale", r".*position_ids"),
    zero=("projection/bias",),
)

IMAGE_TOWER = Format(
    name="CLIP's image tower",
    prefixes=("vision_model.",),
    rules=(
        *_BLOCK,
        Rule(("embeddings.class_embedding",), "cls", SAME),
        Rule(("embeddings.patch_embedding.weight",), "patch_embedding/kernel", PATCHES),
        Rule(("embeddings.position_embedding.weight",), "position_embedding", SAME),
        *norm("pre_layrnorm", "embedding_norm"),  # the published spelling
        *norm("post_layernorm", "final_norm"),
        Rule(("visual_projection.weight",), "projection/kernel", MATRIX),
    ),
    left=(r"text_model\..*", r"text_projection\..*", "logit_scale", r".*position_ids"),
    fresh=("mask_embedding",),
    zero=("patch_embedding/bias", "projection/bias"),
)
