# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of speed run as their pages say, at sizes of seconds; what they time is not judged."""

import json
import sys

import pytest
from doors import PROJECT, run_apart

SCRIPTS = {
    "ranking_speed": (("--images=60", "--rounds=2"), {"ratio", "peak_mib", "texts"}),
    "data_speed": (("--pictures=96", "--rounds=1"), {"prepare_of_bare", "read_of_bare"}),
    "million_records": (("--records=6000",), {"prepare", "epoch", "from_the_middle"}),
    "search_speed": (("--rows=3000", "--rounds=2"), set()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_says_what_it_found(name, tmp_path):
    flags, keys = SCRIPTS[name]
    command = [sys.executable, str(PROJECT / "benchmarks" / f"{name}.py"), *flags]
    said = run_apart(tmp_path, command)
    assert said.status == 0, said.err
    assert keys <= set(json.loads(said.out))
