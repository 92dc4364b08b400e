# SPDX-License-Identifier: Apache-2.0
"""A table and its pictures become records; what cannot be used is listed and counted."""

import dataclasses
import hashlib
import io
import json
import pathlib
import tarfile
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cots_jax.data.prepare.pairs import PairsOptions, prepare_pairs
from cots_jax.data.prepare.splits import MAX_SPLITS
from cots_jax.data.prepare.tables import Item, assign_splits
from cots_jax.data.prepare.threads import in_order
from cots_jax.data.prepare.write import Outcome
from cots_jax.data.records import Record, list_splits, open_split
from cots_jax.errors import UserError


def _jpeg(seed: int, size: tuple[int, int] = (30, 20)) -> bytes:
    colour = tuple(int(c) for c in np.random.default_rng(seed).integers(0, 256, 3))
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def _source(folder: pathlib.Path, rows: list[dict], pictures: dict[str, bytes]) -> PairsOptions:
    folder.mkdir()
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with tarfile.open(folder / "images.tar", "w") as tar:
        for name, data in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return PairsOptions(folder / "captions.jsonl", folder / "images.tar", held_out=0.0)


def _records(folder: pathlib.Path, name: str) -> list[Record]:
    with open_split(folder, name) as split:
        return [split.record(i) for i in range(len(split))]


def _reasons(folder: pathlib.Path) -> list[tuple[str, str]]:
    lines = map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())
    return [(line["reason"], line["id"]) for line in lines]


def test_rows_of_one_picture_are_one_record_in_the_order_of_the_table(tmp_path):
    rows = [
        {"image": "b.jpg", "caption": " first  of b\n"},
        {"image": "a.jpg", "caption": ["first of a", "second of a"]},
        {"image": "./b.jpg", "caption": "second of b"},
    ]
    options = _source(tmp_path / "in", rows, {"a.jpg": _jpeg(0), "b.jpg": _jpeg(1)})
    prepare_pairs(tmp_path / "out", options)
    b, a = _records(tmp_path / "out", "train")
    assert (b.id, b.group, b.group_id, b.source_row) == ("b.jpg", "b.jpg", 0, "captions.jsonl:1")
    assert b.captions == ("first of b", "second of b")
    assert b.raw_captions == (" first  of b\n", "second of b")
    assert b.image == _jpeg(1)
    assert (a.id, a.group_id, a.captions) == ("a.jpg", 1, ("first of a", "second of a"))


def test_everything_unusable_is_listed_and_counted(tmp_path):
    rows = [
        {"image": "good.jpg", "caption": ["fine", " fine", "", "x" * 1001, "\ud800"]},
        {"image": "cut.jpg", "caption": "cut"},
        {"image": "none.jpg", "caption": "missing"},
        {"image": "../good.jpg", "caption": "outside"},
        {"image": "/good.jpg", "caption": "absolute"},
        {"image": "mute.jpg", "caption": "  "},
        {"caption": "nameless"},
        {"image": "good.jpg", "caption": "fine"},
    ]
    pictures = {"good.jpg": _jpeg(0), "cut.jpg": _jpeg(1)[:-200], "mute.jpg": _jpeg(2)}
    prepared = prepare_pairs(tmp_path / "out", _source(tmp_path / "in", rows, pictures))
    (record,) = _records(tmp_path / "out", "train")
    assert record.captions == ("fine",)
    assert _reasons(tmp_path / "out") == [
        ("caption_duplicate", "good.jpg"),
        ("caption_empty", "good.jpg"),
        ("caption_too_long", "good.jpg"),
        ("caption_not_utf8", "good.jpg"),
        ("picture_missing", "none.jpg"),
        ("picture_name_unsafe", "../good.jpg"),
        ("picture_name_unsafe", "/good.jpg"),
        ("caption_empty", "mute.jpg"),
        ("no_image_name", ""),
        ("caption_duplicate", "good.jpg"),
        ("picture_unreadable", "cut.jpg"),
    ]
    assert sum(prepared.facts["drops"].values()) == 11
    assert prepared.facts["drops"]["caption_duplicate"] == 2


def test_no_usable_pair_is_an_error_that_says_why(tmp_path):
    options = _source(tmp_path / "in", [{"image": "a.jpg", "caption": "x"}], {"a.jpg": b"no"})
    with pytest.raises(UserError, match=r"no usable pair in .*: dropped picture_unreadable 1"):
        prepare_pairs(tmp_path / "out", options)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert _reasons(tmp_path / "out") == [("picture_unreadable", "a.jpg")]


def test_a_split_column_is_kept_as_it_is(tmp_path):
    rows = [
        {"image": "a.jpg", "caption": "a", "split": "train"},
        {"image": "b.jpg", "caption": "b", "split": "restval"},
        {"image": "a.jpg", "caption": "more", "split": "restval"},
    ]
    options = _source(tmp_path / "in", rows, {"a.jpg": _jpeg(0), "b.jpg": _jpeg(1)})
    prepare_pairs(tmp_path / "out", options)
    assert list_splits(tmp_path / "out") == ("restval", "train")
    assert _reasons(tmp_path / "out") == [("picture_in_two_splits", "a.jpg")]


def test_equal_files_share_a_group_and_never_lie_in_two_splits(tmp_path):
    rows = [
        {"image": name, "caption": name, "split": split}
        for name, split in [("a.jpg", "s"), ("b.jpg", "s"), ("c.jpg", "t"), ("d.jpg", "t")]
    ]
    pictures = {name: _jpeg(0) for name in ("a.jpg", "b.jpg", "c.jpg")} | {"d.jpg": _jpeg(1)}
    prepare_pairs(tmp_path / "out", _source(tmp_path / "in", rows, pictures))
    groups = [(r.id, r.group, r.group_id) for r in _records(tmp_path / "out", "s")]
    assert groups == [("a.jpg", "a.jpg", 0), ("b.jpg", "a.jpg", 0)]
    assert [(r.id, r.group_id) for r in _records(tmp_path / "out", "t")] == [("d.jpg", 1)]
    assert _reasons(tmp_path / "out") == [("picture_also_in_another_split", "c.jpg")]


def _items(names: list[str]) -> list[Item]:
    return [Item(name, None, "t", name) for name in names]


def test_the_held_out_part_is_about_right_and_moves_nothing_when_the_table_grows():
    many = _items([f"{i}.jpg" for i in range(4000)])
    assign_splits(many, 0.05)
    held_out = {item.image for item in many if item.split == "val"}
    assert 150 <= len(held_out) <= 250
    few = _items([f"{i}.jpg" for i in range(2000, 0, -1)])
    assign_splits(few, 0.05)
    assert {item.image for item in few if item.split == "val"} == held_out & {
        item.image for item in few
    }


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_something_is_held_out_and_something_is_left(names):
    items = _items(sorted(names))
    assign_splits(items, 1e-9)
    counts = [sum(item.split == split for item in items) for split in ("train", "val")]
    assert counts == ([1, 0] if len(items) == 1 else [len(items) - 1, 1])
    assign_splits(other := _items(sorted(names)), 0.0)
    assert all(item.split == "train" for item in other)


def test_a_split_column_of_another_meaning_is_noticed():
    items = [Item(str(i), str(i), "t", str(i)) for i in range(MAX_SPLITS + 1)]
    with pytest.raises(UserError, match="101 splits"):
        assign_splits(items, 0.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_threads_keep_the_order(delays, workers):
    def slow(delay: int) -> int:
        time.sleep(delay / 5000)
        return delay

    assert list(in_order(slow, delays, workers)) == delays


def test_an_error_in_a_thread_reaches_the_caller():
    def fail(i: int) -> int:
        if i == 5:
            raise ZeroDivisionError
        return i

    with pytest.raises(ZeroDivisionError):
        list(in_order(fail, range(1000), 3))


def test_a_second_run_and_a_changed_table(tmp_path):
    rows = [{"image": "a.jpg", "caption": "a"}]
    options = _source(tmp_path / "in", rows, {"a.jpg": _jpeg(0)})
    assert prepare_pairs(tmp_path / "out", options).outcome is Outcome.MADE
    assert prepare_pairs(tmp_path / "out", options).outcome is Outcome.ALREADY_THERE
    options.captions.write_text('{"image": "a.jpg", "caption": "b"}\n')
    with pytest.raises(UserError, match=r"other arguments \(captions_sha256"):
        prepare_pairs(tmp_path / "out", options)


def test_a_changed_folder_of_pictures_is_noticed(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "in" / "prepared"
    options = _source(folder, [{"image": "a.jpg", "caption": "a"}], {})
    options = dataclasses.replace(options, images=folder)
    (folder / "a.jpg").write_bytes(_jpeg(0))
    assert prepare_pairs(out, options).outcome is Outcome.MADE
    (folder / ".thumbnails").write_text("")
    assert prepare_pairs(out, options).outcome is Outcome.ALREADY_THERE
    (folder / "a.jpg").write_bytes(_jpeg(0, (40, 40)))
    with pytest.raises(UserError, match=r"other arguments \(images_digest"):
        prepare_pairs(out, options)
    (folder / "a.jpg").write_bytes(_jpeg(0))
    assert prepare_pairs(out, options).outcome is Outcome.ALREADY_THERE
    (folder / "below").mkdir()
    (folder / "below" / "b.jpg").write_bytes(_jpeg(1))
    with pytest.raises(UserError, match=r"other arguments \(images_digest"):
        prepare_pairs(out, options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held_out": 1.0}, r"--held_out=1\.0: take a part from 0 to below 1"),
        ({"held_out": float("nan")}, "--held_out=nan"),
        ({"longest_side": 0}, "--longest_side=0: take 8"),
        ({"captions": pathlib.Path("nowhere.csv")}, r"--captions=nowhere\.csv does not exist"),
        ({"images": pathlib.Path("nowhere")}, "--images=nowhere does not exist"),
        ({"captions": pathlib.Path(__file__).parent}, "is no file"),
    ],
)
def test_options_are_checked_before_anything_is_written(tmp_path, change, words):
    options = _source(tmp_path / "in", [{"image": "a.jpg", "caption": "a"}], {"a.jpg": _jpeg(0)})
    with pytest.raises(UserError, match=words):
        prepare_pairs(tmp_path / "out", PairsOptions(**{**vars(options), **change}))
    assert not (tmp_path / "out").exists()


def test_photographs_of_full_size(shared_data, tmp_path):
    source = json.loads((shared_data / "coco_mini" / "captions_val2017.json").read_text())
    names = {picture["id"]: picture["file_name"] for picture in source["images"]}
    rows = [{"file_name": names[a["image_id"]], "caption": a["caption"]}
            for a in source["annotations"]]  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(rows))
    options = PairsOptions(
        tmp_path / "t.json", shared_data / "coco_mini" / "val2017", held_out=0.1, longest_side=128
    )
    facts = prepare_pairs(tmp_path / "out", options).facts
    assert facts["groups"] == len(names) == 79
    assert sum(c["pairs"] for c in facts["splits"].values()) + sum(facts["drops"].values()) == len(
        rows
    )
    for name in ("train", "val"):
        for record in _records(tmp_path / "out", name):
            with Image.open(io.BytesIO(record.image)) as picture:
                assert max(picture.size) == 128
            path = options.images / record.id
            with Image.open(path) as before:
                assert abs(before.width / before.height - picture.width / picture.height) < 0.02


@pytest.mark.slow
def test_flickr8k(shared_data, tmp_path):
    source = shared_data / "flickr8k"
    options = PairsOptions(source / "captions.jsonl", source / "images.tar")
    facts = prepare_pairs(tmp_path / "out", options).facts
    assert facts["splits"]["train"]["records"] == 6000
    assert facts["splits"]["val"] == {"records": 1000, "pairs": 5000, "shards": 1}
    with tarfile.open(source / "images.tar") as tar:
        first = tar.extractfile("images/1000268201_693b08cb0e.jpg")
        assert first is not None
        digest = hashlib.sha256(first.read()).digest()
    record = _records(tmp_path / "out", "train")[0]
    assert hashlib.sha256(record.image).digest() == digest


def test_a_picture_that_rows_mean_by_other_names_is_nobodys(tmp_path):
    """Of a table over two folders where one of them is given: both have a `1.jpg`."""
    rows = [
        {"image": "cats/1.jpg", "caption": "a cat"},
        {"image": "dogs/1.jpg", "caption": "a dog"},
        {"image": "dogs/1.jpg", "caption": "another dog"},
        {"image": "cats/2.jpg", "caption": "a second cat"},
        {"image": "2.jpg", "caption": "the same by its short name"},
    ]
    source = _source(tmp_path / "in", rows, {"1.jpg": _jpeg(1), "2.jpg": _jpeg(2)})
    prepare_pairs(tmp_path / "out", source)
    found = [(r.id, r.captions) for r in _records(tmp_path / "out", "train")]
    assert found == [("cats/2.jpg", ("a second cat", "the same by its short name"))]
    unclear = "picture_name_ambiguous"
    assert _reasons(tmp_path / "out") == [
        (unclear, "cats/1.jpg"), (unclear, "dogs/1.jpg"), (unclear, "dogs/1.jpg"),
    ]  # fmt: skip


def test_splits_are_named_as_other_sources_name_them(tmp_path):
    said = {"a": "Train", "b": "training", "c": "TRAIN", "d": "validation", "e": "Val", "f": "Odd"}
    rows = [{"image": f"{n}.jpg", "caption": n, "split": split} for n, split in said.items()]
    pictures = {f"{name}.jpg": _jpeg(seed) for seed, name in enumerate(said)}
    prepare_pairs(tmp_path / "out", _source(tmp_path / "in", rows, pictures))
    counts = {name: len(_records(tmp_path / "out", name)) for name in list_splits(tmp_path / "out")}
    assert counts == {"Odd": 1, "train": 3, "val": 2}
