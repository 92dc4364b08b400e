# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification: a picture belongs to the class whose prompts it is nearest to.

A class's vector is the mean of the unit features of its prompts, made a unit vector again
(Radford et al., 2021, section 3.1.4). Which prompts is the user's choice; ours is the bare name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from cots_jax.batch import TextBatch
from cots_jax.data.tokenizer import Encoded, Tokenizer
from cots_jax.models.two_stream import Params, TwoStream
from cots_jax.retrieval.accuracy import Accuracy, class_protocol, measure
from cots_jax.retrieval.answers import first_answers
from cots_jax.retrieval.classes import Classes, Prompts
from cots_jax.retrieval.embed import EMBED_BATCH, embed_texts
from cots_jax.retrieval.protocols import Result

AT_ONCE = 2**14  # prompts whose features are held at a time


@dataclass(frozen=True)
class ClassVectors:
    """Unit vectors of the classes, and by what they were made."""

    classes: Classes
    prompts: Prompts
    vectors: Float32[np.ndarray, "c e"]
    text_length: int  # tokens
    cut: int  # prompts that are longer


def class_vectors(
    towers: Params,
    model: TwoStream,
    tokenizer: Tokenizer,
    length: int,
    classes: Classes,
    prompts: Prompts,
) -> ClassVectors:
    """Embeds every prompt of every class; longer ones than `length` tokens lose their end."""
    said = [prompts.of(words) for words in classes.words]
    vectors, cut = [], 0
    step = max(1, AT_ONCE // max(map(len, said)))
    for first in range(0, len(said), step):
        part = said[first : first + step]
        texts = [text for of_class in part for text in of_class]
        class_of = np.repeat(np.arange(len(part), dtype=np.int32), [len(of) for of in part])
        cut += int((tokenizer.encode(texts, length + 1).length > length).sum())
        encoded = tokenizer.encode(texts, length)
        features = embed_texts(towers, model, _batches(encoded, class_of)).features
        sums = np.zeros((len(part), features.shape[1]), np.float64)
        np.add.at(sums, class_of, features)
        vectors.append(sums / np.linalg.norm(sums, axis=1, keepdims=True))
    joined = np.concatenate(vectors).astype(np.float32)
    return ClassVectors(classes, prompts, joined, length, cut)


def _batches(encoded: Encoded, class_of: np.ndarray) -> Iterator[TextBatch]:
    for start in range(0, len(class_of), EMBED_BATCH):
        rows = np.arange(start, start + EMBED_BATCH)
        real = rows < len(class_of)
        rows = np.where(real, rows, 0)
        group = np.where(real, class_of[rows], np.int32(-1))
        weight = real.astype(np.float32)
        yield TextBatch(encoded.ids[rows], encoded.length[rows], group, weight)


def classify(
    result: Result,
    images: Float32[np.ndarray, "p e"],
    label: Int[np.ndarray, "p"],
    given: ClassVectors,
) -> Accuracy:
    """Sorts the pictures of a set whose retrieval result is `result`; `label`: their classes."""
    labels = given.classes.labels
    answers = first_answers(images, given.vectors, label, np.arange(len(labels)))
    method = {
        "name": "zero-shot",
        "classes_sha256": given.classes.sha256,
        "prompts": list(given.prompts.templates),
        "prompts_sha256": given.prompts.sha256,
        "prompts_cut": given.cut,
        "text_length": given.text_length,
    }
    protocol = class_protocol(result.protocol, len(label), len(labels), method)
    return measure(result.name, protocol, answers, label, labels)
