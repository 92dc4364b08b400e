# SPDX-License-Identifier: Apache-2.0
"""BERT as Hugging Face names it (`BertModel`, `BertForMaskedLM`), with and without `bert.`."""

from collections.abc import Mapping

import numpy as np

from cots_jax.weights.mapping import Format, Rule
from cots_jax.weights.rules import BLOCKS, dense, norm, query_key_value
from cots_jax.weights.turns import FROM_HEADS, SAME

_LAYER = "encoder.layer.{i}"

TEXT_TOWER = Format(
    name="BERT",
    prefixes=("bert.",),
    rules=(
        Rule(("embeddings.word_embeddings.weight",), "token_embedding", SAME),
        Rule(("embeddings.position_embeddings.weight",), "position_embedding", SAME),
        Rule(("embeddings.token_type_embeddings.weight",), "type_embedding", SAME),
        *norm("embeddings.LayerNorm", "embedding_norm"),
        *query_key_value(f"{_LAYER}.attention.self", ("query", "key", "value")),
        *dense(f"{_LAYER}.attention.output.dense", f"{BLOCKS}/attention/out", FROM_HEADS),
        *norm(f"{_LAYER}.attention.output.LayerNorm", f"{BLOCKS}/attention_norm"),
        *dense(f"{_LAYER}.intermediate.dense", f"{BLOCKS}/mlp_in"),
        *dense(f"{_LAYER}.output.dense", f"{BLOCKS}/mlp_out"),
        *norm(f"{_LAYER}.output.LayerNorm", f"{BLOCKS}/mlp_norm"),
    ),
    # The pooler and the next-sentence head have no place here; the masked head is read apart.
    left=(r"pooler\..*", r"cls\..*", r"embeddings\.position_ids"),
    fresh=("projection/.*",),
)

MASKED_HEAD = Format(
    name="BERT's masked head",
    prefixes=("cls.predictions.",),
    rules=(
        *dense("transform.dense", "transform"),
        *norm("transform.LayerNorm", "norm"),
        Rule(("bias",), "bias", SAME),
    ),
    # The output matrix is the token embedding, and its bias stands there twice.
    left=(r"decoder\..*", r"bert\..*", r"cls\.seq_relationship\..*"),
    fresh=("partner/.*",),
)


def modern(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of today: `LayerNorm.gamma` and `.beta` of old files are `.weight` and `.bias`."""
    suffixes = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
    renamed = {}
    for name, tensor in tensors.items():
        old = next((suffix for suffix in suffixes if name.endswith(suffix)), "")
        renamed[name.removesuffix(old) + suffixes.get(old, "")] = tensor
    return renamed
