# SPDX-License-Identifier: Apache-2.0
"""Karpathy's files come out by the splits that everybody reports."""

import json

import pytest
from prepare_cases import ids, jpeg, reasons, records, write_tar

from cots_jax.data.prepare.karpathy import KarpathyOptions, karpathy_rows, prepare_karpathy
from cots_jax.data.prepare.sources import Row
from cots_jax.errors import UserError


def _entry(name: str, split: str, *raws, **more) -> dict:
    sentences = [{"raw": raw, "tokens": str(raw).split()} for raw in raws]
    return {"filename": name, "split": split, "sentences": sentences, "imgid": 0, **more}


def _write(folder, entries: list) -> KarpathyOptions:
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return KarpathyOptions(folder / "dataset_coco.json", folder / "images.tar")


def test_restval_is_trained_on_and_coco_has_folders(tmp_path):
    entries = [
        _entry("a.jpg", "train", "a dog .", filepath="train2014", cocoid=1),
        _entry("b.jpg", "restval", "a cat .", filepath="val2014", cocoid=2),
        _entry("c.jpg", "test", " two  birds", "more", "more", filepath="val2014", cocoid=3),
    ]
    pictures = [(f"coco/{folder}2014/{name}.jpg", jpeg(ord(name)))
                for folder, name in [("train", "a"), ("val", "b"), ("val", "c")]]  # fmt: skip
    options = _write(tmp_path, entries)
    write_tar(options.images, pictures)
    facts = prepare_karpathy(tmp_path / "out", options).facts
    assert ids(tmp_path / "out") == {
        "test": ["val2014/c.jpg"],
        "train": ["train2014/a.jpg", "val2014/b.jpg"],
    }
    (test,) = records(tmp_path / "out", "test")
    assert test.captions == ("two birds", "more", "more")
    assert test.raw_captions == (" two  birds", "more", "more")
    assert test.source_row == "dataset_coco.json:3"
    assert (facts["kind"], facts["drops"]) == ("karpathy", {})


def test_of_a_picture_in_two_splits_the_one_to_train_on_goes(tmp_path):
    options = _write(tmp_path, [_entry("a.jpg", "train", "x"), _entry("b.jpg", "test", "y"),
                                _entry("c.jpg", "train", "z")])  # fmt: skip
    write_tar(options.images, [("a.jpg", jpeg(0)), ("b.jpg", jpeg(0)), ("c.jpg", jpeg(1))])
    prepare_karpathy(tmp_path / "out", options)
    assert ids(tmp_path / "out") == {"test": ["b.jpg"], "train": ["c.jpg"]}
    assert reasons(tmp_path / "out") == [("picture_also_in_another_split", "a.jpg")]


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (3, ["row_unreadable"]),
        ({}, ["no_image_name"]),
        (_entry("", "train", "x"), ["no_image_name"]),
        ({"filename": "a.jpg", "split": "train"}, ["no_caption"]),
        ({"filename": "a.jpg", "split": "train", "sentences": ["x"]},
         ["caption_no_text", "no_caption"]),
        (_entry("a.jpg", "train", "x", None), ["caption_no_text", ("a.jpg", ("x",))]),
        (_entry("a.jpg", "", "x"), ["bad_split_name"]),
        (_entry("a.jpg", "../x", "x"), ["bad_split_name"]),
        (_entry("a.jpg", None, "x"), ["bad_split_name"]),
        (_entry("a\ud800.jpg", "train", "x"), ["image_name_not_utf8"]),
    ],
)  # fmt: skip
def test_entries_that_are_not_as_they_should_be(tmp_path, entry, found):
    rows = list(karpathy_rows(_write(tmp_path, [entry]).captions))
    assert [(r.image, r.captions) if isinstance(r, Row) else r.reason for r in rows] == found


def test_what_cannot_be_used_at_all_is_one_line(tmp_path):
    options = _write(tmp_path, [])
    with pytest.raises(UserError, match=r"--images=.*images\.tar does not exist"):
        prepare_karpathy(tmp_path / "out", options)
    write_tar(options.images, [])
    with pytest.raises(UserError, match=r"no usable pair in .*json: nothing was dropped"):
        prepare_karpathy(tmp_path / "out", options)
    options.captions.write_text('{"annotations": []}')
    with pytest.raises(UserError, match='has no list "images"'):
        prepare_karpathy(tmp_path / "out", options)
    options.captions.unlink()
    with pytest.raises(UserError, match=r"--captions=.*dataset_coco\.json does not exist"):
        prepare_karpathy(tmp_path / "out", options)
