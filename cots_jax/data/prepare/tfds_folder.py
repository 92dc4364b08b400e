# SPDX-License-Identifier: Apache-2.0
"""A folder that TensorFlow Datasets has made: its shards, and two features of its examples.

TensorFlow is not needed: examples are read as NumPy (`deserialize_example_np`), pictures as the
bytes of their files.
"""

import contextlib
import functools
import io
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from cots_jax.data.prepare.sources import CAPTION_COLUMNS, IMAGE_COLUMNS
from cots_jax.errors import UserError

READABLE = tfds.core.FileFormat.ARRAY_RECORD
RAW = tfds.decode.DeserializeMethod.RAW_BYTES


class Kind(StrEnum):
    """What a feature can be used as."""

    PICTURE = "picture"
    TEXT = "text"
    LABEL = "class label"  # its name is a text


@dataclass(frozen=True)
class Feature:
    """A feature by the keys that lead to it: `captions/text` is `text` within `captions`."""

    path: tuple[str, ...]
    kind: Kind
    connector: Any

    @property
    def name(self) -> str:
        """As it is written in flags."""
        return "/".join(self.path)


@dataclass(frozen=True)
class Shard:
    """One file: examples `first` to `first + length` of a split."""

    split: str
    path: pathlib.Path
    first: int
    length: int


@dataclass(frozen=True)
class Example:
    """The two features of an example: a picture's file, and texts, which may be none at all."""

    picture: bytes
    texts: list[str]


class ExampleError(Exception):
    """An example that cannot be read."""


class TfdsFolder:
    """An opened folder of a data set; UserError where it has not what is asked for."""

    def __init__(self, folder: pathlib.Path, image: str | None, caption: str | None):
        self._builder = _open(folder)
        features = list(features_of(self._builder.info.features))
        self._image = choose(features, image, Kind.PICTURE, "image_feature", IMAGE_COLUMNS)
        self._caption = choose(features, caption, Kind.TEXT, "caption_feature", CAPTION_COLUMNS)
        wanted = _only(self._builder.info.features, [self._image.path, self._caption.path])
        self._features = tfds.features.FeaturesDict(wanted)

    @property
    def splits(self) -> list[str]:
        """Their names."""
        return list(self._builder.info.splits)

    def shards(self, split: str) -> list[Shard]:
        """The files of a split in their order."""
        info = self._builder.info.splits[split]
        ends = np.cumsum(info.shard_lengths).tolist()
        return [
            Shard(split, pathlib.Path(path), end - length, length)
            for path, end, length in zip(info.filepaths, ends, info.shard_lengths)
        ]

    def read(self, split: str, first: int, stop: int) -> Iterator[Example | ExampleError]:
        """Examples `first` to `stop` of a split; those that cannot be read as what is wrong."""
        source = self._builder.as_data_source(f"{split}[{first}:{stop}]", deserialize_method=RAW)
        for number in range(stop - first):
            try:
                yield self._example(source[number])
            # ArrayRecord, protobuf and tfds raise whatever they meet in damaged bytes
            except Exception as error:
                yield ExampleError(str(error))

    def _example(self, raw: bytes) -> Example:
        values: Any = self._features.deserialize_example_np(raw, decoders=self._undecoded)
        picture = functools.reduce(lambda found, key: found[key], self._image.path, values)
        texts = functools.reduce(lambda found, key: found[key], self._caption.path, values)
        return Example(picture, list(self._in_words(texts)))

    @functools.cached_property
    def _undecoded(self) -> Any:
        decoder: Any = tfds.decode.SkipDecoding()
        for key in reversed(self._image.path):
            decoder = {key: decoder}
        return decoder

    def _in_words(self, value: Any) -> Iterator[str]:
        """The texts of a text, a list of them, or class labels; -1 is the label of none."""
        if isinstance(value, bytes):
            yield value.decode("utf-8", "surrogateescape")
        elif isinstance(value, np.ndarray | list):
            for item in value:
                yield from self._in_words(item)
        elif value >= 0:
            yield self._caption.connector.int2str(int(value))


def shard_fault(shard: Shard) -> str | None:
    """Why a file cannot be read as a whole, or None."""
    try:
        found = len(ArrayRecordDataSource([str(shard.path)]))
    except RuntimeError as error:
        return str(error)
    return None if found == shard.length else f"{found} examples where {shard.length} should be"


def features_of(feature: Any, path: tuple[str, ...] = ()) -> Iterator[Feature]:
    """The pictures, texts, lists of texts and class labels below a feature, in its order."""
    features = tfds.features
    if isinstance(feature, features.FeaturesDict):
        for key, below in feature.items():
            yield from features_of(below, (*path, key))
    elif type(feature) is features.Sequence:  # its heirs are videos and the like
        # one picture an example: a list of them would leave open which one is meant
        found = features_of(feature.feature, path)
        yield from (
            Feature(one.path, one.kind, one.connector) for one in found if one.kind != Kind.PICTURE
        )
    elif isinstance(feature, features.LabeledImage):
        return  # a map of classes
    elif isinstance(feature, features.Image) and feature.np_dtype != np.float32:
        yield Feature(path, Kind.PICTURE, feature)
    elif isinstance(feature, features.Text) or _is_text_tensor(feature):
        yield Feature(path, Kind.TEXT, feature)
    elif isinstance(feature, features.ClassLabel):
        yield Feature(path, Kind.LABEL, feature)


def _is_text_tensor(feature: Any) -> bool:
    return type(feature) is tfds.features.Tensor and feature.np_dtype in (np.object_, np.str_)


def choose(
    features: Sequence[Feature], wanted: str | None, kind: Kind, flag: str, known: Sequence[str]
) -> Feature:
    """The wanted feature; or else the only one of its kind, or the only one with a known name.

    Class labels serve as texts where they are asked for. Raises UserError, which lists them all.
    """
    listing = ", ".join(f"{one.name} ({one.kind})" for one in features) or "none that can be used"
    if wanted is not None:
        for one in features:
            of_the_kind = one.kind == kind or (kind is Kind.TEXT and one.kind is Kind.LABEL)
            if one.name == wanted and of_the_kind:
                return one
        raise UserError(f"--{flag}={wanted} is no {kind} of this data set, which has {listing}")
    fitting = [one for one in features if one.kind == kind]
    if len(fitting) > 1:
        fitting = [one for one in fitting if set(one.path) & set(known)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    many = "more than one" if fitting else "no"
    raise UserError(f"the data set has {many} {kind}: name one with --{flag}, of {listing}")


def _only(feature: Any, paths: Sequence[tuple[str, ...]]) -> Any:
    """A feature with nothing in it but what the paths lead to, so that nothing else is decoded."""
    if () in paths:
        return feature
    if isinstance(feature, tfds.features.FeaturesDict):
        return {
            key: _only(below, [path[1:] for path in paths if path[0] == key])
            for key, below in feature.items()
            if any(path[0] == key for path in paths)
        }
    return tfds.features.Sequence(_only(feature.feature, paths))


def _open(folder: pathlib.Path) -> Any:
    try:
        # where TensorFlow is missed, tfds says so in a banner of its own
        with contextlib.redirect_stdout(io.StringIO()):
            builder = tfds.builder_from_directory(folder)
        info = builder.info
        formats = info.available_file_formats()
        if READABLE in formats and info.file_format != READABLE:
            info.set_file_format(READABLE, override=True, override_if_initialized=True)
        empty = not any(split.num_examples for split in info.splits.values())
    except ImportError as error:
        raise UserError(
            f"{folder} has features that tensorflow-datasets cannot describe without TensorFlow "
            f"({_line(error)}), such as videos: make the data set again without them"
        ) from error
    # broken or foreign JSON files meet code that expects its own
    except Exception as error:
        raise UserError(
            f"{folder} cannot be opened as a data set of tensorflow-datasets ({_line(error)}): "
            "make it again with a newer version of it, as array_record"
        ) from error
    if READABLE not in formats:
        has = ", ".join(sorted(one.value for one in formats)) or "no format that is named"
        raise UserError(
            f"{folder} is stored as {has}, which cannot be read without TensorFlow: where you "
            f'have it, make it again with tfds.builder("{info.name}").download_and_prepare('
            'file_format="array_record"), or convert it with `tfds convert_format '
            f"--dataset_version_dir={folder} --out_file_format=array_record --out_dir=…`"
        )
    if empty:
        raise UserError(f"{folder} holds no examples: make the data set again")
    return builder


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
