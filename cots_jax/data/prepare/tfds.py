# SPDX-License-Identifier: Apache-2.0
"""A data set of TensorFlow Datasets on this disk, stored as ArrayRecord."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cots_jax.data.prepare.captions import gather_captions
from cots_jax.data.prepare.fill import Source, prepare_source
from cots_jax.data.prepare.karpathy import RESTVAL
from cots_jax.data.prepare.samples import BadRow, Sample, Unit
from cots_jax.data.prepare.settings import Settings
from cots_jax.data.prepare.source_files import source_arguments
from cots_jax.data.prepare.sources import SPLIT_NAME
from cots_jax.data.prepare.splits import SYNONYMS, TRAIN, train_last
from cots_jax.data.prepare.tars import file_unreadable
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError

if TYPE_CHECKING:  # it takes a second to import, which no other source should wait for
    from cots_jax.data.prepare.tfds_folder import Shard, TfdsFolder

UNIT = 1000  # pictures; own choice
INFO = "dataset_info.json"


@dataclass(frozen=True)
class TfdsOptions(Settings):
    """What `prepare tfds` is asked for."""

    source: pathlib.Path  # a folder, or the name of a data set below `$TFDS_DATA_DIR`
    split: str | None = None  # names, joined by commas; None: all
    image_feature: str | None = None
    caption_feature: str | None = None  # nested ones as `captions/text`


def prepare_tfds(out: pathlib.Path, options: TfdsOptions) -> Prepared:
    """Writes the folder of a TFDS data set, by its own splits: `validation` is `val`, `restval` is
    trained on. Where it has `train` alone, `--held_out` decides.

    Nothing is downloaded, and TensorFlow is not needed.
    """
    folder = find_folder(options.source)
    arguments = source_arguments(folder, out) | {
        "source": f"{folder.parent.name}/{folder.name}",
        "split": options.split,
        "image_feature": options.image_feature,
        "caption_feature": options.caption_feature,
    }
    source = Source("tfds", arguments, lambda: _units(folder, options), str(options.source))
    return prepare_source(out, source, options)


def find_folder(source: pathlib.Path) -> pathlib.Path:
    """The folder with `dataset_info.json`: the source or the only one below it, looked for where
    tensorflow-datasets keeps its data where there is no such path.

    Raises UserError where there is none, or more than one.
    """
    home = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    name = pathlib.Path(str(source).replace(":", "/"))  # NAME/CONFIG:VERSION, as tfds writes it
    top = source if source.exists() else home / name
    if not top.exists():
        raise UserError(
            f"--source={source} is no folder, nor a data set in {home}: give the folder of a "
            f"version, the one that holds {INFO}"
        )
    found = sorted(
        path.parent.resolve()
        for pattern in (INFO, f"*/{INFO}", f"*/*/{INFO}")  # name, config, version
        for path in top.glob(pattern)
        if not path.parent.name.startswith("incomplete.")  # what a killed download has left
    )
    if not found:
        raise UserError(
            f"--source={source} has no {INFO}, also not two folders further down: give the folder "
            "of a data set that tensorflow-datasets has made"
        )
    if len(found) > 1:
        some = ", ".join(str(path) for path in found[:4])
        raise UserError(f"--source={source} has {len(found)} data sets, {some}: name one of them")
    return found[0]


def splits_of(names: Sequence[str], asked: str | None) -> dict[str, str | None]:
    """The splits that are read, those to train on last, each with what it becomes; None where
    `--held_out` is to decide. Raises UserError."""
    wanted = [name for name in (asked or "").split(",") if name] or list(names)
    for name in wanted:
        if name not in names:
            raise UserError(f"--split={asked}: the data set has {', '.join(names)}")
        if not SPLIT_NAME.fullmatch(name):
            raise UserError(f"the split {name!r} cannot name a folder: leave it out with --split")
    if len(names) == 1 and _becomes(names[0]) == TRAIN:
        return {names[0]: None}
    found = {name: _becomes(name) for name in wanted}
    return dict(sorted(found.items(), key=lambda item: train_last(item[1])))


def _becomes(name: str) -> str:
    return TRAIN if name == RESTVAL else SYNONYMS.get(name, name)


@contextmanager
def _units(folder: pathlib.Path, options: TfdsOptions) -> Iterator[Sequence[Unit]]:
    from cots_jax.data.prepare.tfds_folder import TfdsFolder, shard_fault

    opened = TfdsFolder(folder, options.image_feature, options.caption_feature)
    rejects: list[BadRow] = []
    units: list[Unit] = [lambda: iter(rejects)]
    for name, split in splits_of(opened.splits, options.split).items():
        for shard in opened.shards(name):
            fault = shard_fault(shard)
            if fault is not None:
                rejects.append(file_unreadable(shard.path.name, ValueError(fault)))
                continue
            firsts = range(0, shard.length, UNIT)
            units += [partial(_samples, opened, shard, first, split) for first in firsts]
    yield units


def _samples(
    opened: "TfdsFolder", shard: "Shard", first: int, split: str | None
) -> Iterator[Sample | BadRow]:
    stop = min(first + UNIT, shard.length)
    examples = opened.read(shard.split, shard.first + first, shard.first + stop)
    for number, example in enumerate(examples, first + 1):
        id, source_row = f"{shard.split}/{shard.first + number}", f"{shard.path.name}:{number}"
        if isinstance(example, Exception):
            more = (("error", str(example)[:200]),)
            yield BadRow("row_unreadable", source_row, id, more)
            continue
        captions = gather_captions(example.texts, source_row, id)
        yield from captions.rejects
        if captions.cleaned:
            texts = tuple(captions.cleaned), tuple(captions.raw)
            yield Sample(id, *texts, split, source_row, partial(_same, example.picture))


def _same(data: bytes) -> bytes:
    return data
