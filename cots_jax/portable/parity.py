# SPDX-License-Identifier: Apache-2.0
"""Whether what was written computes what the model does: a part of every export."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import tokenizers

from cots_jax.errors import UserError
from cots_jax.portable.functions import Signature
from cots_jax.portable.running import Inputs, Run
from cots_jax.pretrained import Pretrained
from cots_jax.weights.exported import WORDS

TOLERANCE = 1e-4  # of an entry of a unit vector, in float32
BATCHES = (1, 5)  # rows: a size that is fixed by mistake would show


@dataclasses.dataclass(frozen=True)
class Probe:
    """Inputs of one function with what the model says to them."""

    name: str
    inputs: Inputs
    expected: np.ndarray


def make_probes(signatures: Mapping[str, Signature], vocabulary: int) -> list[Probe]:
    """Random pictures, black and white ones among them; random texts, the shortest and longest
    among them. Rows are drawn by a fixed seed.
    """
    rng, probes = np.random.default_rng(0), []
    for rows in BATCHES:
        for name, signature in signatures.items():
            shapes = {key: (rows, *x.shape[1:]) for key, x in signature.inputs.items()}
            made = _pictures if name == "image" else _texts
            inputs = made(rng, shapes, vocabulary)
            expected = jax.jit(signature.function)(signature.weights, *inputs.values())
            probes.append(Probe(name, inputs, np.asarray(expected)))
    return probes


def _pictures(rng: np.random.Generator, shapes: Mapping[str, tuple], vocabulary: int) -> Inputs:
    image = rng.integers(0, 256, shapes["image"], np.uint8)
    image[1:2], image[2:3] = 0, 255
    return {"image": image}


def _texts(rng: np.random.Generator, shapes: Mapping[str, tuple], vocabulary: int) -> Inputs:
    rows, longest = shapes["text"]
    length = rng.integers(2, longest + 1, rows, np.int32)
    length[1:2], length[2:3] = 2, longest
    return {"text": rng.integers(0, vocabulary, (rows, longest), np.int32), "text_length": length}


def largest_difference(form: str, run: Run, probes: list[Probe]) -> dict[str, float]:
    """Of each function, over all probes. Raises UserError above TOLERANCE."""
    found: dict[str, float] = {}
    for probe in probes:
        got = run(probe.name, probe.inputs)
        fits = got.shape == probe.expected.shape
        differs = float(np.abs(got - probe.expected).max()) if fits else math.inf
        if not differs <= TOLERANCE:  # a NaN is not above it either
            raise UserError(
                f"the {probe.name} tower as {form} differs from the model by {differs:.3g}, and "
                f"{TOLERANCE:g} is allowed: nothing was exported; leave {form} out of --formats"
            )
        found[probe.name] = max(found.get(probe.name, 0.0), differs)
    return found


def check_tokenizer(folder: Path, opened: Pretrained) -> None:
    """That others get the same ids from tokenizer.json. Raises UserError."""
    words, length = opened.tokenizer, opened.config.data.text_length
    pieces = [words.token(id) for id in range(0, words.vocab_size, max(1, words.vocab_size // 64))]
    texts = ["", "A dog, and a Dog!", "naïve café 日本", " ".join(pieces), *pieces]
    backend = tokenizers.Tokenizer.from_file(str(folder / WORDS))
    backend.encode_special_tokens = True
    theirs, ours = backend.encode_batch(texts), words.encode(texts, length)
    for text, their, ids, count in zip(texts, theirs, ours.ids, ours.length):
        if their.ids != ids.tolist() or sum(their.attention_mask) != count:
            raise UserError(
                f"the tokenizer written for others splits {text!r} in another way: nothing was "
                "exported, as every score would be wrong"
            )
