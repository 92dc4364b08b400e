# SPDX-License-Identifier: Apache-2.0
"""A run that was killed goes on after its finished shards and ends as one that was not."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from doors import PROJECT
from prepare_cases import ids, jpeg, rejects, write_tar

from cots_jax.data.prepare import kept, shards, traces
from cots_jax.data.prepare.pictures import normalise_picture
from cots_jax.data.prepare.twins import Duplicates
from cots_jax.data.prepare.webdataset import WebdatasetOptions, prepare_webdataset
from cots_jax.data.prepare.write import Outcome
from cots_jax.errors import UserError

PICTURES = 24
SMALL = 4000  # bytes of a shard: two or three pictures


def _members(first: int, last: int) -> list[tuple[str, bytes]]:
    """Every sixth picture is one that was there before, every seventh is broken."""
    found = []
    for i in range(first, last):
        picture = b"no" if i % 7 == 6 else jpeg(i - 5 if i % 6 == 5 else i, (48, 40))
        found += [(f"{i}.jpg", picture), (f"{i}.txt", f"number {i}".encode())]
    return found


@pytest.fixture
def source(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setattr(shards, "SHARD_BYTES", SMALL)
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "val-0.tar", _members(0, 5))
    write_tar(tmp_path / "in" / "train-0.tar", _members(4, PICTURES))
    return tmp_path / "in"


def _options(source: pathlib.Path, **more) -> WebdatasetOptions:
    return WebdatasetOptions(source=source, **more)


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class _Killed(BaseException):
    pass


def _dies_at(monkeypatch, number: int) -> list[bytes]:
    """Pictures are decoded one after the other; the one with this number is never reached."""
    decoded: list[bytes] = []

    def decode(data: bytes, longest_side: int) -> bytes:
        if len(decoded) == number:
            raise _Killed
        decoded.append(data)
        return normalise_picture(data, longest_side)

    monkeypatch.setattr(kept, "normalise_picture", decode)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return decoded


@pytest.mark.parametrize("duplicates", list(Duplicates))
def test_whenever_it_dies(source, tmp_path, monkeypatch, duplicates):
    options = _options(source, duplicates=duplicates)
    whole = prepare_webdataset(tmp_path / "whole", options)
    expected = _files(tmp_path / "whole")
    assert len([name for name in expected if "shard-" in name]) > 5
    assert not [name for name in expected if "trace" in name]
    spared = []
    for number in range(1, PICTURES, 4):
        out = tmp_path / f"at-{number}"
        _dies_at(monkeypatch, number)
        with pytest.raises(_Killed):
            prepare_webdataset(out, options)
        assert not (out / "dataset.json").exists()
        decoded = _dies_at(monkeypatch, 1000)
        made = prepare_webdataset(out, options)
        assert {**made.facts, "name": "whole"} == whole.facts
        found = _files(out)
        assert {k: v for k, v in found.items() if k != "dataset.json"} == {
            k: v for k, v in expected.items() if k != "dataset.json"
        }
        spared.append(PICTURES + 1 - len(decoded))
    assert spared == sorted(spared)
    assert spared[-1] >= 10


def test_dying_again_and_again_gets_there(source, tmp_path, monkeypatch):
    for _ in range(20):
        decoded = _dies_at(monkeypatch, 12)
        try:
            prepared = prepare_webdataset(tmp_path / "out", _options(source))
            break
        except _Killed:
            continue
    assert prepared.outcome is Outcome.MADE
    assert len(decoded) < 12
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_BYTES", SMALL)
    whole = prepare_webdataset(tmp_path / "whole", _options(source))
    assert prepared.facts["fingerprint"] == whole.facts["fingerprint"]
    assert rejects(tmp_path / "out") == rejects(tmp_path / "whole")


def test_dying_at_the_very_end(source, tmp_path, monkeypatch):
    real = np.savez

    def dies_at_an_index(path, **arrays):
        if pathlib.Path(path).name == "index.npz" and "val" in str(path):
            raise _Killed
        real(path, **arrays)

    monkeypatch.setattr(shards.np, "savez", dies_at_an_index)
    with pytest.raises(_Killed):
        prepare_webdataset(tmp_path / "out", _options(source))
    assert list((tmp_path / "out" / "train").glob("*-of-*"))
    monkeypatch.setattr(shards.np, "savez", real)
    decoded = _dies_at(monkeypatch, 1000)
    made = prepare_webdataset(tmp_path / "out", _options(source)).facts
    # what was rejected is looked at again, nothing else
    assert len(decoded) == len(rejects(tmp_path / "out")) == 5
    whole = prepare_webdataset(tmp_path / "whole", _options(source)).facts
    assert made["shards"] == whole["shards"]


def _begin(source: pathlib.Path, out: pathlib.Path, monkeypatch, at: int = 20) -> None:
    _dies_at(monkeypatch, at)
    with pytest.raises(_Killed):
        prepare_webdataset(out, _options(source))


def test_other_arguments_start_anew(source, tmp_path, monkeypatch):
    _begin(source, tmp_path / "out", monkeypatch)
    decoded = _dies_at(monkeypatch, 1000)
    prepare_webdataset(tmp_path / "out", _options(source, longest_side=32))
    assert len(decoded) == PICTURES + 1


@pytest.mark.parametrize("what", ["shard", "trace", "gap"])
def test_a_damaged_shard_is_made_again(source, tmp_path, monkeypatch, what):
    _begin(source, tmp_path / "out", monkeypatch)
    train = tmp_path / "out" / "train"
    path = train / ("shard-00001.trace.npz" if what == "trace" else "shard-00001.writing")
    if what == "gap":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    decoded = _dies_at(monkeypatch, 1000)
    made = prepare_webdataset(tmp_path / "out", _options(source)).facts
    assert len(decoded) > 10
    whole = prepare_webdataset(tmp_path / "whole", _options(source)).facts
    assert made["fingerprint"] == whole["fingerprint"]


@pytest.mark.parametrize("number", [8, 12])
def test_another_source_of_the_same_size_is_noticed(source, tmp_path, monkeypatch, number):
    _begin(source, tmp_path / "out", monkeypatch, at=18)
    data = (source / "train-0.tar").read_bytes()
    caption = f"number {number}".encode()
    assert data.count(caption) == 1
    (source / "train-0.tar").write_bytes(data.replace(caption, b" " * len(caption)))
    _dies_at(monkeypatch, 1000)
    with pytest.raises(UserError, match="was begun from another state of the source"):
        prepare_webdataset(tmp_path / "out", _options(source))


def test_a_source_that_lost_its_last_finished_record_is_noticed(source, tmp_path, monkeypatch):
    def without(last: int) -> None:
        data = (source / "train-0.tar").read_bytes()
        caption = f"number {last}".encode()
        (source / "train-0.tar").write_bytes(data.replace(caption, b" " * len(caption)))

    _begin(source, tmp_path / "out", monkeypatch)
    last = int(traces.finished_shards(tmp_path / "out" / "train")[-1]["ordinal"][-1])
    for number in range(4 + last % 2**traces.UNIT_BITS, PICTURES):
        without(number)
    _dies_at(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"another state of the source \(seen at its end"):
        prepare_webdataset(tmp_path / "out", _options(source))
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_any_number_of_threads_gives_the_same(source, tmp_path, monkeypatch):
    found = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        out = tmp_path / str(threads) / "out"
        out.parent.mkdir()
        prepare_webdataset(out, _options(source, duplicates=Duplicates.DROP))
        found.append(_files(out))
    assert found[0] == found[1] == found[2]
    assert len(ids(tmp_path / "1" / "out")["train"]) > 10


@pytest.mark.slow
def test_killed_by_the_system(source, tmp_path):
    flags = ["webdataset", f"--source={source}", "--out=out"]
    program = (
        "import sys, time; from cots_jax import prepare; from cots_jax.data.prepare import kept, "
        f"shards; shards.SHARD_BYTES = {SMALL}; real = kept.normalise_picture\n"
        "def slow(data, side): time.sleep(0.1); return real(data, side)\n"
        "kept.normalise_picture = slow; sys.argv = ['prepare', *sys.argv[1:]]; "
        "sys.exit(prepare.main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    arguments = [sys.executable, "-c", program, *flags]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment) as killed:
        while not (tmp_path / "out" / "train" / "shard-00001.trace.npz").exists():
            assert killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "dataset.json").exists()
    before = (tmp_path / "out" / "train" / "shard-00000.writing").stat()
    subprocess.run(arguments, cwd=tmp_path, env=environment, check=True, capture_output=True)
    after = next((tmp_path / "out" / "train").glob("shard-00000-of-*")).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    whole = prepare_webdataset(tmp_path / "whole", _options(source)).facts
    assert whole["fingerprint"] in (tmp_path / "out" / "dataset.json").read_text()
