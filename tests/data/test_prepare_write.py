# SPDX-License-Identifier: Apache-2.0
"""Prepared folders are whole or known to be half-written, and nothing of the user's is touched."""

import errno
import fcntl
import json
import os

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from cots_jax.data.prepare import shards
from cots_jax.data.prepare.write import FolderWriter, Outcome, Plan, prepare_folder
from cots_jax.data.records import Record, open_split
from cots_jax.errors import UserError

PLAN = Plan("tiny", "test", "none", 8, {"size": 1})


def _fill(writer: FolderWriter) -> None:
    for i in range(3):
        record = Record(str(i), b"x" * 100, ("a",), ("a",), str(i), writer.group_id(str(i)), "t")
        writer.add("train", record)
    writer.reject("caption_empty", "t:4", "three", caption="\udcff")


def _never(writer: FolderWriter) -> None:
    raise AssertionError("the folder is there already")


def _die(writer: FolderWriter) -> None:
    _fill(writer)
    raise KeyboardInterrupt


def test_facts_and_rejects(tmp_path):
    prepared = prepare_folder(tmp_path / "d", PLAN, _fill)
    facts = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert facts == prepared.facts
    assert facts["splits"] == {"train": {"records": 3, "pairs": 3, "shards": 1}}
    assert facts["drops"] == {"caption_empty": 1}
    assert facts["arguments"] == {"size": 1}
    rejects = (tmp_path / "d" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in rejects] == ["caption_empty"]
    assert not (tmp_path / "d" / "preparing.json").exists()
    assert "train 3 pictures / 3 pairs; dropped caption_empty 1" in prepared.summary()


def test_the_fingerprint_is_that_of_the_contents(tmp_path):
    first = prepare_folder(tmp_path / "a", PLAN, _fill).facts
    again = prepare_folder(tmp_path / "b", PLAN, _fill).facts
    assert first == again

    def other(writer: FolderWriter) -> None:
        _fill(writer)
        writer.add("val", Record("9", b"y", ("b",), ("b",), "0", 0, "t"))

    assert prepare_folder(tmp_path / "c", PLAN, other).facts["fingerprint"] != first["fingerprint"]


def test_an_equal_run_finds_it_there_and_another_one_is_refused(tmp_path):
    made = prepare_folder(tmp_path / "d", PLAN, _fill)
    there = prepare_folder(tmp_path / "d", PLAN, _never)
    assert (made.outcome, there.outcome) == (Outcome.MADE, Outcome.ALREADY_THERE)
    assert made.facts == there.facts
    with pytest.raises(UserError, match=r"other arguments \(size 1, now 2\).*choose another --out"):
        prepare_folder(tmp_path / "d", Plan("tiny", "test", "none", 8, {"size": 2}), _never)


def test_an_interrupted_run_starts_again_and_spares_foreign_files(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(tmp_path / "d", PLAN, _die)
    assert not (tmp_path / "d" / "dataset.json").exists()
    (tmp_path / "d" / "notes.txt").write_text("mine")
    (tmp_path / "d" / "train" / "notes.txt").write_text("mine too")
    (tmp_path / "d" / "photos").mkdir()
    (tmp_path / "d" / "photos" / "index.npz").write_text("not a split's")
    prepare_folder(tmp_path / "d", PLAN, _fill)
    with open_split(tmp_path / "d", "train") as split:
        assert len(split) == 3
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "d" / "train" / "notes.txt").read_text() == "mine too"
    assert (tmp_path / "d" / "photos" / "index.npz").read_text() == "not a split's"


def test_a_folder_with_other_files_and_a_file_are_left_alone(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files: choose another --out"):
        prepare_folder(tmp_path / "d", PLAN, _never)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        prepare_folder(tmp_path / "d" / "thesis.txt", PLAN, _never)


def test_two_runs_do_not_write_one_folder(tmp_path):
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / "preparing.json").open("w") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing"):
            prepare_folder(tmp_path / "d", PLAN, _never)


def _full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FullWriter(ArrayRecordWriter):
    """Fails as the real writer does: late, with the system's words in a RuntimeError."""

    def close(self) -> None:
        super().close()
        raise RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; writing x; at byte 0")


class _ForgetfulWriter(ArrayRecordWriter):
    """Loses what it is given."""

    def write(self, packed: bytes) -> None:
        pass


@pytest.mark.parametrize("where", ["shard", "index"])
def test_a_full_disk_is_said_in_one_line_and_leaves_no_facts(tmp_path, monkeypatch, where):
    if where == "shard":
        monkeypatch.setattr(shards, "ArrayRecordWriter", _FullWriter)
    else:
        monkeypatch.setattr(shards.np, "savez", _full)
    with pytest.raises(UserError, match=r"^the disk of .* is full .*choose an --out") as caught:
        prepare_folder(tmp_path / "d", PLAN, _fill)
    assert "\n" not in str(caught.value)
    left = [path.name for path in (tmp_path / "d").rglob("*") if path.is_file()]
    assert left == ["preparing.json"]
    monkeypatch.undo()
    assert prepare_folder(tmp_path / "d", PLAN, _fill).outcome is Outcome.MADE


def test_a_shard_that_lost_records_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ArrayRecordWriter", _ForgetfulWriter)
    with pytest.raises(UserError, match="holds 0 of 3 records"):
        prepare_folder(tmp_path / "d", PLAN, _fill)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        prepare_folder(tmp_path / "file" / "d", PLAN, _fill)
