# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of speed run as their pages say, at sizes of seconds; what they time is not judged."""

import json
import pathlib
import sys

import pytest
from doors import PROJECT, run_apart

SCRIPTS = {
    "million_records": (("--records=6000",), {"prepare", "epoch", "from_the_middle"}),
    "search_speed": (("--rows=3000", "--rounds=2"), {"one_query", "filtered"}),
}
# What the first column of their tables has to hold.
RECORDS = {
    "input": ((), {"prepare webdataset", "shards to device", "none", "memory"}),
    "evaluate": ((), {"60 x 300"}),
    "embed": (
        ("--collection=100",),
        {"files", "decoded", "index", "texts", "index, nothing changed"},
    ),
    "start": ((), {"tiny", "jax alone"}),
    "step": (
        ("--peers=eager", "--parts", "--profile"),
        {"full: ours", "full: eager", "full over contrastive alone", "queue", "products"},
    ),
    "scale": (
        ("--axes=length", "--profile", "--config.method.weight_mvm=0"),
        {"length", 16, 32, "products"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_says_what_it_found(name: str, tmp_path: pathlib.Path) -> None:
    flags, keys = SCRIPTS[name]
    command = [sys.executable, str(PROJECT / "benchmarks" / f"{name}.py"), *flags]
    said = run_apart(tmp_path, command)
    assert said.status == 0, said.err
    assert keys <= set(json.loads(said.out))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
def test_a_quick_look_leaves_a_record(name: str, tmp_path: pathlib.Path) -> None:
    flags, rows = RECORDS[name]
    out = tmp_path / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", f"--out={out}", *flags]
    said = run_apart(tmp_path, command)
    assert said.status == 0, said.err
    record = json.loads(out.read_text("utf-8"))
    assert record["benchmark"] == name
    assert record["quick"] is True
    assert record["command"] == " ".join(["python -m", f"benchmarks.{name}", "--quick", *flags])
    assert {row[0] for table in record["tables"] for row in table["rows"]} >= rows
    for table in record["tables"]:
        assert table["title"] in said.out
        for row in table["rows"]:
            assert len(row) == len(table["columns"])
    assert record["details"]


@pytest.mark.slow
def test_it_says_what_an_engine_finds(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("usearch", reason="needs the extra cots_jax[search]")
    flags = ["--rows=3000", "--rounds=2", "--engine=usearch"]
    said = run_apart(
        tmp_path, [sys.executable, str(PROJECT / "benchmarks" / "search_speed.py"), *flags]
    )
    assert json.loads(said.out)["usearch"]["recall@10"] > 0.9
