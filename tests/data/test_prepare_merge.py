# SPDX-License-Identifier: Apache-2.0
"""Parts made apart and joined are what one run would have made, bit by bit."""

import argparse
import json
import pathlib
import shutil

import pytest
from doors import run_prepare
from hypothesis import given
from hypothesis import strategies as st
from prepare_cases import jpeg, write_tar

from cots_jax.data.prepare import merge, shards, tables
from cots_jax.data.prepare.merge import merge_parts
from cots_jax.data.prepare.tasks import Task, parse_task
from cots_jax.data.prepare.twins import Duplicates
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.data.prepare.write import Outcome
from cots_jax.errors import UserError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    monkeypatch.setattr(tables, "UNIT", 3)


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    """Five tars; pictures come again in the same tar, in another one and in another split."""
    (tmp_path / "in").mkdir()
    for number, split in enumerate(["test", "train", "train", "train", "val"]):
        members = []
        for i in range(5):
            seed = {2: 0, 4: number}.get(i, 10 * number + i)
            members += [(f"{i}.jpg", jpeg(seed, (40, 40))), (f"{i}.txt", b"said")]
        write_tar(tmp_path / "in" / f"{split}-{number}.tar", [*members, ("z.txt", b"alone")])
    return tmp_path / "in"


def _prepare(source: pathlib.Path, out: pathlib.Path, **more):
    return prepare_webdataset(out, WebdatasetOptions(source=source, name="mine", **more))


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found = {name: data for name, data in found.items() if not name.startswith("task-")}
    rejects = found.pop("rejects.jsonl").splitlines()
    return {**found, "rejects": b"\n".join(sorted(rejects))}


@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
@pytest.mark.parametrize("duplicates", list(Duplicates))
def test_parts_are_the_whole(source, tmp_path, tasks, duplicates):
    whole = _prepare(source, tmp_path / "whole", duplicates=duplicates)
    for number in range(tasks, 0, -1):
        _prepare(source, tmp_path / "out", duplicates=duplicates, task=Task(number, tasks))
    merged = merge_parts(tmp_path / "out")
    assert merged.facts == whole.facts
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert merge_parts(tmp_path / "out").outcome is Outcome.ALREADY_THERE
    again = _prepare(source, tmp_path / "out", duplicates=duplicates, task=Task(1, tasks))
    assert again.outcome is Outcome.ALREADY_THERE


def test_a_merge_that_was_killed_goes_on(source, tmp_path, monkeypatch):
    whole = _prepare(source, tmp_path / "whole")
    for number in (1, 2, 3):
        _prepare(source, tmp_path / "out", task=Task(number, 3))
    added = []

    def dies(stored, twins, writer):
        added.append(stored)
        if len(added) == 17:
            raise KeyboardInterrupt
        add(stored, twins, writer)

    add = merge._add
    monkeypatch.setattr(merge, "_add", dies)
    with pytest.raises(KeyboardInterrupt):
        merge_parts(tmp_path / "out")
    assert list((tmp_path / "out" / "train").glob("*.trace.npz"))
    assert merge_parts(tmp_path / "out").facts == whole.facts
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_a_table_in_parts_through_the_door(tmp_path):
    (tmp_path / "photos").mkdir()
    lines = ["image,caption"]
    for i in range(10):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(jpeg(i))
        lines.append(f"{i}.jpg,number {i}")
    (tmp_path / "t.csv").write_text("\n".join([*lines, "10.jpg,missing"]))
    flags = ("pairs", "--captions=t.csv", "--images=photos", "--name=mine")
    assert run_prepare(tmp_path, *flags, "--out=whole").status == 0
    for number in (1, 2):
        said = run_prepare(tmp_path, *flags, "--out=out", f"--task={number}/2")
        assert said.status == 0, said.err
    said = run_prepare(tmp_path, "merge", "--out=out", "--json")
    assert said.status == 0, said.err
    assert json.loads(said.out) == json.loads((tmp_path / "whole" / "dataset.json").read_text())
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    said = run_prepare(tmp_path, *flags, "--out=x", "--task=1/2", "--image_tokens=y")
    assert said.line == (
        "prepare: --image_tokens is for the whole set: give it to merge, not to a task"
    )
    assert run_prepare(tmp_path, *flags, "--out=out", "--task=3/2").status == 2


@pytest.fixture
def parts(source, tmp_path) -> pathlib.Path:
    for number in (1, 2):
        _prepare(source, tmp_path / "out", task=Task(number, 2))
    return tmp_path / "out"


def test_parts_that_do_not_fit_are_named(source, parts, tmp_path):
    second = parts / "task-00002-of-00002"
    (second / "dataset.json").rename(tmp_path / "kept.json")
    with pytest.raises(UserError, match=r"lacks 1 of 2 parts .* with --task=2/2$"):
        merge_parts(parts)
    shutil.rmtree(second)
    with pytest.raises(UserError, match=r"lacks 1 of 2 parts .* with --task=2/2$"):
        merge_parts(parts)
    _prepare(source, parts, task=Task(2, 2), longest_side=32)
    with pytest.raises(UserError, match=r"other arguments than task-00001-of-00002 \(longest_side"):
        merge_parts(parts)
    _prepare(source, parts, task=Task(1, 3))
    with pytest.raises(UserError, match="has parts of 2 and of 3: remove the ones not meant"):
        merge_parts(parts)
    with pytest.raises(UserError, match="has no parts: make them with --task=1/n"):
        merge_parts(tmp_path / "nowhere")
    assert not (parts / "dataset.json").exists()


@pytest.mark.parametrize("what", ["flipped", "missing", "traces"])
def test_a_damaged_part_is_not_joined(parts, what):
    shard = next((parts / "task-00002-of-00002" / "train").glob("shard-00000-of-*"))
    if what == "missing":
        shard.unlink()
    elif what == "traces":
        (shard.parent / "shard-00000.trace.npz").unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    words = "has traces of 0 of its" if what == "traces" else "is missing or damaged: remove"
    with pytest.raises(UserError, match=words):
        merge_parts(parts)
    assert not (parts / "dataset.json").exists()


def test_nothing_in_any_part(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.jpg", b"no"), ("a.txt", b"x")])
    for number in (1, 2):
        _prepare(tmp_path / "a.tar", tmp_path / "out", task=Task(number, 2))
    with pytest.raises(UserError, match=r"no usable pair in .*: dropped picture_unreadable 1"):
        merge_parts(tmp_path / "out")


@given(st.integers(1, 50), st.integers(0, 200))
def test_shares_are_all_of_it_once(tasks, units):
    shares = [Task(number, tasks).share(units) for number in range(1, tasks + 1)]
    assert [unit for share in shares for unit in share] == list(range(units))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/2", "a/b", "1/2/3"])
def test_tasks_are_written_as_one_of_n(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write i/n with i from 1 to n"):
        parse_task(text)
    assert str(parse_task("3/16")) == "3/16"
