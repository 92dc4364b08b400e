# SPDX-License-Identifier: Apache-2.0
"""python examples/with_onnxruntime.py PICTURE TEXT …: how well each text fits the picture."""

import sys

import onnxruntime
from preprocess import FOLDER, pixels, tokens


def embed(tower, inputs):
    """Unit vectors [b, e]."""
    return onnxruntime.InferenceSession(FOLDER / f"onnx/{tower}.onnx").run(None, inputs)[0]


picture, *texts = sys.argv[1:]
ids, lengths = tokens(texts)
image = embed("image", {"image": pixels([picture])})
text = embed("text", {"text": ids, "text_length": lengths})
for words, score in zip(texts, text @ image[0], strict=True):
    print(f"{score:.6f}  {words}")
