# SPDX-License-Identifier: Apache-2.0
"""Parquet and Arrow files come out row by row, and broken ones say so."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cots_jax.data.prepare.parquet import TableFileError, open_table
from cots_jax.data.prepare.sources import BadRow, Columns, read_table
from cots_jax.errors import UserError

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def no_utf8(*texts: bytes) -> pa.Array:
    """A text column with whatever bytes, as careless writers leave it."""
    return pa.array(texts, pa.binary()).view(pa.string())


def write_arrow(path: pathlib.Path, table: pa.Table) -> pathlib.Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return path


@many
@given(st.lists(st.tuples(st.text(max_size=5), st.lists(st.text(max_size=5)))), st.integers(1, 5))
def test_rows_come_back_in_order_from_all_parts(tmp_path, rows, group):
    schema = pa.schema([("image", pa.string()), ("captions", pa.list_(pa.string()))])
    table = pa.table([[r[0] for r in rows], [r[1] for r in rows]], schema=schema)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=group)
    for path in (tmp_path / "t.parquet", write_arrow(tmp_path / "t.arrow", table)):
        opened = open_table(path)
        assert opened.columns == ["image", "captions"]
        found = [values for part in opened.parts for values in part.rows(["captions", "none"])]
        assert found == [{"captions": captions} for _, captions in rows]
        starts = list(range(0, len(rows), group)) if path.suffix == ".parquet" else [0]
        assert [part.first for part in opened.parts] == (starts or [0])


def test_text_that_is_no_utf8_costs_itself_only(tmp_path):
    table = pa.table({"image": ["a.jpg", "b.jpg"], "caption": no_utf8(b"good", b"caf\xe9")})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = list(read_table(tmp_path / "t.parquet", Columns()))
    assert [(r.image, r.captions) for r in rows] == [
        ("a.jpg", ("good",)),
        ("b.jpg", ("caf\udce9",)),
    ]


def test_a_table_of_captions_with_every_fault(tmp_path):
    table = pa.table({
        "File": ["a.jpg", None, "c.jpg", "d.jpg", "e.jpg"],
        "text": [["one", "two"], ["x"], None, ["x"], ["x"]],
        "split": ["train", "train", "train", None, "../x"],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    rows = list(read_table(tmp_path / "t.parquet", Columns()))
    assert [r.reason if isinstance(r, BadRow) else r.captions for r in rows] == [
        ("one", "two"), "no_image_name", "no_caption", "bad_split_name", "bad_split_name",
    ]  # fmt: skip
    assert [r.source_row for r in rows] == [f"t.parquet:{i}" for i in range(1, 6)]
    with pytest.raises(UserError, match=r"--caption_column=alt: the columns are File, text, split"):
        list(read_table(tmp_path / "t.parquet", Columns(caption="alt")))


@many
@given(st.data())
def test_damaged_files_say_so_or_give_rows(tmp_path, data):
    table = pa.table({"image": ["a", "b"] * 20, "caption": ["some words"] * 40})
    pq.write_table(table, tmp_path / "t.parquet", compression="none")
    write_arrow(tmp_path / "t.arrow", table)
    for path in (tmp_path / "t.parquet", tmp_path / "t.arrow"):
        damaged = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(damaged) - 1))
        path.write_bytes(damaged[:at])
        try:
            for part in open_table(path).parts:
                list(part.rows(["image"]))
        except TableFileError as error:
            assert "\n" not in str(error)
    with pytest.raises(UserError, match=r"t\.parquet is no whole parquet file"):
        list(read_table(tmp_path / "t.parquet", Columns()))


def test_a_broken_row_group_is_one_reject(tmp_path):
    table = pa.table({"image": [f"{i}.jpg" for i in range(4)], "caption": ["x"] * 4})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2, use_dictionary=False)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:40] = bytes(36)
    (tmp_path / "t.parquet").write_bytes(data)
    rows = list(read_table(tmp_path / "t.parquet", Columns()))
    assert [r.reason if isinstance(r, BadRow) else r.image for r in rows] == [
        "rows_unreadable", "2.jpg", "3.jpg",
    ]  # fmt: skip
