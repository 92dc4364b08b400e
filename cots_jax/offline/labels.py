# SPDX-License-Identifier: Apache-2.0
"""A trained folder as a classifier: without training by its words, or by a probe of its features.

The label of a picture is its first caption.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt64

from cots_jax.data.pair_table import Source
from cots_jax.data.pipeline import image_batches
from cots_jax.data.records import read_facts
from cots_jax.data.specs import lineage_of, parse_sources
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.accuracy import Accuracy, class_protocol, measure
from cots_jax.retrieval.classes import Classes, Prompts, label_numbers, read_classes, read_prompts
from cots_jax.retrieval.contents import ReadSet, contents_of
from cots_jax.retrieval.embed import embed_images, embedded_rows
from cots_jax.retrieval.evaluation import open_sets
from cots_jax.retrieval.probe import Probe, fit_probe, held_out_tenth, linear_answers
from cots_jax.retrieval.protocols import Result
from cots_jax.retrieval.zero_shot import ClassVectors, class_vectors, classify

BARE = Prompts()  # the words alone
IN_CLASSES = "add them to --classes, or prepare the pictures without them"
IN_PROBE = "the probe has never seen them: name a --probe split that has every class"


@dataclass(frozen=True)
class Labelling:
    """What --classes, --prompts and --probe ask for; nothing where they were not given."""

    classes: Classes | None = None
    prompts: Prompts = BARE
    probe: Source | None = None

    @classmethod
    def read(cls, classes: Path | None, prompts: Path | None, probe: str) -> "Labelling":
        """From files and FOLDER#SPLIT. Raises UserError."""
        if prompts and not classes:
            raise UserError("--prompts is for the words of --classes: name both")
        sources = parse_sources(probe, "--probe")
        if len(sources) > 1:
            raise UserError(f"--probe={probe} names {len(sources)} splits: name one")
        return cls(
            read_classes(classes) if classes else None,
            read_prompts(prompts) if prompts else BARE,
            sources[0] if sources else None,
        )

    def identity(self) -> dict[str, Any]:
        """What tells this from any other, in JSON."""
        found: dict[str, Any] = {}
        if self.classes:
            found |= {"classes": self.classes.sha256, "prompts": self.prompts.sha256}
        if self.probe:
            fingerprint = read_facts(self.probe.folder)["fingerprint"]
            found["probe"] = f"{self.probe.folder}#{self.probe.split} {fingerprint}"
        return found


@dataclass(frozen=True)
class Sorters:
    """What sorts pictures into classes; None where it was not asked for."""

    words: ClassVectors | None
    probe: "TrainedProbe | None"

    @classmethod
    def make(cls, opened: Pretrained, asked: Labelling, sets: Sequence[ReadSet]) -> "Sorters":
        """Raises UserError where the sets have a label that is no class, before they are
        embedded."""
        return cls(_word_vectors(opened, asked, sets), _train_probe(opened, asked, sets))

    def zero_shot(
        self, result: Result, images: Float32[np.ndarray, "p e"], read: ReadSet
    ) -> Accuracy | None:
        """On a set whose retrieval result is `result`."""
        if self.words is None:
            return None
        label = label_numbers(
            read.contents.labels(), self.words.classes.labels, read.where, IN_CLASSES
        )
        return classify(result, images, label, self.words)

    def linear_probe(
        self, result: Result, images: Float32[np.ndarray, "p e"], read: ReadSet
    ) -> Accuracy | None:
        """On a set whose retrieval result is `result`."""
        if self.probe is None:
            return None
        return _probe_accuracy(result, images, read, self.probe)


def _word_vectors(
    opened: Pretrained, asked: Labelling, sets: Sequence[ReadSet]
) -> ClassVectors | None:
    if asked.classes is None:
        return None
    for one in sets:
        label_numbers(one.contents.labels(), asked.classes.labels, one.where, IN_CLASSES)
    length = opened.config.data.text_length
    return class_vectors(
        opened.towers, opened.model, opened.tokenizer, length, asked.classes, asked.prompts
    )


@dataclass(frozen=True)
class TrainedProbe:
    """A probe with the names of its classes and what it was trained on."""

    probe: Probe
    labels: tuple[str, ...]
    name: str  # FOLDER#SPLIT (fingerprint)
    digest: UInt64[np.ndarray, "p"]


def _train_probe(
    opened: Pretrained, asked: Labelling, sets: Sequence[ReadSet]
) -> TrainedProbe | None:
    if asked.probe is None:
        return None
    size, length = opened.preprocessing.size, opened.config.data.text_length
    frames = max(one.chosen.table.frames for one in sets)
    opening = open_sets([asked.probe], opened.tokenizer, size=size, length=length, frames=frames)
    with opening as (train,):
        read = ReadSet(train, contents_of(train.table))
        said = read.contents.labels()
        labels = tuple(sorted(set(said)))
        _check_probe(read, labels, sets)
        batches = image_batches(train.table, embedded_rows(train.table.frames))
        images = embed_images(opened.towers, opened.model, opened.preprocessing, batches)
    label = label_numbers(said, labels, read.where, IN_PROBE)
    held_out = held_out_tenth(read.contents.digests.picture)
    probe = fit_probe(images.features, label, held_out, len(labels))
    (name,) = lineage_of([asked.probe], [read_facts(asked.probe.folder)["fingerprint"]])
    return TrainedProbe(probe, labels, name, read.contents.digests.picture)


def _check_probe(train: ReadSet, labels: Sequence[str], sets: Sequence[ReadSet]) -> None:
    where = train.where
    if len(labels) < 2:
        raise UserError(f"--probe={where} has pictures of one class only: {labels[0]!r}")
    for one in sets:
        if one.place() == train.place():
            raise UserError(f"--probe={where} is evaluated too: name another split with --data")
        label_numbers(one.contents.labels(), labels, one.where, IN_PROBE)


def _probe_accuracy(
    result: Result, images: Float32[np.ndarray, "p e"], read: ReadSet, trained: TrainedProbe
) -> Accuracy:
    probe, labels = trained.probe, trained.labels
    label = label_numbers(read.contents.labels(), labels, read.where, IN_PROBE)
    answers = linear_answers(probe.weights, images, label)
    seen_before = np.isin(read.contents.digests.picture, trained.digest)
    method = {
        "name": "linear probe",
        "trained_on": trained.name,
        "train_pictures": len(trained.digest),
        "features": "joint image features of unit length, centred and scaled",
        "strength": probe.strength,
        "tried": [{"strength": one.strength, "top1": one.top1} for one in probe.tried],
        "chosen_on": probe.held_out,
        "steps": probe.fitted.steps,
        "largest_gradient": probe.fitted.gradient,
        "pictures_also_in_training": int(seen_before.sum()),
    }
    protocol = class_protocol(result.protocol, len(label), len(labels), method)
    return measure(result.name, protocol, answers, label, labels)
