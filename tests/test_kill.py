# SPDX-License-Identifier: Apache-2.0
"""`kill -9` at random moments, many times over."""

import dataclasses
import json
import pathlib
import sys

import pytest
from doors import PROJECT, load_benchmark, run_apart
from tiny_world import CONFIG, Tiny

from cots_jax.errors import UserError

harness = load_benchmark("kill_harness")
SCRIPT = str(PROJECT / "benchmarks" / "kill_harness.py")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (2, 3)])
def test_killed_again_and_again(tiny: Tiny, processes: int, kills: int) -> None:
    flags = [f"--config={CONFIG}", f"--kills={kills}", f"--processes={processes}", "--seed=0"]
    said = run_apart(tiny.root, [sys.executable, SCRIPT, *flags], timeout=1800)
    assert said.status == 0, said.out + said.err
    outcome = json.loads(said.out)
    assert outcome["kills"] == kills
    assert outcome["faults"] == []


def test_a_harness_that_was_stopped_goes_on_with_what_it_had_done(tmp_path: pathlib.Path) -> None:
    found = harness.tally_of(tmp_path, "--config=x", "code")
    assert (found.kills, found.runs, found.span) == (0, 0, 0.0)
    dataclasses.replace(found, kills=7, runs=2, span=3.5).write(tmp_path)
    again = harness.tally_of(tmp_path, "--config=x", "code")
    assert (again.kills, again.runs, again.span) == (7, 2, 3.5)
    for command, code, said in (
        ("--config=y", "code", "--config=x"),
        ("--config=x", "", "other code"),
    ):
        with pytest.raises(UserError, match=f"is of {said}: name another folder by --scratch"):
            harness.tally_of(tmp_path, command, code)


def test_a_harness_deletes_nothing_in_a_folder_that_is_not_its_own(tmp_path: pathlib.Path) -> None:
    (tmp_path / "warm").mkdir()
    with pytest.raises(UserError, match="holds other files: name a new folder"):
        harness.tally_of(tmp_path, "--config=x", "code")
    assert (tmp_path / "warm").is_dir()
