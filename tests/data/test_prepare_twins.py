# SPDX-License-Identifier: Apache-2.0
"""Nothing of an evaluation split is prepared again, and a set may lose what it has twice."""

import io
import pathlib

import pytest
from PIL import Image
from prepare_cases import ids, jpeg, records, rejects, write_tar

from cots_jax.data.prepare.twins import Duplicates
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.errors import UserError

SIZE = (160, 120)


def _anew(image: bytes, form: str = "JPEG", quality: int = 60) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(image)) as picture:
        picture.convert("RGB").save(out, form, quality=quality)
    return out.getvalue()


def _source(folder: pathlib.Path, name: str, pictures: dict[str, bytes]) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    members = [(f"{key}.{end}", data) for key, picture in pictures.items()
               for end, data in (("jpg", picture), ("txt", key.encode()))]  # fmt: skip
    return write_tar(folder / f"{name}.tar", members)


def _prepare(folder: pathlib.Path, out: pathlib.Path, **more) -> dict:
    more = {"held_out": 0.0, "longest_side": 160, **more}
    return prepare_webdataset(out, WebdatasetOptions(source=folder, **more)).facts


@pytest.fixture
def evaluation(tmp_path) -> pathlib.Path:
    """Ten pictures at half the size, as another run has prepared them."""
    _source(tmp_path / "e", "test-0", {f"t{i}": jpeg(i, SIZE) for i in range(10)})
    _prepare(tmp_path / "e", tmp_path / "held", longest_side=80)
    return tmp_path / "held"


def test_pictures_of_an_evaluation_split_are_left_out_and_listed(tmp_path, evaluation):
    stored = records(evaluation, "test")[2].image
    pictures = {
        "stored": stored, "file": jpeg(3, SIZE), "anew": _anew(jpeg(4, SIZE)),
        "pixels": _anew(stored, "PNG"), "other": jpeg(100, SIZE), "more": jpeg(101, SIZE),
    }  # fmt: skip
    _source(tmp_path / "in", "0", pictures)
    facts = _prepare(tmp_path / "in", tmp_path / "out", exclude=f"{evaluation}#test")
    assert ids(tmp_path / "out") == {"train": ["0/other", "0/more"]}
    found = [(r["id"], r["reason"], r["twin"], r["twin_split"]) for r in rejects(tmp_path / "out")]
    assert found == [
        ("0/stored", "picture_excluded", "test-0/t2", "held#test"),
        ("0/file", "picture_near_excluded", "test-0/t3", "held#test"),
        ("0/anew", "picture_near_excluded", "test-0/t4", "held#test"),
        ("0/pixels", "picture_near_excluded", "test-0/t2", "held#test"),
    ]
    assert facts["drops"] == {"picture_excluded": 1, "picture_near_excluded": 3}
    assert all(int(r.get("distance", 1)) > 0 for r in rejects(tmp_path / "out"))
    fingerprint = facts["arguments"]["exclude"][0]
    assert fingerprint.endswith("#test")
    with pytest.raises(UserError, match=r"other arguments .*exclude"):
        _prepare(tmp_path / "in", tmp_path / "out")


def test_duplicates_are_kept_in_one_group_or_dropped(tmp_path):
    first, second = jpeg(0, SIZE), jpeg(1, SIZE)
    pictures = {
        "a": first, "b": second, "file": first, "pixels": _anew(first, "PNG"),
        "anew": _anew(second), "c": jpeg(2, SIZE),
    }  # fmt: skip
    _source(tmp_path / "in", "0", pictures)
    kept = _prepare(tmp_path / "in", tmp_path / "kept")
    assert kept["drops"] == {}
    assert {r.id: r.group for r in records(tmp_path / "kept", "train")} == {
        **{f"0/{key}": f"0/{key}" for key in pictures},
        "0/file": "0/a",
    }
    _prepare(tmp_path / "in", tmp_path / "dropped", duplicates=Duplicates.DROP)
    assert ids(tmp_path / "dropped") == {"train": ["0/a", "0/b", "0/c"]}
    assert [r["twin"] for r in rejects(tmp_path / "dropped")] == ["0/a", "0/a", "0/b"]
    found = [r["reason"] for r in rejects(tmp_path / "dropped")]
    assert found[0] == "picture_duplicate"
    assert set(found[1:]) == {"picture_near_duplicate"}


def test_a_copy_in_another_split_goes_from_what_is_trained_on(tmp_path):
    _source(tmp_path / "in", "train-0", {"a": jpeg(0, SIZE), "b": jpeg(1, SIZE)})
    _source(tmp_path / "in", "val-0", {"c": _anew(jpeg(0, SIZE)), "d": jpeg(1, SIZE)})
    _prepare(tmp_path / "in", tmp_path / "out", duplicates=Duplicates.DROP)
    assert ids(tmp_path / "out") == {"val": ["val-0/c", "val-0/d"]}
    assert [(r["id"], r["reason"], r["twin_split"]) for r in rejects(tmp_path / "out")] == [
        ("train-0/a", "picture_near_duplicate", "val"),
        ("train-0/b", "picture_also_in_another_split", "val"),
    ]


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        ("", r"--exclude is empty: write FOLDER#SPLIT"),
        ("held", r"--exclude = 'held': write FOLDER#SPLIT"),
        ("nowhere#test", r"--exclude: there is no folder nowhere"),
        ("HELD#val", r"has no split 'val': it has test"),
    ],
)
def test_what_to_exclude_must_be_there(tmp_path, evaluation, exclude, words):
    _source(tmp_path / "in", "0", {"a": jpeg(0)})
    with pytest.raises(UserError, match=words):
        options = {"exclude": exclude.replace("HELD", str(evaluation))}
        _prepare(tmp_path / "in", tmp_path / "out", **options)
