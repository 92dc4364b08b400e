# SPDX-License-Identifier: Apache-2.0
"""The prepare door: exit codes, what goes to which stream, and a killed run."""

import io
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from cots_jax import prepare
from cots_jax.data.records import open_split


def _run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    return prepare.main()


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    """Four pictures in a folder and a CSV that speaks of five."""
    (tmp_path / "photos").mkdir()
    lines = ["photo,alt,split"]
    for i in range(5):
        lines.append(f"{i}.png,number {i},train")
        if i < 4:
            Image.new("RGB", (300, 150), (i * 60, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return tmp_path


def _pairs(source: pathlib.Path) -> list[str]:
    return [
        "pairs", f"--captions={source}/t.csv", f"--images={source}/photos", f"--out={source}/out",
        "--image_column=photo", "--caption_column=alt", "--longest_side=64", "--name=mine",
    ]  # fmt: skip


def test_json_goes_to_stdout_and_the_rest_to_stderr(source, monkeypatch, capsys):
    assert _run(monkeypatch, *_pairs(source), "--json") == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts == json.loads((source / "out" / "dataset.json").read_text())
    assert facts["name"] == "mine"
    assert facts["splits"] == {"train": {"records": 4, "pairs": 4, "shards": 1}}
    assert "made: train 4 pictures / 4 pairs; dropped picture_missing 1" in said.err
    with open_split(source / "out", "train") as split:
        assert Image.open(io.BytesIO(split.record(2).image)).size == (64, 32)


def test_a_second_run_says_that_it_is_there(source, monkeypatch, capsys):
    _run(monkeypatch, *_pairs(source))
    capsys.readouterr()
    assert _run(monkeypatch, *_pairs(source)) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "already there" in said.err
    assert _run(monkeypatch, *_pairs(source), "--longest_side=32") == 1
    assert "longest_side 64, now 32" in capsys.readouterr().err


def test_failure_is_one_line_and_exit_code_one(source, monkeypatch, capsys):
    assert _run(monkeypatch, *_pairs(source), "--images=/nowhere") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "prepare: --images=/nowhere does not exist\n"


@pytest.mark.parametrize(
    "arguments", [(), ("emoji",), ("video", "--out=x"), ("emoji", "--out=x", "--size=big")]
)
def test_wrong_use_is_exit_code_two(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        _run(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert "usage: python -m cots_jax.prepare" in capsys.readouterr().err


def test_every_source_has_its_flags(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        _run(monkeypatch, "--help")
    said = capsys.readouterr().out
    for kind in (
        "emoji",
        "pairs",
        "karpathy",
        "coco",
        "webdataset",
        "img2dataset",
        "hf",
        "tfds",
        "classes",
        "videos",
        "msrvtt",
    ):
        assert f"    {kind} " in said
        with pytest.raises(SystemExit) as stop:
            _run(monkeypatch, kind, "--help")
        assert stop.value.code == 0
        flags = capsys.readouterr().out
        assert "--out" in flags
        assert ("--longest_side" in flags) == (kind != "emoji")


def test_sources_run_through_the_door(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photos" / "a.jpg")
    entry = {"filename": "a.jpg", "split": "val", "sentences": [{"raw": "a dog ."}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [entry]}))
    told = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}
    told["annotations"] = [{"image_id": 1, "caption": "a dog ."}]
    for name in ("captions_val2017.json", "captions_train2017.json"):
        (tmp_path / name).write_text(json.dumps(told if "val" in name else {**told, "images": []}))
    both = ",".join(str(tmp_path / f"captions_{part}2017.json") for part in ("val", "train"))
    for kind, captions in (("karpathy", str(tmp_path / "k.json")), ("coco", both)):
        flags = (
            f"--captions={captions}",
            f"--images={tmp_path}/photos",
            f"--out={tmp_path}/{kind}",
        )
        assert _run(monkeypatch, kind, *flags) == 0
        assert "made: val 1 pictures / 1 pairs" in capsys.readouterr().err
    for kind in ("webdataset", "hf", "img2dataset"):
        flags = (f"--source={tmp_path}/photos", f"--out={tmp_path}/{kind}")
        assert _run(monkeypatch, kind, *flags) == 1
        assert capsys.readouterr().err.startswith(
            f"prepare: --source={tmp_path}/photos has no file"
        )


@pytest.mark.slow
def test_a_killed_run_is_finished_by_the_next_with_the_same_result(tmp_path):
    pytest.importorskip("resvg_py", reason="needs the extra cots_jax[emoji]")

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "cots_jax.prepare", "emoji", f"--out={tmp_path / out}"]

    root = pathlib.Path(prepare.__file__).parents[1]
    with subprocess.Popen(command("d"), cwd=root, stderr=subprocess.DEVNULL) as killed:
        while not list((tmp_path / "d").glob("train/shard-*")) and killed.poll() is None:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "d" / "dataset.json").exists()
    for out in ("d", "whole"):
        subprocess.run(command(out), cwd=root, check=True, capture_output=True)
    files = [
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*.*")}
        for out in ("d", "whole")
    ]
    assert files[0] == files[1]
