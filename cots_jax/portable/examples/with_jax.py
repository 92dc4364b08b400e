# SPDX-License-Identifier: Apache-2.0
"""python examples/with_jax.py PICTURE TEXT …: how well each text fits the picture."""

import sys

from jax import export
from preprocess import FOLDER, pixels, tokens
from safetensors.numpy import load_file


def embed(tower, *inputs):
    """Unit vectors [b, e]."""
    stored = (FOLDER / f"stablehlo/{tower}.jax_export").read_bytes()
    function = export.deserialize(bytearray(stored))
    arrays = load_file(FOLDER / "model.safetensors")
    return function.call({k: v for k, v in arrays.items() if k.startswith(tower)}, *inputs)


picture, *texts = sys.argv[1:]
image, text = embed("image", pixels([picture])), embed("text", *tokens(texts))
for words, score in zip(texts, text @ image[0], strict=True):
    print(f"{score:.6f}  {words}")
