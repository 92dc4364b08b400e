# SPDX-License-Identifier: Apache-2.0
"""Datasets of the hub, as parquet or saved to disk, with all that can be wrong in a row."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_cases import ids, jpeg, reasons, records
from test_prepare_parquet import write_arrow

from cots_jax.data.prepare.huggingface import HuggingFaceOptions, prepare_huggingface
from cots_jax.errors import UserError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _cell(seed: int, path: str | None = None) -> dict:
    return {"bytes": jpeg(seed), "path": path}


def _table(images: list, captions: list, **more: list) -> pa.Table:
    columns = {"image": pa.array(images, IMAGE), "caption": captions, "score": [1] * len(images)}
    return pa.table({**columns, **more})


def _write(path: pathlib.Path, table: pa.Table, group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def _prepare(folder: pathlib.Path, **more) -> dict:
    options = HuggingFaceOptions(**{"source": folder / "in", "held_out": 0.0, **more})
    return prepare_huggingface(folder / "out", options).facts


def test_names_of_the_files_say_the_split(tmp_path):
    cells = [_cell(i) for i in range(6)]
    texts = [["one", "two"], ["x"], ["x"], ["x"], ["x"]]
    _write(tmp_path / "in/data/train-00000-of-00001.parquet", _table(cells[:5], texts))
    _write(
        tmp_path / "in/data/test-00000-of-00001.parquet", _table([cells[0], cells[5]], texts[:2])
    )
    facts = _prepare(tmp_path)
    train, test = (f"data/{split}-00000-of-00001" for split in ("train", "test"))
    assert ids(tmp_path / "out") == {
        "test": [f"{test}/1", f"{test}/2"],
        "train": [f"{train}/{i}" for i in range(2, 6)],
    }
    assert reasons(tmp_path / "out") == [("picture_also_in_another_split", f"{train}/1")]
    record = records(tmp_path / "out", "test")[0]
    assert (record.image, record.captions) == (jpeg(0), ("one", "two"))
    assert record.source_row == f"{test}.parquet:1"
    assert facts["kind"] == "hf"


def test_a_column_says_the_split_and_one_picture_may_have_many_rows(tmp_path):
    table = _table(
        [_cell(0), _cell(0), _cell(1), _cell(2), _cell(3)],
        ["one", "two", "three", "x", "y"],
        split=["train", "train", "val", None, "a/b"],
    )
    _write(tmp_path / "in/TEST-0.parquet", table)
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["TEST-0/1", "TEST-0/2"], "val": ["TEST-0/3"]}
    assert [r.group for r in records(tmp_path / "out", "train")] == ["TEST-0/1"] * 2
    assert reasons(tmp_path / "out") == [("no_split", "TEST-0/4"), ("bad_split_name", "TEST-0/5")]


def test_what_is_evaluated_wins_where_a_column_says_the_split(tmp_path):
    cells, texts = [_cell(0), _cell(1), _cell(0)], ["x", "y", "z"]
    table = _table(cells, texts, split=["train", "train", "test"])
    _write(tmp_path / "in/0.parquet", table)
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"test": ["0/3"], "train": ["0/2"]}
    assert reasons(tmp_path / "out") == [("picture_also_in_another_split", "0/1")]


def test_saved_to_disk(tmp_path):
    for split, seed in (("train", 0), ("validation", 1)):
        (tmp_path / "in" / split).mkdir(parents=True)
        for name in ("data-00000-of-00001", "cache-1234"):
            write_arrow(tmp_path / "in" / split / f"{name}.arrow", _table([_cell(seed)], ["x"]))
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {
        "train": ["train/data-00000-of-00001/1"],
        "val": ["validation/data-00000-of-00001/1"],
    }
    assert {reason for reason, _ in reasons(tmp_path / "out")} == {"file_is_a_cache"}


def test_a_hub_cache_is_read_where_it_has_one_revision(tmp_path):
    cache = tmp_path / "in" / "datasets--a--b"
    _write(cache / "blobs" / "abc", _table([_cell(0)], ["x"]))
    for revision in ("1f", "2e"):
        (cache / "snapshots" / revision).mkdir(parents=True)
        (cache / "snapshots" / revision / "test-0.parquet").symlink_to("../../blobs/abc")
    with pytest.raises(UserError, match=r"snapshots holds two revisions of the data, 1f and 2e: "):
        _prepare(tmp_path)
    (cache / "snapshots" / "1f").rename(tmp_path / "1f")
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"test": ["datasets--a--b/snapshots/2e/test-0/1"]}


def test_folders_that_are_only_called_snapshots_are_read(tmp_path):
    for seed, year in enumerate(("2020", "2021")):
        _write(tmp_path / "in/snapshots" / year / "0.parquet", _table([_cell(seed)], ["x"]))
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["snapshots/2020/0/1", "snapshots/2021/0/1"]}


def test_pictures_beside_the_table_and_rows_with_faults(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    cells = [
        {"bytes": None, "path": "photos/a.jpg"}, {"bytes": None, "path": "../secret.jpg"},
        {"bytes": None, "path": str(tmp_path / "secret.jpg")}, {"bytes": None, "path": "link.jpg"},
        {"bytes": None, "path": None}, None, {"bytes": b"", "path": None},
        {"bytes": jpeg(1)[:200], "path": None}, _cell(2), _cell(3),
    ]  # fmt: skip
    texts = [["x"]] * 8 + [None, ["", "kept"]]
    _write(tmp_path / "in/0.parquet", _table(cells, texts))
    (tmp_path / "in/photos").mkdir()
    (tmp_path / "in/photos/a.jpg").write_bytes(jpeg(0))
    (tmp_path / "in/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "in/1.parquet").write_bytes(b"PAR1 no")
    _prepare(tmp_path)
    assert ids(tmp_path / "out") == {"train": ["0/1", "0/10"]}
    assert reasons(tmp_path / "out") == [
        ("file_unreadable", "1.parquet"),
        ("picture_name_unsafe", "0/2"),
        ("picture_name_unsafe", "0/3"),
        ("picture_outside_folder", "0/4"),
        ("no_picture", "0/5"),
        ("no_picture", "0/6"),
        ("picture_unreadable", "0/7"),
        ("picture_unreadable", "0/8"),
        ("no_caption", "0/9"),
        ("caption_empty", "0/10"),
    ]


def test_one_file_with_bare_bytes_and_columns_by_name(tmp_path):
    table = pa.table({"png": [jpeg(0)], "jpg": [jpeg(1)], "title": ["no"], "alt": ["yes"]})
    _write(tmp_path / "in/a.parquet", table)
    _prepare(tmp_path, source=tmp_path / "in/a.parquet", image_column="jpg", caption_column="alt")
    (record,) = records(tmp_path / "out", "train")
    assert (record.id, record.image, record.captions) == ("a/1", jpeg(1), ("yes",))


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"image": ["a.jpg"], "caption": ["x"]}, {},
         r"0\.parquet: there is no column of pictures .* image \(string\).*`prepare pairs`"),
        ({"image": [b"x"], "n": [1]}, {}, r"no column named captions .*--caption_column"),
        ({"image": [b"x"], "caption": ["x"]}, {"image_column": "pic"}, r"--image_column=pic is no"),
        ({"image": [b"x"], "caption": ["x"]}, {}, r"no usable pair in .*picture_unreadable 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_at_all_is_one_line(tmp_path, columns, options, words):
    _write(tmp_path / "in/0.parquet", pa.table(columns))
    with pytest.raises(UserError, match=words):
        _prepare(tmp_path, **options)
    with pytest.raises(UserError, match=r"has no file \.parquet or \.arrow"):
        _prepare(tmp_path, source=tmp_path / "out")
