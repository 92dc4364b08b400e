# SPDX-License-Identifier: Apache-2.0
"""`kill -9` at random moments, many times over."""

import json
import sys

import pytest
from doors import PROJECT, run_apart
from tiny_world import CONFIG, Tiny

KILLS = 10


@pytest.mark.slow
def test_killed_again_and_again(tiny: Tiny) -> None:
    script = str(PROJECT / "benchmarks" / "kill_harness.py")
    flags = [f"--config={CONFIG}", f"--kills={KILLS}", "--seed=0"]
    said = run_apart(tiny.root, [sys.executable, script, *flags], timeout=1800)
    assert said.status == 0, said.out + said.err
    outcome = json.loads(said.out)
    assert outcome["kills"] == KILLS
    assert outcome["faults"] == []
