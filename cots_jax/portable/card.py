# SPDX-License-Identifier: Apache-2.0
"""README.md of an exported folder: what it is, learned from, how good it is, and its limits."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cots_jax.data.records import read_facts
from cots_jax.errors import UserError
from cots_jax.portable.forms import Form
from cots_jax.portable.parity import BATCHES, TOLERANCE
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.leakage import ENTRY
from cots_jax.retrieval.protocols import Result, read_results, table
from cots_jax.retrieval.stored import RESULTS

FILE = "README.md"
FRONT = """---
library_name: cots_jax
pipeline_tag: zero-shot-image-classification
tags: [image-text-retrieval, jax, {forms}]
---"""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Results of the exported towers, and why there are none where there are none."""

    results: Sequence[Result]
    why: str = ""


def evaluated(folder: Path, identity: Mapping[str, Any], towers: str) -> Evaluated:
    """What `evaluate` left in the model's folder, where it is of these very towers."""
    file = folder / RESULTS
    if not file.is_file():
        return Evaluated((), "not evaluated")
    try:
        made_from = json.loads(file.read_text(encoding="utf-8")).get("made_from", {})
        theirs = {key: made_from.get(key) for key in identity}
        results = read_results(file)
    except (UserError, OSError, ValueError, AttributeError):
        return Evaluated((), f"{RESULTS} cannot be read")
    if theirs != identity or any(one.protocol.towers != towers for one in results):
        return Evaluated((), f"not evaluated: {RESULTS} is of another checkpoint or other towers")
    return Evaluated(results)


def write_card(
    folder: Path,
    opened: Pretrained,
    forms: Sequence[Form],
    found: Evaluated,
    parity: Mapping[str, Mapping[str, float]],
) -> None:
    """Plain Markdown under the few lines that model hubs read."""
    sections = {
        "": _summary(opened),
        "Files": _files(forms),
        "Use": _use(forms),
        "Inputs": _inputs(opened),
        "Trained on": _trained_on(opened),
        "Recall": _recall(found),
        "Intended use and limits": _limits(opened),
        "Checked": _checked(opened, parity),
    }
    title = f"# {opened.config.name}: {opened.config.model}"
    parts = [FRONT.format(forms=", ".join(forms)), title]
    parts += [f"## {name}\n\n{text}" if name else text for name, text in sections.items()]
    (folder / FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _summary(opened: Pretrained) -> str:
    vision, text = opened.model.config.vision, opened.model.config.text
    counts = {name: _count(opened.towers[name]) for name in ("image", "text")}
    seen = opened.step * opened.config.batch
    return f"""\
Two towers that turn pictures and texts into vectors of length 1, whose dot product says how well
they fit. Made with cots_jax, a reimplementation in JAX of COTS (CVPR 2022).

| | image tower | text tower |
| --- | --- | --- |
| parameters | {counts["image"]:,} | {counts["text"]:,} |
| blocks x width x heads | {_stack(vision.transformer)} | {_stack(text.transformer)} |
| sees | {vision.image_size} x {vision.image_size} pixels in patches of {vision.patch} | \
{opened.config.data.text_length} tokens of {text.vocabulary:,} |
| gives | {vision.embed_dim} numbers | {text.embed_dim} numbers |

The {opened.lineage.towers} towers after {opened.step:,} steps of {opened.config.batch:,} pairs \
({seen:,} pairs seen). Trained in {opened.config.hardware.precision}, exported in float32."""


def _files(forms: Sequence[Form]) -> str:
    rows = {
        "model.safetensors": "the arrays of both towers, float32",
        "tokenizer.json": "of Hugging Face's `tokenizers`; adds start and end tokens, cuts, pads",
        "preprocessing.json": "what is done to pictures and texts before",
        "export.json": "config, lineage, temperature, sizes, measured differences",
        "manifest.json": "size and SHA-256 of every file",
        "examples/": "how to use it without the program that made it",
    }
    if Form.STABLEHLO in forms:
        rows["stablehlo/*.jax_export"] = (
            "both functions for `jax.export.deserialize`: any number of rows, CPU, CUDA and TPU; "
            "they take the arrays of model.safetensors"
        )
    if Form.ONNX in forms:
        rows["onnx/*.onnx"] = "both functions with their arrays: any number of rows, opset 18"
    return "\n".join(
        [
            "| file | what |",
            "| --- | --- |",
            *(f"| `{name}` | {what} |" for name, what in rows.items()),
            "\nNone of them is a pickle: nothing in them runs code of its own when it is read.",
        ]
    )


def _use(forms: Sequence[Form]) -> str:
    examples = {
        Form.ONNX: ("with_onnxruntime.py", "onnxruntime"),
        Form.STABLEHLO: ("with_jax.py", "jax flatbuffers safetensors"),
        Form.SAFETENSORS: ("with_numpy.py", "safetensors"),
    }
    lines = []
    for form, (file, packages) in examples.items():
        if form in forms:
            lines += [
                f"    pip install numpy pillow tokenizers {packages}",
                f'    python examples/{file} photo.jpg "a red car" "two dogs"\n',
            ]
    return "\n".join(
        [
            *lines,
            "Or with cots_jax, to which this folder is a `--model` like any training folder:\n",
            "    from cots_jax import Pretrained\n",
            '    model = Pretrained.load("this folder")',
            '    model.encode_texts(["a red car"]) @ model.encode_images(["photo.jpg"]).T',
        ]
    )


def _inputs(opened: Pretrained) -> str:
    side, length = opened.preprocessing.size, opened.config.data.text_length
    e = opened.model.config.vision.embed_dim
    return f"""\
| function | takes | gives |
| --- | --- | --- |
| `image` | `image` uint8 [b, {side}, {side}, 3], RGB | float32 [b, {e}] |
| `text` | `text` int32 [b, {length}], `text_length` int32 [b] | float32 [b, {e}] |

b is any number of rows. Colours are normalised inside. `text_length` counts the tokens before the
padding, start and end included; what stands behind is never attended to. Divide a dot product by
the temperature, {opened.temperature():.4g}, for the logits of a softmax over candidates."""


def _trained_on(opened: Pretrained) -> str:
    lineage = opened.lineage
    lines = [f"- trained on {entry}{_licence(entry)}" for entry in lineage.trained_on]
    lines += [f"- fine-tuned on {entry}{_licence(entry)}" for entry in lineage.fine_tuned_on]
    lines += [
        f"- started from {name}, whose data and licence are not known here"
        for name in lineage.started_from
    ]
    return "\n".join(
        [
            "Folder, split, and the first digits of the fingerprint of its rows:\n",
            *lines,
            "\nWhat the licences of the data mean for these weights is for you to find out.",
        ]
    )


def _licence(entry: str) -> str:
    """What dataset.json says, where the folder is here and still the one that was trained on."""
    named = ENTRY.fullmatch(entry)
    if named is None:
        return ""
    folder, _, fingerprint = named.groups()
    try:
        facts = read_facts(folder)
    except UserError:
        return ": its licence note was not at hand"
    if not facts["fingerprint"].startswith(fingerprint):
        return ": its licence note was not at hand (the folder was prepared anew)"
    return f": {facts.get('licence') or 'without a licence note'}"


def _recall(found: Evaluated) -> str:
    if not found.results:
        return f"None is known here ({found.why}): `python -m cots_jax.evaluate` measures it."
    said = "\n".join(f"    {line}".rstrip() for line in table(found.results).splitlines())
    return f"In percent, as `python -m cots_jax.evaluate` measured it before the export:\n\n{said}"


def _limits(opened: Pretrained) -> str:
    length = opened.config.data.text_length
    return f"""\
For ranking pictures by a text, texts by a picture, and for classes that are named in words. A
score orders the answers to one query; it is no probability, and scores of different queries do not
compare. A text is cut after {length} tokens, start and end included. Of a picture a centred square
is seen, {opened.preprocessing.size} pixels wide: small things are lost.

It knows the kind of pictures and words that it was trained on, with all their gaps and prejudices.
Measure it on pairs of your own before you rely on it; nobody should be judged by it."""


def _checked(opened: Pretrained, parity: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        f"| {form} | {found['image']:.2g} | {found['text']:.2g} |" for form, found in parity.items()
    ]
    return "\n".join(
        [
            f"Read back from the disk and run on {jax.devices()[0].device_kind} (ONNX: on the CPU) "
            f"with random inputs in batches of {' and '.join(map(str, BATCHES))}; largest absolute "
            f"difference of an entry from the model in JAX, float32 ({TOLERANCE:g} is allowed):\n",
            "| form | image | text |",
            "| --- | --- | --- |",
            *rows,
        ]
    )


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _stack(stack: Any) -> str:
    return f"{stack.layers} x {stack.width} x {stack.heads}"
