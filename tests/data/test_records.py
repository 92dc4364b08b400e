# SPDX-License-Identifier: Apache-2.0
"""Prepared folders are read as they were written, and damage is named."""

import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cots_jax.data.prepare import shards
from cots_jax.data.prepare.write import FolderWriter, Plan, prepare_folder
from cots_jax.data.records import Record, list_splits, open_split, pack_record, unpack_record
from cots_jax.errors import UserError

PLAN = Plan("tiny", "test", "none", 8, {})


def _record(i: int, captions: int, group: int) -> Record:
    texts = tuple(f"caption {i}.{c}" for c in range(captions))
    image = np.random.default_rng(i).bytes(500)
    return Record(f"id{i}", image, texts, texts, f"group{group}", group, f"table:{i}")


def _make(folder: pathlib.Path) -> list[Record]:
    """Seven train records with 1, 2, 3, 1, … captions and one val record of group 0."""
    records = [_record(i, i % 3 + 1, i // 2) for i in range(7)]

    def fill(writer: FolderWriter) -> None:
        for record in records:
            assert writer.group_id(record.group) == record.group_id
            writer.add("train", record)
        writer.add("val", _record(9, 2, 0))

    prepare_folder(folder, PLAN, fill)
    return records


text = st.text(st.characters(exclude_categories=["Cs"]))
texts = st.lists(text).map(tuple)


@given(st.tuples(text, st.binary(), texts, texts, text, st.integers(0, 2**31 - 1), text))
def test_packing_keeps_every_record(fields):
    record = Record(*fields)
    assert unpack_record(pack_record(record)) == record


def test_reads_back_what_was_written_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1500)
    records = _make(tmp_path / "d")
    with open_split(tmp_path / "d", "train") as split:
        assert split.facts["splits"]["train"] == {"records": 7, "pairs": 13, "shards": 4}
        assert [split.record(i) for i in range(len(split))] == records
        assert split.captions_per_record.tolist() == [1, 2, 3, 1, 2, 3, 1]
        assert split.group_id.tolist() == [0, 0, 1, 1, 2, 2, 3]
        assert split.group_id.dtype == split.captions_per_record.dtype == np.int32
        assert (split.name, split.split, split.pairs) == ("tiny", "train", 13)


def test_pair_table_counts_captions_of_each_record(tmp_path):
    _make(tmp_path / "d")
    with open_split(tmp_path / "d", "train") as split:
        table = split.pair_table()
        assert table.dtype == np.int32
        expected = [[r, c] for r in range(7) for c in range(r % 3 + 1)]
        assert table.tolist() == expected
        for row, number in table:
            assert split.record(int(row)).captions[number] == f"caption {row}.{number}"


def test_many_threads_read_the_same_split(tmp_path):
    records = _make(tmp_path / "d")
    with open_split(tmp_path / "d", "train") as split, ThreadPoolExecutor(8) as pool:
        order = [i % 7 for i in range(300)]
        assert list(pool.map(split.record, order)) == [records[i] for i in order]


def test_a_closed_split_opens_again(tmp_path):
    records = _make(tmp_path / "d")
    split = open_split(tmp_path / "d", "train")
    split.close()
    assert split.record(3) == records[3]
    split.close()


@pytest.mark.parametrize("i", [-1, 7])
def test_a_record_outside_the_split_is_an_index_error(tmp_path, i):
    _make(tmp_path / "d")
    with open_split(tmp_path / "d", "train") as split, pytest.raises(IndexError, match="has 7"):
        split.record(i)


def test_splits_share_dense_groups(tmp_path):
    _make(tmp_path / "d")
    assert list_splits(tmp_path / "d") == ("train", "val")
    ids = []
    for name in list_splits(tmp_path / "d"):
        with open_split(tmp_path / "d", name) as split:
            ids.extend(split.group_id.tolist())
            assert split.facts["groups"] == 4
    assert sorted(set(ids)) == [0, 1, 2, 3]
    assert ids[-1] == 0


def test_a_missing_folder_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"no prepared data in .*cots_jax\.prepare"):
        open_split(tmp_path / "nowhere", "train")


def test_a_folder_without_facts_is_half_written(tmp_path):
    _make(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").unlink()
    with pytest.raises(UserError, match="half-written"):
        open_split(tmp_path / "d", "train")


def test_a_folder_of_something_else_is_not_called_half_written(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no prepared data in .*cots_jax\.prepare"):
        open_split(tmp_path, "train")


def test_an_unknown_split_names_those_there(tmp_path):
    _make(tmp_path / "d")
    with pytest.raises(UserError, match=r"no split 'test': it has train, val"):
        open_split(tmp_path / "d", "test")


def test_another_schema_is_refused(tmp_path):
    _make(tmp_path / "d")
    path = tmp_path / "d" / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        open_split(tmp_path / "d", "train")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 3}'])
def test_damaged_facts_are_named(tmp_path, content):
    _make(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        open_split(tmp_path / "d", "train")


def test_a_missing_and_a_cut_shard_are_named(tmp_path):
    _make(tmp_path / "d")
    shard = tmp_path / "d" / "train" / "shard-00000-of-00001.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"train/shard-00000-of-00001\.array_record has .* bytes"):
        open_split(tmp_path / "d", "train")
    shard.unlink()
    with pytest.raises(UserError, match=r"train/shard-00000-of-00001\.array_record is missing"):
        open_split(tmp_path / "d", "train")


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_index_is_named(tmp_path, damage):
    _make(tmp_path / "d")
    index = tmp_path / "d" / "train" / "index.npz"
    data = index.read_bytes()
    index.unlink()
    if damage == "cut":
        index.write_bytes(data[: len(data) // 2])
    if damage == "other":
        index.write_bytes((tmp_path / "d" / "val" / "index.npz").read_bytes())
    with pytest.raises(UserError, match=r"train/index\.npz"):
        open_split(tmp_path / "d", "train")


def test_a_shard_that_is_damaged_all_over_is_one_error(tmp_path):
    """The reader refuses to be closed as well, which hid what reading had said."""
    _make(tmp_path / "d")
    shard = tmp_path / "d" / "train" / "shard-00000-of-00001.array_record"
    data = bytearray(shard.read_bytes())
    for at in range(0, len(data), 7):
        data[at] ^= 255
    shard.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"), open_split(tmp_path / "d", "train") as s:
        s.record(0)


def test_no_flipped_bit_is_read_as_a_record(tmp_path):
    records = _make(tmp_path / "d")
    shard = tmp_path / "d" / "train" / "shard-00000-of-00001.array_record"
    data = shard.read_bytes()
    used = data.rfind(records[-1].image) + 500
    refused = 0
    for at in np.random.default_rng(0).integers(data.find(records[0].image), used, 40):
        flipped = bytearray(data)
        flipped[at] ^= 16
        shard.write_bytes(flipped)
        with open_split(tmp_path / "d", "train") as split:
            for i, record in enumerate(records):
                try:
                    assert split.record(i) == record
                except UserError:
                    refused += 1
    assert refused >= 30
