# SPDX-License-Identifier: Apache-2.0
"""python examples/with_numpy.py PICTURE TEXT …: how well each text fits the picture.

Both towers written out in NumPy, from model.safetensors and the architecture in export.json: to
be read, or turned into another language. onnxruntime and JAX are many times as fast.
"""

import json
import math
import sys

import numpy as np
from preprocess import FOLDER, SPEC, pixels, tokens
from safetensors.numpy import load_file

ARRAYS = load_file(FOLDER / "model.safetensors")
FACTS = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))["architecture"]


class Tower:
    """A Transformer encoder; the arrays of its blocks are stacked over the layers."""

    def __init__(self, name, built):
        self.arrays = {k[len(name) + 1 :]: v for k, v in ARRAYS.items() if k.startswith(name)}
        self.built, self.stack = built, built["transformer"]
        self.pre = self.stack["norm"] == "pre"

    def linear(self, x, name, layer=...):
        return x @ self.arrays[f"{name}/kernel"][layer] + self.arrays[f"{name}/bias"][layer]

    def norm(self, x, name, layer=...):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.stack["epsilon"])
        return x * self.arrays[f"{name}/scale"][layer] + self.arrays[f"{name}/bias"][layer]

    def embed(self, x, bias, share):
        """x [b, n, d] through all blocks; `share` [b, n] of a token in its row: unit vectors."""
        for layer in range(self.stack["layers"]):
            for branch in (self.attention, self.mlp):
                name = f"transformer/blocks/{branch.__name__}"
                y = branch(self.norm(x, f"{name}_norm", layer) if self.pre else x, bias, layer)
                if f"{name}_scale" in self.arrays:
                    y = y * self.arrays[f"{name}_scale"][layer]
                x = x + y if self.pre else self.norm(x + y, f"{name}_norm", layer)
        if self.pre:
            x = self.norm(x, "final_norm")
        x = self.linear(np.einsum("bn,bnd->bd", share, x), "projection")
        return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-12)

    def attention(self, x, bias, layer):
        arrays = {k: v[layer] for k, v in self.arrays.items() if "/attention/" in k}
        name = "transformer/blocks/attention"
        q, k, v = (
            np.einsum("bnd,dthc->tbhnc", x, arrays[f"{name}/qkv/kernel"])
            + (arrays[f"{name}/qkv/bias"][:, None, :, None])
        )
        logits = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + bias
        if self.stack["relative_bias_side"]:
            index = relative_index(self.stack["relative_bias_side"])
            logits = logits + arrays[f"{name}/relative_bias"][index].transpose(2, 0, 1)
        if self.stack["span"] == "causal":
            logits = np.where(np.tri(x.shape[1], dtype=bool), logits, -1e30)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ v
        out = np.einsum("bhnc,hcd->bnd", mixed, arrays[f"{name}/out/kernel"])
        return out + arrays[f"{name}/out/bias"]

    def mlp(self, x, bias, layer):
        x = self.linear(x, "transformer/blocks/mlp_in", layer)
        if self.stack["activation"] == "gelu":
            x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        elif self.stack["activation"] == "gelu_tanh":
            x = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        else:
            x = x / (1 + np.exp(-1.702 * x))
        return self.linear(x, "transformer/blocks/mlp_out", layer)


def relative_index(side):
    """Rows of BEiT's table of relative positions for each pair of [CLS] and the patches."""
    row, column = np.divmod(np.arange(side * side), side)
    down, right = (axis[:, None] - axis[None] + side - 1 for axis in (row, column))
    offsets = (2 * side - 1) ** 2
    index = np.full((side * side + 1,) * 2, offsets)
    index[1:, 1:] = down * (2 * side - 1) + right
    index[1:, 0], index[0, 0] = offsets + 1, offsets + 2
    return index


def embed_images(image):
    """uint8 [b, s, s, 3] to unit vectors [b, e]."""
    tower, how = Tower("image", FACTS["vision"]), SPEC["image"]["normalisation"]
    x = (image / 255 - how["mean"]) / how["std"]
    b, s, _, _ = x.shape
    p = tower.built["patch"]
    x = x.reshape(b, s // p, p, s // p, p, 3).transpose(0, 1, 3, 2, 4, 5)
    x = tower.linear(x.reshape(b, -1, p * p * 3), "patch_embedding")
    cls = np.broadcast_to(tower.arrays["cls"], (b, 1, x.shape[-1]))
    x = np.concatenate([cls, x], axis=1) + tower.arrays["position_embedding"]
    if tower.built["embedding_norm"]:
        x = tower.norm(x, "embedding_norm")
    return tower.embed(x, 0, np.eye(x.shape[1])[np.zeros(b, int)])


def embed_texts(ids, lengths):
    """int32 [b, l] and [b] to unit vectors [b, e]."""
    tower, l = Tower("text", FACTS["text"]), ids.shape[1]
    x = tower.arrays["token_embedding"][ids] + tower.arrays["position_embedding"][:l]
    if tower.built["token_types"]:
        x = x + tower.arrays["type_embedding"][0]
    if not tower.pre:
        x = tower.norm(x, "embedding_norm")
    padding = np.arange(l) >= lengths[:, None]
    share = {
        "cls": np.eye(l)[np.zeros_like(lengths)],
        "last": np.eye(l)[lengths - 1],
        "mean": ~padding / lengths[:, None],
    }
    bias = np.where(padding, -1e9, 0)[:, None, None]
    return tower.embed(x, bias, share[tower.built["pooling"]])


if __name__ == "__main__":
    picture, *texts = sys.argv[1:]
    scores = embed_texts(*tokens(texts)) @ embed_images(pixels([picture]))[0]
    for words, score in zip(texts, scores, strict=True):
        print(f"{score:.6f}  {words}")
