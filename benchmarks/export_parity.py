# SPDX-License-Identifier: Apache-2.0
"""Whether an exported model finds what the model finds, on pictures and texts of a prepared split.

    python benchmarks/export_parity.py --model=runs/demo --export=exports/demo \
        --data=data/emoji#emoji_style

Embeds the split's pictures and its first 1,000 captions with the model, as `evaluate` does, and
with each form in the exported folder. Says how far an entry of a vector is from the model's, and
whether the best 10 pictures of each caption are the same ones in the same order. Scores are
products of the float32 vectors in float64. Where two lists differ, it is a swap when the two
candidates' scores by the model are less than 1e-5 apart, and a difference when they are not.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cots_jax.data.decoding import decode_picture
from cots_jax.data.records import open_split
from cots_jax.portable.forms import Form
from cots_jax.portable.functions import Functions
from cots_jax.portable.running import Inputs, Run, runner
from cots_jax.pretrained import Pretrained

TOP = 10
NEAR = 1e-5  # scores nearer than this may change places
BATCH = 100  # no divisor of what the model embeds at once: the export takes any number of rows


def embedded(run: Run, name: str, inputs: Inputs) -> np.ndarray:
    """All rows, some at a time."""
    rows = len(next(iter(inputs.values())))
    parts = [
        run(name, {key: value[at : at + BATCH] for key, value in inputs.items()})
        for at in range(0, rows, BATCH)
    ]
    return np.concatenate(parts)


def best(texts: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Rows of the best pictures of each text, [q, TOP]; equal scores in stored order."""
    scores = texts.astype(np.float64) @ images.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def compared(model: Sequence[np.ndarray], form: Sequence[np.ndarray]) -> dict[str, Any]:
    """Both are (images, texts)."""
    scores = model[1].astype(np.float64) @ model[0].astype(np.float64).T
    ours, theirs = best(model[1], model[0]), best(form[1], form[0])
    apart = np.abs(
        np.take_along_axis(scores, ours, axis=1) - np.take_along_axis(scores, theirs, axis=1)
    )
    other = ours != theirs
    return {
        "image_difference": float(np.abs(model[0] - form[0]).max()),
        "text_difference": float(np.abs(model[1] - form[1]).max()),
        "queries": len(ours),
        "same": int((~other).all(axis=1).sum()),
        "swapped": int((other.any(axis=1) & (apart < NEAR).all(axis=1)).sum()),
        "different": int((apart >= NEAR).any(axis=1).sum()),
    }


def main() -> None:
    """Prints one JSON object; its `different` must be 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a training folder")
    parser.add_argument("--export", required=True, type=Path, help="exported from it")
    parser.add_argument("--data", required=True, help="FOLDER#SPLIT")
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    opened = Pretrained.load(options.model)
    folder, _, split = options.data.partition("#")
    with open_split(folder, split) as records:
        found = [records.record(row) for row in range(len(records))]
    texts = list(itertools.islice(captions(found), options.queries))
    image = np.stack([decode_picture(one.image, opened.preprocessing.size) for one in found])
    words = opened.tokenizer.encode(texts, opened.config.data.text_length)
    given = {"image": {"image": image}, "text": {"text": words.ids, "text_length": words.length}}
    model = [opened.encode_decoded(image[:, None]), opened.encode_texts(texts)]
    signatures = Functions.of(opened).signatures(opened.towers, BATCH)
    facts = json.loads((options.export / "export.json").read_text(encoding="utf-8"))
    report = {"pictures": len(image), "device": jax.devices()[0].device_kind}
    for form in map(Form, facts["formats"]):
        run = runner(options.export, form, signatures)
        report[form] = compared(model, [embedded(run, name, given[name]) for name in given])
    print(json.dumps(report, indent=1))


def captions(records: Sequence[Any]) -> Iterator[str]:
    """In stored order."""
    return itertools.chain.from_iterable(record.captions for record in records)


if __name__ == "__main__":
    main()
