# SPDX-License-Identifier: Apache-2.0
"""The three layouts of img2dataset give the same pairs; whatever was not fetched is counted."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_cases import ids, jpeg, reasons, records, write_tar

from cots_jax.data.prepare.img2dataset import (
    Img2datasetOptions,
    prepare_img2dataset,
    status_reason,
)
from cots_jax.errors import UserError

ROWS = [
    {"key": "000000000", "caption": "first", "status": "success"},
    {"key": "000000001", "caption": "gone", "status": "failed_to_download"},
    {"key": "000000002", "caption": "broken", "status": "failed_to_resize"},
    {"key": "000000003", "caption": "second", "status": "success"},
    {"key": "000000004", "caption": None, "status": "success"},
]


def _picture(row: dict) -> bytes | None:
    return jpeg(int(row["key"])) if row["status"] == "success" else None


def _webdataset(folder: pathlib.Path) -> None:
    members = []
    for row in ROWS:
        picture = _picture(row)
        if picture is not None:
            members += [(f"{row['key']}.jpg", picture), (f"{row['key']}.json", _json(row))]
            if row["caption"] is not None:
                members.append((f"{row['key']}.txt", row["caption"].encode()))
    write_tar(folder / "00000.tar", members)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "00000.parquet")


def _files(folder: pathlib.Path) -> None:
    (folder / "00000").mkdir()
    for row in ROWS:
        picture = _picture(row)
        if picture is not None:
            (folder / "00000" / f"{row['key']}.jpg").write_bytes(picture)
            (folder / "00000" / f"{row['key']}.json").write_bytes(_json(row))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "00000.parquet")


def _parquet(folder: pathlib.Path) -> None:
    rows = [{**row, "jpg": _picture(row)} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet", row_group_size=2)


def _json(row: dict) -> bytes:
    return json.dumps(row).encode()


@pytest.fixture(params=[_webdataset, _files, _parquet])
def source(request, tmp_path) -> pathlib.Path:
    (tmp_path / "in").mkdir()
    request.param(tmp_path / "in")
    (tmp_path / "in" / "00000_stats.json").write_text("{}")
    return tmp_path / "in"


def _prepare(source: pathlib.Path, **more) -> dict:
    options = Img2datasetOptions(source=source, held_out=0.0, **more)
    return prepare_img2dataset(source.parent / "out", options).facts


def test_every_layout_gives_the_same(source):
    facts = _prepare(source)
    out = source.parent / "out"
    assert ids(out) == {"train": ["00000/000000000", "00000/000000003"]}
    assert [(r.captions, r.image) for r in records(out, "train")] == [
        (("first",), jpeg(0)),
        (("second",), jpeg(3)),
    ]
    assert sorted(reasons(out)) == [
        ("no_caption", "00000/000000004"),
        ("status_failed_to_download", "00000/000000001"),
        ("status_failed_to_resize", "00000/000000002"),
    ]
    assert facts["kind"] == "img2dataset"


def test_what_the_table_promises_and_the_shard_lacks_is_listed(tmp_path):
    _webdataset(tmp_path)
    cut = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(cut[: cut.index(b"000000003.jpg") + 700])
    (tmp_path / "00001.parquet").write_bytes(b"no")
    (tmp_path / "in").mkdir()
    for name in ("00000.tar", "00000.parquet", "00001.parquet"):
        (tmp_path / name).rename(tmp_path / "in" / name)
    _prepare(tmp_path / "in")
    assert ids(tmp_path / "out") == {"train": ["00000/000000000"]}
    found = dict(reversed(reasons(tmp_path / "out")))
    assert found["file_unreadable"] in ("00001.parquet", "00000.tar")
    assert ("picture_missing", "00000/000000004") in reasons(tmp_path / "out")


def test_files_that_are_gone_or_lead_out(tmp_path):
    (tmp_path / "in").mkdir()
    _files(tmp_path / "in")
    (tmp_path / "secret.jpg").write_bytes(jpeg(7))
    first, second = (tmp_path / "in" / "00000" / f"00000000{i}.jpg" for i in (0, 3))
    first.unlink()
    first.symlink_to(tmp_path / "secret.jpg")
    second.rename(second.with_suffix(".webp"))
    _prepare(tmp_path / "in")
    assert ids(tmp_path / "out") == {"train": ["00000/000000003"]}
    assert ("picture_outside_folder", "00000/000000000") in reasons(tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"status": "success"}, None),
        ({}, None),
        ({"status": "failed_to_download"}, "status_failed_to_download"),
        ({"status": None}, "status_unknown"),
        ({"status": "Über\n"}, "status_unknown"),
        ({"status": 3}, "status_unknown"),
    ],
)
def test_reasons_by_status(values, reason):
    assert status_reason(values) == reason


def test_a_json_that_says_failed_is_believed(tmp_path):
    (tmp_path / "in").mkdir()
    members = [("0.jpg", jpeg(0)), ("0.txt", b"x"), ("0.json", b'{"status": "failed_to_resize"}')]
    write_tar(tmp_path / "in" / "00000.tar", [*members, ("1.jpg", jpeg(1)), ("1.txt", b"x")])
    _prepare(tmp_path / "in")
    assert reasons(tmp_path / "out") == [("status_failed_to_resize", "00000/0")]


def test_it_is_a_folder(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(UserError, match="is no folder: give the output of img2dataset"):
        _prepare(tmp_path / "a.tar")
