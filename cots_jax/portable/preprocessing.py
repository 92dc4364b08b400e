# SPDX-License-Identifier: Apache-2.0
"""What comes before the two functions, for others to do: `preprocessing.json`, `tokenizer.json`."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from cots_jax.data.pictures import longest_side
from cots_jax.data.prepare.pictures import JPEG_QUALITY
from cots_jax.data.tokenizer import Tokenizer
from cots_jax.pretrained import Pretrained
from cots_jax.weights.exported import WORDS

FILE = "preprocessing.json"


def write_preprocessing(folder: Path, opened: Pretrained) -> None:
    """Both files, made so that `examples/preprocess.py` needs nothing else."""
    text = json.dumps(describe(opened), indent=1) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
    length = opened.config.data.text_length
    (folder / WORDS).write_text(complete_tokenizer(opened.tokenizer, length), encoding="utf-8")


def describe(opened: Pretrained) -> dict[str, Any]:
    """Of pictures, texts and scores, in JSON."""
    how, words = opened.preprocessing, opened.tokenizer
    return {
        "format": 1,
        "image": {
            "size": how.size,
            "stored": {
                "what": "upright, RGB over white; shrunk, never enlarged, and kept as a JPEG, as "
                "the training pictures were; a JPEG that is so already is taken as it is",
                "longest_side": longest_side(how.size),
                "resample": "lanczos",
                "jpeg_quality": JPEG_QUALITY,
            },
            "crop": "square from the centre of the longer side",
            "resample": "bicubic, antialiased (Pillow)",
            "dtype": "uint8",
            "channels": "RGB",
            "layout": "[batch, height, width, channel]",
            "normalisation": {
                "where": "inside of the exported functions",
                "formula": "(value / 255 - mean) / std",
                "mean": list(how.mean),
                "std": list(how.std),
            },
        },
        "text": {
            "tokenizer": WORDS,
            "length": opened.config.data.text_length,
            "vocabulary": words.vocab_size,
            "lower_case": is_lower_case(words),
            "start": _piece(words, words.cls_id),
            "end": _piece(words, words.sep_id),
            "padding": _piece(words, words.pad_id) | {"side": "right"},
            "too_long": "loses its end, keeps the end token",
            "special_tokens_in_a_text": "are text: set encode_special_tokens",
            "dtype": "int32",
            "text_length": "tokens before the padding, start and end counted",
        },
        "score": {
            "embedding": f"float32 [batch, {opened.model.config.vision.embed_dim}], of length 1",
            "similarity": "dot product",
            "temperature": opened.temperature(),
        },
    }


def complete_tokenizer(tokenizer: Tokenizer, length: int) -> str:
    """A tokenizer.json that adds start and end, cuts, and pads to `length` by itself.

    Ours leaves that to the caller, who may want another length.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    start, end = (tokenizer.token(id) for id in (tokenizer.cls_id, tokenizer.sep_id))
    backend.post_processor = processors.TemplateProcessing(
        single=[start, "$A", end],
        special_tokens=[(start, tokenizer.cls_id), (end, tokenizer.sep_id)],
    )
    backend.enable_truncation(length)
    padding = tokenizer.token(tokenizer.pad_id)
    backend.enable_padding(length=length, pad_id=tokenizer.pad_id, pad_token=padding)
    return backend.to_str()


def is_lower_case(tokenizer: Tokenizer) -> bool:
    """Whether it takes capitals for small letters."""
    normalizer = tokenizers.Tokenizer.from_str(tokenizer.to_json()).normalizer
    return normalizer is not None and normalizer.normalize_str("Ab").strip() == "ab"


def _piece(tokenizer: Tokenizer, id: int) -> dict[str, Any]:
    return {"token": tokenizer.token(id), "id": id}
