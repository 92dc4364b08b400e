# SPDX-License-Identifier: Apache-2.0
"""A folder a class: what the caption, the group and the split of each picture are."""

import errno
import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepare_cases import ids, jpeg, reasons, records, rejects

from cots_jax.data.prepare import kept, shards
from cots_jax.data.prepare.classes import ClassesOptions, prepare_classes
from cots_jax.data.prepare.merge import merge_parts
from cots_jax.data.prepare.splits import split_folder
from cots_jax.data.prepare.tasks import parse_task
from cots_jax.data.prepare.twins import Duplicates
from cots_jax.data.records import list_splits
from cots_jax.errors import UserError


def _write(folder: pathlib.Path, *files: str, first: int = 0) -> pathlib.Path:
    """Pictures of these names, each of its own, in `folder/in`."""
    for seed, name in enumerate(files, first):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
    return folder / "in"


def _prepare(folder: pathlib.Path, out: str = "out", **more) -> dict:
    options = ClassesOptions(**{"source": folder / "in", "held_out": 0.0, **more})
    return prepare_classes(folder / out, options).facts


def test_the_caption_is_the_name_and_a_class_is_one_group(tmp_path):
    _write(tmp_path, "golden_retriever/1.jpg", "golden_retriever/deep/2.JPEG", "cat/1.jpg")
    facts = _prepare(tmp_path)
    found = records(tmp_path / "out", "train")
    assert [(r.id, r.captions, r.raw_captions, r.group) for r in found] == [
        ("cat/1.jpg", ("cat",), ("cat",), "cat"),
        ("golden_retriever/1.jpg", *[("golden retriever",)] * 2, "golden retriever"),
        ("golden_retriever/deep/2.JPEG", *[("golden retriever",)] * 2, "golden retriever"),
    ]
    assert [r.group_id for r in found] == [0, 1, 1]
    assert facts["groups"] == 2
    assert facts["kind"] == "classes"
    assert found[2].source_row == "golden_retriever/deep/2.JPEG"


def test_folders_of_splits_stand_above(tmp_path):
    _write(tmp_path, "Train/a/1.jpg", "Train/b/1.jpg", "val2017/a/1.jpg", "test/b/1.jpg")
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {
        "test": ["test/b/1.jpg"],
        "train": ["Train/a/1.jpg", "Train/b/1.jpg"],
        "val": ["val2017/a/1.jpg"],
    }
    groups = {r.captions[0]: r.group_id for r in records(tmp_path / "out", "train")}
    for split in ("val", "test"):
        for record in records(tmp_path / "out", split):
            assert groups[record.captions[0]] == record.group_id


def test_a_class_may_be_called_like_a_split(tmp_path):
    _write(tmp_path, "train/1.jpg", "car/1.jpg")
    _prepare(tmp_path)
    assert [r.captions for r in records(tmp_path / "out", "train")] == [("car",), ("train",)]


def test_splits_beside_classes_are_refused(tmp_path):
    _write(tmp_path, "train/a/1.jpg", "cars/1.jpg")
    with pytest.raises(UserError, match=r"train/ is a folder of a split .* and cars/ is not"):
        _prepare(tmp_path)


def test_whatever_is_no_picture_of_a_class_is_listed(tmp_path):
    source = _write(tmp_path, "a/1.jpg", "_/2.jpg", "loose.jpg", "a/cut.jpg", "a/.hidden.jpg")
    (source / "a" / "cut.jpg").write_bytes(jpeg(9)[:300])
    (source / "a" / "notes.txt").write_text("x")
    (source / "a" / "old.bmp").write_bytes(b"BM")
    (tmp_path / "secret.jpg").write_bytes(jpeg(20))
    (source / "a" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (source / "a" / "loop.jpg").symlink_to(source / "a" / "loop.jpg")
    os.mkfifo(source / "a" / "pipe.jpg")
    facts = _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["a/1.jpg"]}
    assert sorted(reasons(tmp_path / "out")) == [
        ("caption_empty", "_/2.jpg"),
        ("file_in_no_class", "loose.jpg"),
        ("file_no_picture", "a/notes.txt"),
        ("file_no_picture", "a/old.bmp"),
        ("file_not_regular", "a/loop.jpg"),
        ("file_not_regular", "a/pipe.jpg"),
        ("file_outside_folder", "a/out.jpg"),
        ("picture_unreadable", "a/cut.jpg"),
    ]
    assert sum(facts["drops"].values()) == 8


def test_classes_that_are_links_or_closed_are_listed(tmp_path, monkeypatch):
    source = _write(tmp_path, "a/1.jpg", "closed/1.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").write_bytes(jpeg(7))
    (source / "b").symlink_to(tmp_path / "elsewhere")
    (source / "c").symlink_to(source / "a")
    (source / ".d").symlink_to(source / "a")
    scandir = os.scandir

    def as_a_user(folder):
        if pathlib.Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", as_a_user)
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["a/1.jpg"]}
    assert reasons(tmp_path / "out") == [
        ("file_unreadable", "closed"),
        ("file_outside_folder", "b"),
        ("file_not_regular", "c"),
    ]


def test_one_picture_in_two_classes_stays_in_the_first(tmp_path):
    source = _write(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg")
    (source / "b" / "1.jpg").write_bytes(jpeg(0))
    (source / "a" / "2.jpg").write_bytes(jpeg(0))
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["a/1.jpg", "a/2.jpg", "b/3.jpg"]}
    (line,) = rejects(tmp_path / "out")
    assert (line["reason"], line["id"], line["twin"]) == (
        "picture_in_two_classes",
        "b/1.jpg",
        "a/1.jpg",
    )
    _prepare(tmp_path, "alone", duplicates=Duplicates.DROP)
    assert reasons(tmp_path / "alone") == [
        ("picture_duplicate", "a/2.jpg"),
        ("picture_duplicate", "b/1.jpg"),
    ]


def test_what_is_evaluated_wins_and_can_be_excluded(tmp_path):
    source = _write(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "val/a/1.jpg")
    (source / "val" / "a" / "1.jpg").write_bytes(jpeg(1))
    _prepare(tmp_path)
    assert reasons(tmp_path / "out") == [("picture_also_in_another_split", "train/a/2.jpg")]
    _prepare(tmp_path, "other", exclude=f"{tmp_path / 'out'}#val")
    assert {reason for reason, _ in reasons(tmp_path / "other")} == {"picture_excluded"}
    assert list_splits(tmp_path / "other") == ("train",)


def test_held_out_where_no_folder_says_it(tmp_path):
    _write(tmp_path, *(f"{name}/{i}.jpg" for name in "ab" for i in range(20)))
    _prepare(tmp_path, held_out=0.3)
    found = ids(tmp_path / "out")
    assert len(found["train"]) + len(found["val"]) == 40
    assert 4 <= len(found["val"]) <= 20


@pytest.mark.parametrize("files", [(), ("1.jpg", "2.jpg"), ("train/1.txt",)])
def test_no_class_at_all(tmp_path, files):
    (tmp_path / "in").mkdir()
    _write(tmp_path, *files)
    with pytest.raises(UserError, match=r"has no f(ile|older)|no usable pair"):
        _prepare(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        _prepare(tmp_path, source=tmp_path / "nowhere")


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("task-")}


def _many(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several small shards, and a picture that is in two classes."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    names = [f"{split}/{c}/{i}.jpg" for split in ("train", "val") for c in "abc" for i in range(4)]
    source = _write(tmp_path, *names)
    (source / "train" / "c" / "0.jpg").write_bytes((source / "train/a/1.jpg").read_bytes())


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    _many(tmp_path, monkeypatch)
    _prepare(tmp_path, "whole")
    made = kept.normalise_picture
    left = iter(range(17))

    def dies(data: bytes, longest_side: int) -> bytes:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return made(data, longest_side)

    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(kept, "normalise_picture", dies)
    with pytest.raises(KeyboardInterrupt):
        _prepare(tmp_path, name="whole")
    monkeypatch.setattr(kept, "normalise_picture", made)
    _prepare(tmp_path, name="whole")
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_parts_join_to_the_same_folder(tmp_path, monkeypatch):
    _many(tmp_path, monkeypatch)
    whole = _prepare(tmp_path, "whole")
    for task in ("1/3", "2/3", "3/3"):
        _prepare(tmp_path, "parts", name="whole", task=parse_task(task))
    merged = merge_parts(tmp_path / "parts").facts
    assert merged == whole
    assert reasons(tmp_path / "whole") == [("picture_in_two_classes", "train/c/0.jpg")]


def test_names_of_splits() -> None:
    names = ("train", "Training", "val", "validation", "val2017", "test_2", "dev", "test tube", "a")
    found = ["train", "train", "val", "val", "val", "test", "dev", None, None]
    assert [split_folder(name) for name in names] == found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.lists(st.text("ab_. /\x7f", min_size=1, max_size=8), min_size=1, max_size=5))
def test_any_names_give_records_or_reasons(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    written = set()
    for name in names:
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        path = folder.joinpath("in", *parts, "1.jpg")
        if path.parent == folder / "in" or any(part.startswith(".") for part in parts):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(len(written)))
        written.add(path)
    try:
        facts = _prepare(folder)
    except UserError:
        return
    taken = sum(split["records"] for split in facts["splits"].values())
    assert taken + sum(facts["drops"].values()) == len(written)


def test_a_stray_file_beside_the_classes_makes_no_class_of_a_split(tmp_path):
    source = _write(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg")
    for split in ("train", "val"):
        (source / split / "labels.txt").write_text("cat dog")
    _prepare(tmp_path)
    found = ids(tmp_path / "out")
    assert found == {
        "train": ["train/cat/1.jpg", "train/dog/1.jpg"],
        "val": ["val/cat/1.jpg"],
    }
    assert sorted(reasons(tmp_path / "out")) == [
        ("file_in_no_class", "train/labels.txt"), ("file_in_no_class", "val/labels.txt"),
    ]  # fmt: skip
