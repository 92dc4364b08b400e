# SPDX-License-Identifier: Apache-2.0
"""Data sets that tensorflow-datasets itself has written here, and all that can be wrong in them."""

import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from doors import run_prepare
from hypothesis import given
from hypothesis import strategies as st
from prepare_cases import ids, jpeg, reasons, records

from cots_jax.data.prepare import kept, tfds_folder
from cots_jax.data.prepare import tfds as source_of_tfds
from cots_jax.data.prepare.merge import merge_parts
from cots_jax.data.prepare.pictures import normalise_picture
from cots_jax.data.prepare.tasks import Task
from cots_jax.data.prepare.tfds import TfdsOptions, prepare_tfds, splits_of
from cots_jax.data.prepare.tfds_folder import Kind, choose, features_of
from cots_jax.data.prepare.write import Prepared
from cots_jax.errors import UserError

F = tfds.features
tfds.disable_progress_bar()


class Drawn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Features and examples are given, split by split."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, features: dict, splits: dict, **more):
        self._features, self._splits = features, splits
        super().__init__(**more)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(self._features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(found) for name, found in self._splits.items()}

    def _generate_examples(self, examples):
        yield from enumerate(examples)


def build(root: pathlib.Path, features: dict, splits: dict, shards: int = 1) -> pathlib.Path:
    """The folder that `download_and_prepare` makes below `root`."""
    builder = Drawn(features, splits, data_dir=root)
    config = tfds.download.DownloadConfig(num_shards=shards)
    builder.download_and_prepare(file_format="array_record", download_config=config)
    return pathlib.Path(builder.data_path)


COCO_LIKE = {
    "image": F.Image(encoding_format="jpeg"),
    "image/filename": F.Text(),
    "captions": F.Sequence({"id": np.int64, "text": F.Text()}),
    "objects": F.Sequence({"bbox": F.BBoxFeature(), "label": F.ClassLabel(names=["a", "b"])}),
    "mask": F.Image(shape=(None, None, 1)),
}


def coco_like(number: int, *texts: str, seed: int | None = None) -> dict:
    return {
        "image": io.BytesIO(jpeg(number if seed is None else seed)),
        "image/filename": f"{number}.jpg",
        "captions": [{"id": i, "text": text} for i, text in enumerate(texts)],
        "objects": [],
        "mask": io.BytesIO(b"never looked at"),
    }


def simple(*numbers: int) -> list[dict]:
    return [{"image": io.BytesIO(jpeg(i)), "text": f"number {i}"} for i in numbers]


SIMPLE = {"image": F.Image(encoding_format="jpeg"), "text": F.Text()}


def prepare(source: pathlib.Path, out: pathlib.Path, **more) -> Prepared:
    return prepare_tfds(
        out, TfdsOptions(**{"source": source, "held_out": 0.0, "name": "d", **more})
    )


def texts(out: pathlib.Path, split: str) -> set[str]:
    return {caption for record in records(out, split) for caption in record.captions}


def test_pictures_as_they_are_with_the_texts_of_a_nested_feature(tmp_path):
    splits = {
        "train": [coco_like(i, f"one {i}", f"two {i}") for i in range(3)],
        "validation": [coco_like(5, "zwölf  Bären\n", "", "\x00")],
        "restval": [coco_like(7, "seven"), coco_like(8), coco_like(9, "again", seed=5)],
    }
    folder = build(tmp_path, COCO_LIKE, splits)
    out = tmp_path / "out"
    facts = prepare(folder, out, image_feature="image").facts
    assert (facts["kind"], facts["arguments"]["source"]) == ("tfds", "drawn/1.0.0")
    (record,) = records(out, "val")
    assert (record.id, record.image, record.captions) == (
        "validation/1", jpeg(5), ("zwölf Bären",)
    )  # fmt: skip
    assert record.source_row == "drawn-validation.array_record-00000-of-00001:1"
    wanted = {f"{word} {i}" for i in range(3) for word in ("one", "two")} | {"seven"}
    assert texts(out, "train") == wanted
    found = reasons(out)
    assert found[:2] == [("caption_empty", "validation/1")] * 2
    assert {reason for reason, _ in found[2:]} == {"no_caption", "picture_also_in_another_split"}
    assert len(found) == 4
    assert "tensorflow" not in sys.modules


def test_class_labels_by_their_names(tmp_path):
    features = {"image": F.Image(), "label": F.ClassLabel(names=["a red fox", "a grey goose"])}
    examples = [{"image": io.BytesIO(jpeg(i + 1)), "label": i} for i in (0, 1, -1)]
    folder = build(tmp_path, features, {"test": examples})
    prepare(folder, tmp_path / "out", caption_feature="label")
    assert texts(tmp_path / "out", "test") == {"a red fox", "a grey goose"}
    assert [reason for reason, _ in reasons(tmp_path / "out")] == ["no_caption"]
    with pytest.raises(UserError, match=r"has no text: name one with --caption_feature, of "):
        prepare(folder, tmp_path / "other")


def test_train_alone_is_held_out_from(tmp_path):
    folder = build(tmp_path, SIMPLE, {"train": simple(*range(12))})
    prepare(folder, tmp_path / "out", held_out=0.5)
    found = ids(tmp_path / "out")
    assert sorted(found["train"] + found["val"]) == sorted(f"train/{i}" for i in range(1, 13))


def test_some_splits_are_named(tmp_path):
    folder = build(tmp_path, SIMPLE, {"train": simple(0), "dev": simple(1), "extra": simple(2)})
    prepare(folder, tmp_path / "out", split="extra,dev")
    assert set(ids(tmp_path / "out")) == {"dev", "extra"}
    with pytest.raises(UserError, match=r"--split=val: the data set has train, dev, extra"):
        prepare(folder, tmp_path / "other", split="val")


def test_parts_are_the_whole_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    """Units are pieces of shards; what is decoded a second time is only what was not finished."""
    monkeypatch.setattr(source_of_tfds, "UNIT", 2)
    monkeypatch.setattr("cots_jax.data.prepare.shards.SHARD_BYTES", 4000)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    splits = {"train": simple(*range(13)), "test": simple(3, 20, 21)}
    folder = build(tmp_path, SIMPLE, splits, shards=3)
    whole = prepare(folder, tmp_path / "whole").facts
    assert whole["drops"] == {"picture_also_in_another_split": 1}
    for number in (3, 1, 2):
        prepare(folder, tmp_path / "parts", task=Task(number, 3))
    assert merge_parts(tmp_path / "parts").facts == whole
    decoded: list[bytes] = []

    def decode(data: bytes, longest_side: int) -> bytes:
        if len(decoded) == 11:
            raise KeyboardInterrupt
        decoded.append(data)
        return normalise_picture(data, longest_side)

    monkeypatch.setattr(kept, "normalise_picture", decode)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "killed")
    decoded.clear()
    decoded += [b""]  # one more than before is allowed: 16 less the 6 at least that are finished
    assert prepare(folder, tmp_path / "killed").facts == whole


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:1000], "file_unreadable"),
        (lambda data: b"", "file_unreadable"),
        (lambda data: None, "file_unreadable"),
        (lambda data: data.replace(b"number", b"nvmber", 1), "row_unreadable"),
    ],
)
def test_a_damaged_shard_costs_itself_only(tmp_path, damage, reason):
    folder = build(tmp_path, SIMPLE, {"train": simple(*range(8))}, shards=2)
    first = sorted(folder.glob("*array_record-*"))[0]
    data = damage(first.read_bytes())
    first.unlink()
    if data is not None:
        first.write_bytes(data)
    prepare(folder, tmp_path / "out")
    found = reasons(tmp_path / "out")
    assert [what for what, _ in found] == [reason]
    lost = 4 if reason == "file_unreadable" else 1
    assert len(ids(tmp_path / "out")["train"]) == 8 - lost


def test_examples_that_are_none(tmp_path):
    """Whole for ArrayRecord, not for protobuf or for the features."""
    folder = build(tmp_path, SIMPLE, {"train": simple(0, 1)})
    opened = tfds_folder.TfdsFolder(folder, None, None)
    bad = [b"", b"\xff\xff", b"\n\x00"]

    class Damaged:
        def as_data_source(self, *_, **__):
            return bad

    opened._builder = Damaged()
    found = list(opened.read("train", 0, 3))
    assert [type(one).__name__ for one in found] == ["ExampleError"] * 3


def test_names_are_looked_for_where_tfds_keeps_its_data(tmp_path, monkeypatch):
    folder = build(tmp_path / "home", SIMPLE, {"test": simple(0)})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    for number, name in enumerate(["drawn", "drawn/1.0.0", "drawn:1.0.0"]):
        prepare(pathlib.Path(name), tmp_path / f"{number}")
    shutil.copytree(folder, folder.parent / "incomplete.1_1.0.0")
    prepare(pathlib.Path("drawn"), tmp_path / "again")
    shutil.copytree(folder, folder.parent / "2.0.0")
    with pytest.raises(UserError, match=r"--source=drawn has 2 data sets, .*name one of them"):
        prepare(pathlib.Path("drawn"), tmp_path / "more")
    with pytest.raises(UserError, match=r"--source=mnist is no folder, nor a data set in .*home"):
        prepare(pathlib.Path("mnist"), tmp_path / "more")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"has no dataset_info\.json, also not two folders"):
        prepare(tmp_path / "photos", tmp_path / "more")


def rewrite(folder: pathlib.Path, **more) -> None:
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), **more}))


def test_other_formats_say_how_to_make_it_again(tmp_path):
    folder = build(tmp_path, SIMPLE, {"train": simple(0)})
    rewrite(folder, fileFormat="tfrecord")
    said = run_prepare(tmp_path, "tfds", f"--source={folder}", "--out=out")
    assert said.status == 1
    assert "is stored as tfrecord, which cannot be read without TensorFlow" in said.line
    assert 'tfds.builder("drawn").download_and_prepare(file_format="array_record")' in said.line
    assert f"tfds convert_format --dataset_version_dir={folder} --out_file_format=" in said.line


def test_array_record_beside_another_format(tmp_path):
    """What `tfds convert_format` leaves where it is given no folder of its own."""
    folder = build(tmp_path, SIMPLE, {"train": simple(0, 1)})
    rewrite(folder, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    assert prepare(folder, tmp_path / "out").facts["splits"]["train"]["records"] == 2


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("text", ["", "{}", "[", '{"splits": 3}', "\x00"])
def test_broken_descriptions_are_one_line(tmp_path, file, text):
    folder = build(tmp_path, SIMPLE, {"train": simple(0)})
    (folder / file).write_text(text)
    said = run_prepare(tmp_path, "tfds", f"--source={folder}", "--out=out")
    assert said.status == 1
    assert f"{folder} " in said.line


def test_what_tfds_itself_cannot_describe_without_tensorflow_is_one_line(tmp_path, capsys):
    folder = build(tmp_path, SIMPLE, {"train": simple(0)})
    told = json.loads((folder / "features.json").read_text())
    video = {"pythonClassName": "tensorflow_datasets.core.features.video_feature.Video"}
    sizes = {"shape": {"dimensions": ["-1", "4", "4", "3"]}}
    told["featuresDict"]["features"]["film"] = {**video, "video": sizes}
    (folder / "features.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"describe without TensorFlow .*such as videos"):
        prepare(folder, tmp_path / "out")
    assert "Failed to import TensorFlow" not in capsys.readouterr().out


def features(**more) -> list[tfds_folder.Feature]:
    return list(features_of(F.FeaturesDict(more)))


def test_what_can_be_used():
    found = features(**COCO_LIKE, wide=F.Image(shape=(4, 4, 1), dtype=np.float32), n=np.int64)
    usable = {one.name: one.kind for one in found}
    assert usable == {
        "image": Kind.PICTURE,
        "image/filename": Kind.TEXT,
        "captions/text": Kind.TEXT,
        "objects/label": Kind.LABEL,
        "mask": Kind.PICTURE,
    }
    assert not features(many=F.Sequence(F.Image()))


@pytest.mark.parametrize(
    ("given", "wanted", "found"),
    [
        ({"a": F.Text()}, None, "a"),
        ({"a": F.Text(), "caption": F.Text()}, None, "caption"),
        ({"a": F.Text(), "c": {"d": F.Sequence(F.Text())}}, "c/d", "c/d"),
        ({"a": F.Text(), "l": F.ClassLabel(num_classes=2)}, "l", "l"),
        ({"a": F.Text(), "b": F.Text()}, None, r"more than one text: .*a \(text\), b \(text\)"),
        ({"l": F.ClassLabel(num_classes=2)}, None, r"no text: .*of l \(class label\)"),
        ({"i": F.Image()}, "i", r"--caption_feature=i is no text .*has i \(picture\)"),
        ({"n": np.int64}, "n", r"is no text of this data set, which has none that can be used"),
    ],
)
def test_features_are_named_or_found(given, wanted, found):
    def chosen() -> str:
        return choose(features(**given), wanted, Kind.TEXT, "caption_feature", ["caption"]).name

    if "(" in found or " " in found:
        with pytest.raises(UserError, match=found):
            chosen()
    else:
        assert chosen() == found


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=6, unique=True))
def test_what_is_evaluated_comes_first(names):
    found = splits_of(names, None)
    assert set(found) == set(names)
    trained = [split in ("train", None) for split in found.values()]
    assert trained == sorted(trained)
