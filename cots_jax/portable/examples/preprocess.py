# SPDX-License-Identifier: Apache-2.0
"""Pictures and texts to what the exported functions take; `preprocessing.json` says the same.

Needs numpy, pillow and tokenizers, and nothing of the program that trained the model.
"""

import io
import json
from pathlib import Path

import numpy as np
import tokenizers
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parents[1]
SPEC = json.loads((FOLDER / "preprocessing.json").read_text(encoding="utf-8"))
SIZE, STORED = SPEC["image"]["size"], SPEC["image"]["stored"]
LONGEST = STORED["longest_side"]


def tokens(texts):
    """Ids, int32 [b, l], and how many of them stand before the padding, int32 [b]."""
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / SPEC["text"]["tokenizer"]))
    tokenizer.encode_special_tokens = True  # a text that spells [SEP] is a text
    encoded = tokenizer.encode_batch(texts)
    ids = np.array([each.ids for each in encoded], np.int32)
    return ids, np.array([sum(each.attention_mask) for each in encoded], np.int32)


def pixels(files):
    """Pictures as the image tower takes them, uint8 [b, size, size, 3]."""
    return np.stack([_pixels(file) for file in files])


def _pixels(file):
    with Image.open(file) as picture:
        return _square(picture if _is_stored(picture) else Image.open(_stored(picture)))


def _square(picture):
    picture.draft("RGB", (2 * SIZE, 2 * SIZE))  # decodes less of a JPEG that is far too large
    left, top = ((side - min(picture.size)) / 2 for side in picture.size)
    square = (left, top, left + min(picture.size), top + min(picture.size))
    rgb = picture.convert("RGB")
    return np.asarray(rgb.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=square))


def _is_stored(picture):
    """An upright JPEG in RGB that is small already is taken as it is."""
    turned = picture.getexif().get(0x0112) in range(2, 9)
    fits = max(picture.size) <= LONGEST and not turned
    return fits and (picture.format, picture.mode) == ("JPEG", "RGB")


def _stored(picture):
    picture.draft("RGB", (2 * LONGEST, 2 * LONGEST))
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    picture = picture.convert("RGB")
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=STORED["jpeg_quality"])
    return kept
