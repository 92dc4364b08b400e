# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's towers with fused attention, to show that the peer is no straw man."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, BertConfig, ViTConfig

from benchmarks.step.peer_model import Towers
from benchmarks.step.peer_step import PeerBatch
from cots_jax.models.transformer import Activation, TransformerConfig
from cots_jax.models.two_stream import TwoStreamConfig

NAMES = {
    Activation.GELU: "gelu",
    Activation.GELU_TANH: "gelu_new",
    Activation.QUICK_GELU: "quick_gelu",
}


def towers_of(config: TwoStreamConfig, device: str) -> tuple[nn.Module, nn.Module]:
    """Random weights; no dropout, as the peer has none."""
    seen, read = config.vision, config.text
    vit = ViTConfig(**_stack(seen.transformer), image_size=seen.image_size, patch_size=seen.patch)
    bert = BertConfig(
        **_stack(read.transformer),
        vocab_size=read.vocabulary,
        max_position_embeddings=read.positions,
    )
    image_tower, text_tower = (
        AutoModel.from_config(one, attn_implementation="sdpa", add_pooling_layer=False).to(device)
        for one in (vit, bert)
    )
    return image_tower, text_tower


def _stack(config: TransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "hidden_act": NAMES[config.activation],
        "layer_norm_eps": config.epsilon,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def passes(
    config: TwoStreamConfig, towers: Towers, batch: PeerBatch, device: str
) -> dict[str, Callable[[], None]]:
    """Forward and backward of both towers on the batch: the peer's, and Hugging Face's."""
    vit, bert = towers_of(config, device)
    image = batch.image.float() / 127.5 - 1
    planes = image.permute(0, 3, 1, 2).contiguous()
    seen = (torch.arange(batch.text.shape[1], device=device) < batch.text_length[:, None]).long()

    def peer() -> None:
        towers.zero_grad(set_to_none=True)
        found = (
            towers.image(image).tokens.sum()
            + towers.text(batch.text, batch.text_length).tokens.sum()
        )
        found.backward()

    def theirs() -> None:
        vit.zero_grad(set_to_none=True)
        bert.zero_grad(set_to_none=True)
        found = vit(planes).last_hidden_state[:, 1:].sum()
        (found + bert(batch.text, attention_mask=seen).last_hidden_state.sum()).backward()

    return {"peer's towers": peer, "Hugging Face's towers": theirs}
