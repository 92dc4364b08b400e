# SPDX-License-Identifier: Apache-2.0
"""Caption tables of every kind come out as the same rows, and a bad line costs one line."""

import csv
import io
import json
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cots_jax.data.prepare.sources import BadRow, Columns, Row, read_table
from cots_jax.errors import UserError

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
name = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=20)
caption = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def _read(folder: pathlib.Path, file: str, data: bytes | str, columns=None) -> list[Row | BadRow]:
    path = folder / file
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(read_table(path, columns or Columns()))


def _values(rows: list[Row | BadRow]) -> list:
    return [(row.image, row.captions) if isinstance(row, Row) else row.reason for row in rows]


@many
@given(st.lists(st.tuples(name, caption), min_size=1))
def test_csv_gives_back_what_the_csv_module_wrote(tmp_path, pairs):
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["image", "caption"])
    writer.writerows(pairs)
    rows = _read(tmp_path, "t.csv", out.getvalue())
    assert _values(rows) == [(image.strip(), (text,)) for image, text in pairs]


@many
@given(st.lists(st.tuples(name, st.lists(caption, max_size=3)), min_size=1))
def test_jsonl_gives_back_what_the_json_module_wrote(tmp_path, pairs):
    lines = [json.dumps({"image": image, "captions": texts}) for image, texts in pairs]
    expected = [(i, tuple(texts)) if texts else "no_caption" for i, texts in pairs]
    assert _values(_read(tmp_path, "t.jsonl", "\n".join(lines))) == expected
    assert _values(_read(tmp_path, "t.json", "[" + ",".join(lines) + "]")) == expected


@many
@given(st.binary(max_size=400), st.sampled_from(["csv", "tsv", "jsonl", "json", "txt"]))
def test_no_bytes_make_the_reader_fall_over(tmp_path, data, suffix):
    header = {"csv": b"image,caption\n", "tsv": b"image\tcaption\n", "txt": b"image|caption\n"}
    start = header.get(suffix, b'{"image": "a", "caption": "b"}\n')
    for row in _read(tmp_path, f"t.{suffix}", start + data):
        assert isinstance(row, BadRow) or (row.image and row.captions)


@pytest.mark.parametrize(
    "table",
    [
        ("t.csv", "image,caption,split\na.jpg,one,train\nb.jpg,\"two, too\",val\n"),
        ("t.csv", "\ufeffSplit;Image_Path;Text\r\ntrain;a.jpg;one\r\nval;b.jpg;two, too\r\n"),
        ("t.tsv", "caption\tfile\tsplit\none\ta.jpg\ttrain\ntwo, too\tb.jpg\tval\n"),
        ("t.txt", "image_name| comment| split\na.jpg|one| train\n\nb.jpg|two, too| val\n"),
        ("t.jsonl", '{"filepath": "a.jpg", "sentence": "one", "split": "train"}\n\n'
         '{"filepath": "b.jpg", "sentence": ["two, too"], "split": "val"}'),
    ],
)  # fmt: skip
def test_all_forms_read_alike(tmp_path, table):
    rows = _read(tmp_path, *table)
    assert [(r.image, r.captions, r.split) for r in rows if isinstance(r, Row)] == [
        ("a.jpg", ("one",), "train"),
        ("b.jpg", ("two, too",), "val"),
    ]
    assert len(rows) == 2


def test_columns_can_be_named(tmp_path):
    data = "caption,alt,image,url\nwrong,right,wrong,x.jpg\n"
    rows = _read(tmp_path, "t.csv", data, Columns("url", "alt"))
    assert _values(rows) == [("x.jpg", ("right",))]


@pytest.mark.parametrize(
    ("data", "columns", "words"),
    [
        ("a,b\n1,2\n", Columns(), r"no column named image .* among a, b: .*--image_column"),
        ("image,b\n1,2\n", Columns(), r"no column named captions .*--caption_column"),
        ("image,caption\n", Columns("pic"), r"--image_column=pic: the columns are image, caption"),
        (b"\xff\xfei\x00", Columns(), "is UTF-16: save it as UTF-8"),
        ("  \n", Columns(), "is empty"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path, data, columns, words):
    with pytest.raises(UserError, match=words):
        _read(tmp_path, "t.csv", data, columns)


def test_a_missing_table_says_so(tmp_path):
    with pytest.raises(UserError, match=r"t\.csv cannot be read: No such file"):
        read_table(tmp_path / "t.csv", Columns())


def test_bad_csv_lines_cost_themselves_only(tmp_path):
    data = (
        b"image,caption\n"
        b"a.jpg,good\n"
        b'b.jpg,"a quote never closed\n'
        b"c.jpg,good\n"
        b"d.jpg,too,many\n"
        b"e.jpg\n"
        b",nameless\n"
        b"f.jpg,caf\xe9\n"
        b"g\xe9.jpg,good\n"
        b'h.jpg,"two\nlines"\n'
        b"i.jpg,good\n"
    )
    rows = _read(tmp_path, "t.csv", data)
    assert _values(rows) == [
        ("a.jpg", ("good",)),
        "row_unreadable",
        ("c.jpg", ("good",)),
        "row_unreadable",
        "row_unreadable",
        "no_image_name",
        ("f.jpg", ("caf\udce9",)),
        "image_name_not_utf8",
        ("h.jpg", ("two\nlines",)),
        ("i.jpg", ("good",)),
    ]
    assert [row.source_row for row in rows[:3]] == ["t.csv:2", "t.csv:3", "t.csv:4"]
    assert rows[-1].source_row == "t.csv:12"


def test_quotes_in_a_tsv_are_part_of_the_caption_unless_they_enclose_it(tmp_path):
    data = 'image\tcaption\na.jpg\t"whole"\nb.jpg\t"half" done\nc.jpg\t"open\nd.jpg\tgood\n'
    assert _values(_read(tmp_path, "t.tsv", data)) == [
        ("a.jpg", ("whole",)),
        ("b.jpg", ('"half" done',)),
        ("c.jpg", ('"open',)),
        ("d.jpg", ("good",)),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "row_unreadable"),
        ("[" * 100_000, "row_unreadable"),
        ("[1, 2]", "row_unreadable"),
        ('{"caption": "x", "split": "s"}', "no_image_name"),
        ('{"image": 3, "caption": "x", "split": "s"}', "no_image_name"),
        ('{"image": "a.jpg", "split": "s"}', "no_caption"),
        ('{"image": "a.jpg", "caption": [1], "split": "s"}', "no_caption"),
        ('{"image": "a.jpg", "caption": {}, "split": "s"}', "no_caption"),
        ('{"image": "a\\ud800.jpg", "caption": "x", "split": "s"}', "image_name_not_utf8"),
        ('{"image": "a.jpg", "caption": "x"}', "no_split"),
        ('{"image": "a.jpg", "caption": "x", "split": null}', "bad_split_name"),
        ('{"image": "a.jpg", "caption": "x", "split": "../s"}', "bad_split_name"),
        ('{"image": "a.jpg", "caption": "x", "split": "dataset.json"}', "bad_split_name"),
    ],
)
def test_bad_json_lines(tmp_path, line, reason):
    good = '{"image": "a.jpg", "caption": "x", "split": "s"}'
    rows = _read(tmp_path, "t.jsonl", "\n".join([good, line, good]))
    assert _values(rows) == [("a.jpg", ("x",)), reason, ("a.jpg", ("x",))]


def test_a_split_that_the_first_object_lacks_still_holds_for_the_others(tmp_path):
    lines = [
        '{"image": "a.jpg", "caption": "x"}',
        '{"image": "b.jpg", "caption": "x", "split": "test"}',
        '{"image": "c.jpg", "caption": "x", "Split": "val"}',
    ]
    rows = _read(tmp_path, "t.jsonl", "\n".join(lines))
    assert _values(rows) == ["no_split", ("b.jpg", ("x",)), ("c.jpg", ("x",))]
    assert [row.split for row in rows[1:]] == ["test", "val"]


@pytest.mark.parametrize("before", ["", "\n"])
def test_a_json_list_is_read_whole_or_refused(tmp_path, before):
    rows = '[{"image": "a.jpg", "caption": "x"},\n {"image": "b.jpg", "caption": "x"}]'
    assert len(_values(_read(tmp_path, "t.json", before + rows))) == 2
    with pytest.raises(UserError, match=r"t\.json is no whole JSON list .*line .*\.jsonl"):
        _read(tmp_path, "t.json", before + rows[:-1])


def test_lists_in_a_cell_are_the_captions_they_list(tmp_path):
    out = io.StringIO(newline="")
    cells = ["['a dog', \"it's b\"]", '["a cat", "b"]', "[no list", "[1, 2]", "[sic] a boat [sic]"]
    csv.writer(out).writerows([("image", "captions"), *(("x.jpg", cell) for cell in cells)])
    assert _values(_read(tmp_path, "t.csv", out.getvalue())) == [
        ("x.jpg", ("a dog", "it's b")),
        ("x.jpg", ("a cat", "b")),
        ("x.jpg", ("[no list",)),
        ("x.jpg", ("[1, 2]",)),
        ("x.jpg", ("[sic] a boat [sic]",)),
    ]


def test_what_is_no_text_in_a_list_costs_itself(tmp_path):
    lines = '{"image": "x", "caption": ["a", null, "b"]}\n{"image": "y", "caption": [null]}\n'
    assert _values(_read(tmp_path, "t.jsonl", lines)) == [("x", ("a", "", "b")), "no_caption"]


def test_a_stray_quote_swallows_no_rows_up_to_the_next_one(tmp_path):
    lines = ["image,caption", 'a.jpg,"the tall tower', "b.jpg,a dog", "no row", "c.jpg,a cat"]
    lines += ['d.jpg,a tv of 40"', 'e.jpg,"two lines,', 'of one caption, the end"', "f.jpg,good"]
    assert _values(_read(tmp_path, "t.csv", "\n".join(lines))) == [
        "row_unreadable",
        ("b.jpg", ("a dog",)),
        "row_unreadable",
        ("c.jpg", ("a cat",)),
        ("d.jpg", ('a tv of 40"',)),
        ("e.jpg", ("two lines,\nof one caption, the end",)),
        ("f.jpg", ("good",)),
    ]


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 2 columns named caption: give each a name"):
        _read(tmp_path, "t.csv", "image,caption,caption\na.jpg,one,two\n")


def test_blank_lines_may_stand_above_the_header(tmp_path):
    assert _values(_read(tmp_path, "t.csv", "\n\nimage,caption\na.jpg,x\n")) == [("a.jpg", ("x",))]


@pytest.mark.parametrize(
    "data", ["image,caption\na.jpg,x\n".encode("utf-16-le"), b"PK\x03\x04\0\0"]
)
def test_what_is_no_text_is_said(tmp_path, data):
    with pytest.raises(UserError, match="is no text in UTF-8"):
        _read(tmp_path, "t.csv", data)
