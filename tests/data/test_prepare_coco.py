# SPDX-License-Identifier: Apache-2.0
"""COCO's caption files become records with all their captions, by the splits of their names."""

import json
import pathlib

import pytest
from prepare_cases import ids, jpeg, reasons, records

from cots_jax.data.prepare.coco import CocoOptions, coco_rows, prepare_coco
from cots_jax.data.prepare.sources import Row
from cots_jax.errors import UserError


def _write(path: pathlib.Path, images: list, annotations: list) -> pathlib.Path:
    path.write_text(json.dumps({"info": {"year": 1}, "images": images, "annotations": annotations}))
    return path


def _values(paths) -> list:
    return [(r.image, r.captions, r.split) if isinstance(r, Row) else (r.reason, r.source_row)
            for r in coco_rows(paths)]  # fmt: skip


def test_real_files_with_their_folders(shared_data, tmp_path):
    root = shared_data / "coco_mini"
    files = tuple(root / f"captions_{part}2017.json" for part in ("train", "val"))
    facts = prepare_coco(tmp_path / "out", CocoOptions(files, root, longest_side=32)).facts
    assert {name: c["records"] for name, c in facts["splits"].items()} == {"train": 80, "val": 79}
    told = [json.loads(file.read_text()) for file in files]
    assert sum(c["pairs"] for c in facts["splits"].values()) == sum(
        len(file["annotations"]) for file in told
    )
    assert facts["drops"] == {}
    names = {entry["file_name"]: entry["id"] for entry in told[1]["images"]}
    for record in records(tmp_path / "out", "val")[:5]:
        said = [a["caption"] for a in told[1]["annotations"] if a["image_id"] == names[record.id]]
        assert list(record.raw_captions) == said


def test_rows_that_are_not_as_they_should_be(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2}, "x", {"id": [3]},
              {"id": "4", "file_name": "b.jpg"}]  # fmt: skip
    annotations = [{"image_id": 1, "caption": "one"}, {"image_id": 9, "caption": "x"}, 5,
                   {"image_id": None, "caption": "x"}, {"image_id": 1}, {"image_id": 2,
                   "caption": "x"}]  # fmt: skip
    path = _write(tmp_path / "captions_val2017.json", images, annotations)
    name = path.name
    assert _values([path]) == [
        ("row_unreadable", f"{name}:image 3"),
        ("row_unreadable", f"{name}:image 4"),
        ("a.jpg", ("one",), "val"),
        ("image_id_unknown", f"{name}:2"),
        ("row_unreadable", f"{name}:3"),
        ("row_unreadable", f"{name}:4"),
        ("no_caption", f"{name}:5"),
        ("no_image_name", f"{name}:6"),
        ("no_caption", f"{name}:image 5"),
    ]


def test_a_file_without_a_split_in_its_name_is_held_out_in_part(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)]
    annotations = [{"image_id": i, "caption": f"number {i}"} for i in range(4)]
    path = _write(tmp_path / "mine.json", images, annotations)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(jpeg(i))
    prepare_coco(tmp_path / "out", CocoOptions((path,), tmp_path / "photos", held_out=0.01))
    assert {split: len(found) for split, found in ids(tmp_path / "out").items()} == {
        "train": 2,
        "val": 1,
    }
    assert reasons(tmp_path / "out") == [("picture_missing", "3.jpg")]


def test_what_cannot_be_used_at_all_is_one_line(tmp_path):
    mine, val = (_write(tmp_path / name, [], []) for name in ("mine.json", "captions_val.json"))
    for captions, words in [
        ((mine, val), r"captions_val\.json names a split and mine\.json does not"),
        ((mine, mine), r"--captions=mine\.json,mine\.json names a file twice"),
        ((tmp_path,), r"is no file: give captions_val2017\.json"),
        ((tmp_path / "no.json",), r"no\.json does not exist"),
    ]:
        with pytest.raises(UserError, match=words):
            prepare_coco(tmp_path / "out", CocoOptions(captions, tmp_path))
