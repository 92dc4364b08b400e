# SPDX-License-Identifier: Apache-2.0
"""What the compiled step sends between chips, pinned for several factorisations of eight."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from doors import fake_devices
from pinned_run import LENGTHS, MESHES

HERE = pathlib.Path(__file__).parent
E, ROWS = 16, 32  # of the tiny model
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    """A process of its own, as devices are counted once."""
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": fake_devices(8),
        "PYTHONPATH": paths,
    }
    command = [sys.executable, str(HERE / "pinned_run.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_no_collective_grows_with_the_queue(found, mesh: str) -> None:
    short, long = (found[f"{mesh} {length}"] for length in LENGTHS)
    assert long["queue"] > 7 * short["queue"]
    assert long["collectives"] == short["collectives"]
    assert long["bytes"] == short["bytes"]


def test_over_data_alone_gradients_are_summed_and_features_gathered(found) -> None:
    """Each pass of the towers sums its own gradients: at most two of them."""
    one = found[f"data {LENGTHS[0]}"]
    assert {kind for kind, *_ in one["collectives"]} <= {"all-reduce", "all-gather"}
    summed = sum(
        size * times for kind, size, _, times in one["collectives"] if kind == "all-reduce"
    )
    assert one["parameters"] <= summed < 2.5 * one["parameters"]
    gathered = [size for kind, size, *_ in one["collectives"] if kind == "all-gather"]
    assert max(gathered) == 4 * ROWS * E  # momentum keys and online features, each [b, e]


@pytest.mark.parametrize("mesh", ["fsdp", "all"])
def test_cut_parameters_are_gathered_by_those_that_share_them(found, mesh: str) -> None:
    one, whole = found[f"{mesh} {LENGTHS[0]}"], found[f"data {LENGTHS[0]}"]
    assert one["parameters"] < whole["parameters"]
    groups = {group for kind, _, group, _ in one["collectives"] if kind == "all-gather"}
    assert MESHES[mesh][0] in groups
