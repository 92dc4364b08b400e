# SPDX-License-Identifier: Apache-2.0
"""An index made with a trained folder, and the engine beside it."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cots_jax.collection.share import update_share
from cots_jax.collection.sources import Source, open_source
from cots_jax.collection.update import Encoder, Maker, Updated, update
from cots_jax.collection.videos import SECONDS, open_videos
from cots_jax.config import build_config
from cots_jax.data.prepare.tasks import Task
from cots_jax.errors import UserError
from cots_jax.pretrained import Pretrained
from cots_jax.retrieval.approximate import Wanted, follow, forget
from cots_jax.retrieval.embed import embedded_rows
from cots_jax.retrieval.engine import EngineKind, read_copy
from cots_jax.retrieval.index import Index
from cots_jax.retrieval.index_files import TEXTS, Storage, part_vectors
from cots_jax.weights.trained import find_trained

MEASURED = 200  # texts that an engine's recall is measured with
THINGS = (
    "dog cat bird horse car bicycle boat train house bridge tree flower mountain beach street "
    "table chair cup cake book clock hat ball child woman"
)
SAID = (
    "a photo of a {}",
    "a small {}",
    "a red {}",
    "a {} in the snow",
    "two of them: a {} and another",
    "an old {} at night",
    "a drawing of a {}",
    "somebody beside a {}",
)


@dataclasses.dataclass(frozen=True)
class Order:
    """What `search index` is asked for; pictures or videos."""

    model: Path
    out: Path
    storage: Storage
    images: str = ""  # a folder, FOLDER#SPLIT or a tar
    videos: str = ""  # a folder
    seconds: float = SECONDS  # of a video that make one row
    task: Task | None = None  # only its share
    engine: EngineKind | None = None  # as the index has it
    uri: str = ""  # of Milvus

    @property
    def folder(self) -> Path:
        """Of the index that is made."""
        return self.out if self.task is None else self.task.folder(self.out)


def carry_out(order: Order) -> Iterator[str]:
    """Makes or updates an index and its engine; a line for each that was looked at. UserError."""
    if order.uri and order.engine is not EngineKind.MILVUS:
        raise UserError(f"--uri={order.uri} names a Milvus: give --engine=milvus with it")
    if order.videos:
        opening = open_videos(order.videos, order.seconds, order.out)
    else:
        opening = open_source(order.images, order.out)
    done = _index(order.model, opening, order.out, order.storage, order.task)
    yield done.summary(order.folder)
    if order.task is None:
        yield from _bring_engine(order)


def index_collection(model: Path, images: str, out: Path, storage: Storage) -> Updated:
    """Makes or updates the index of `images` (a folder, FOLDER#SPLIT or a tar) in `out`.

    The model is loaded only where a picture has to be embedded. An engine beside the index is left
    to the next `carry_out`, and answers are exact until then. UserError.
    """
    return _index(model, open_source(images, out), out, storage, None)


def _index(
    model: Path,
    opening: AbstractContextManager[Source],
    out: Path,
    storage: Storage,
    task: Task | None,
) -> Updated:
    found = find_trained(model)
    identity = found.identity

    def load() -> Encoder:
        opened = Pretrained.load(model)
        if opened.identity() != identity:
            raise UserError(f"{model} was trained on meanwhile: start again when it has ended")
        return Encoder(
            lambda clips: opened.encode_decoded(clips, embedded_rows(len(clips[0]))),
            opened.encode_texts,
        )

    facts = found.facts
    frames = build_config(facts["config"]).data.frames
    maker = Maker(model, identity, facts["preprocessing"], storage, load, frames)
    with opening as source:
        if task is None:
            return update(out, source, maker)
        return update_share(out, source, maker, task)


def _bring_engine(order: Order) -> Iterator[str]:
    copy = read_copy(order.out)
    kept = Wanted(EngineKind.EXACT) if copy is None else Wanted(copy.kind, copy.uri)
    wanted = kept if order.engine is None else Wanted(order.engine, order.uri)
    if wanted.kind is EngineKind.EXACT:
        forget(order.out)
        return
    index = Index.open(order.out)
    done = follow(index, wanted, functools.partial(_measuring_texts, index, order.model))
    if done is not None:
        yield (
            f"{done.kind} finds {100 * done.recall:.1f} % of the exact best 10 of {done.texts} "
            f"texts (effort {done.effort})"
        )


def _measuring_texts(index: Index, model: Path) -> Float32[np.ndarray, "q e"]:
    """Captions of the index, evenly spread, or made-up texts where it has none (own choice)."""
    parts = index.facts.parts
    if all(TEXTS in part.files for part in parts):
        each = max(1, MEASURED // len(parts))
        chosen = []
        for part in parts[:: max(1, len(parts) // MEASURED)]:
            stored = part_vectors(index.folder, part, TEXTS)
            rows = np.unique(np.linspace(0, len(stored) - 1, each).astype(int))
            chosen.append(np.float32(stored[rows]))
        return np.concatenate(chosen)
    texts = [said.format(thing) for said in SAID for thing in THINGS.split()]
    return Pretrained.load(model).encode_texts(texts)
