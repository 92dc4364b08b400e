# SPDX-License-Identifier: Apache-2.0
"""Ways to make a mesh of 8 devices, in one process and in two: the numbers of one device."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from doors import PROJECT, both_said, fake_devices, start_two
from factorised_run import STEPS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("factorisations")]
HERE = pathlib.Path(__file__).parent
ONE = "1,1,1"
SHAPES = ["8,1,1", "1,8,1", "1,1,8", "4,2,1", "2,1,4", "2,2,2"]  # each axis alone, and together
IN_TWO = ["8,1,1", "~8,1,1", "~2,2,2"]
PATHS = os.pathsep.join(map(str, (HERE, HERE.parent, PROJECT)))


def read(file: pathlib.Path):
    with np.load(file) as saved:
        arrays = dict(saved)
    return json.loads(str(arrays.pop("facts"))), arrays


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """All of them in one process, and a single device."""
    out = tmp_path_factory.mktemp("meshes") / "one.npz"
    told = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": fake_devices(8), "PYTHONPATH": PATHS}
    command = [sys.executable, HERE / "factorised_run.py", out, ONE, *SHAPES]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return read(out)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """One of them, and two without neighbours, in two processes with four devices each."""
    folder = tmp_path_factory.mktemp("two")
    script = [str(HERE / "factorised_run.py"), "two.npz", *IN_TWO]
    running = start_two(folder, script, devices=4, paths=PATHS)
    for said in both_said(running, timeout=1500):
        assert said.status == 0, said.err[-3000:]
    return read(folder / "two.npz")


def assert_agrees(found, wanted, shape: str) -> None:
    (facts, arrays), (single, expected) = found, wanted
    np.testing.assert_allclose(facts[shape]["losses"], single[ONE]["losses"], rtol=1e-5)
    assert facts[shape]["kept"] == single[ONE]["kept"]  # no decision of the filter has flipped
    for name in ("group_id", "valid", "cursor"):
        np.testing.assert_array_equal(arrays[f"{shape}/{name}"], expected[f"{ONE}/{name}"])
    for name in ("image", "text"):
        difference = np.abs(arrays[f"{shape}/{name}"] - expected[f"{ONE}/{name}"])
        assert difference.max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mesh_changes_nothing(one, shape):
    assert_agrees(one, one, shape)


@pytest.mark.parametrize("shape", IN_TWO)
def test_two_processes_change_nothing(one, two, shape):
    assert_agrees(two, one, shape)


def test_some_rows_lie_apart(two):
    """The first process has each second row there; elsewhere the first half, or all of them."""
    rows = two[0]["~8,1,1"]["rows"]
    assert rows == [row for row in range(16) if row // 2 % 2 == 0]
    assert two[0]["8,1,1"]["rows"] == list(range(8))


def test_the_problem_is_not_trivial(one):
    losses, kept = one[0][ONE]["losses"], np.array(one[0][ONE]["kept"])
    assert len(losses) == STEPS and abs(losses[-1] - losses[0]) > 0.1
    assert 0 < kept.mean() < 1
