# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of speed run as their pages say, at sizes of seconds; what they time is not judged."""

import json
import pathlib
import sys

import pytest
from doors import PROJECT, run_apart
from tiny_world import Tiny

SCRIPTS = {
    "ranking_speed": (("--images=60", "--rounds=2"), {"ratio", "peak_mib", "texts"}),
    "data_speed": (("--pictures=96", "--rounds=1"), {"prepare_of_bare", "read_of_bare"}),
    "million_records": (("--records=6000",), {"prepare", "epoch", "from_the_middle"}),
    "search_speed": (("--rows=3000", "--rounds=2"), {"one_query", "filtered"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_says_what_it_found(name, tmp_path):
    flags, keys = SCRIPTS[name]
    command = [sys.executable, str(PROJECT / "benchmarks" / f"{name}.py"), *flags]
    said = run_apart(tmp_path, command)
    assert said.status == 0, said.err
    assert keys <= set(json.loads(said.out))


@pytest.mark.slow
def test_it_says_how_fast_an_index_is_made(tiny: Tiny, tmp_path: pathlib.Path) -> None:
    flags = [f"--model={tiny.run}", "--pictures=300", "--embedded=20", "--rounds=1"]
    said = run_apart(
        tmp_path, [sys.executable, str(PROJECT / "benchmarks" / "index_speed.py"), *flags]
    )
    assert said.status == 0, said.err
    assert {"of_encoder", "nothing_changed_s"} <= set(json.loads(said.out))


@pytest.mark.slow
def test_it_says_what_an_engine_finds(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("usearch", reason="needs the extra cots_jax[search]")
    flags = ["--rows=3000", "--rounds=2", "--engine=usearch"]
    said = run_apart(
        tmp_path, [sys.executable, str(PROJECT / "benchmarks" / "search_speed.py"), *flags]
    )
    assert json.loads(said.out)["usearch"]["recall@10"] > 0.9
