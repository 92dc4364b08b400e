# SPDX-License-Identifier: Apache-2.0
"""The same step on one device and on eight: the same losses, gradients and queue."""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from doors import fake_devices
from sharded_run import LONG, SHORT

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.xdist_group("sharding")  # `runs` takes a minute: one worker makes it


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(facts, arrays) of every arm; a process of its own, as the devices are counted once."""
    out = tmp_path_factory.mktemp("sharded") / "runs.npz"
    paths = [HERE, HERE.parent, HERE.parents[1]]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": fake_devices(8),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    command = [sys.executable, HERE / "sharded_run.py", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as saved:
        arrays = dict(saved)
    return json.loads(str(arrays.pop("facts"))), arrays


def state_of(arrays, arm):
    return {name.removeprefix(arm): x for name, x in arrays.items() if name.startswith(f"{arm}.")}


@pytest.mark.parametrize(("arm", "tolerance"), [("data", 1e-10), ("fsdp", 1e-10), ("long", 1e-5)])
def test_losses_and_gradient_norms_do_not_depend_on_the_devices(runs, arm, tolerance):
    facts, _ = runs
    for one, other in zip(facts["one"]["losses"], facts[arm]["losses"]):
        assert set(one) == set(other)
        for name, value in one.items():
            assert math.isclose(other[name], value, rel_tol=tolerance, abs_tol=tolerance), name


@pytest.mark.parametrize("arm", ["data", "fsdp"])
def test_the_whole_state_does_not_depend_on_the_devices(runs, arm):
    one, other = (state_of(runs[1], name) for name in ("one", arm))
    assert set(one) == set(other)
    for name, leaf in one.items():
        np.testing.assert_allclose(other[name], leaf, rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_batch_compared_with_itself_does_not_depend_on_the_devices(runs):
    facts, arrays = runs
    one, other = (state_of(arrays, name) for name in ("batch_one", "batch_fsdp"))
    assert set(one) == set(other)
    for name, leaf in one.items():
        np.testing.assert_allclose(other[name], leaf, rtol=1e-10, atol=1e-12, err_msg=name)
    for first, second in zip(facts["batch_one"]["losses"], facts["batch_fsdp"]["losses"]):
        assert first == pytest.approx(second, rel=1e-10)
    assert facts["batch_fsdp"]["moved"] == []


@pytest.mark.parametrize("place", range(4), ids=["values", "by q", "by k", "by v"])
def test_attention_does_not_depend_on_which_device_has_which_rows_and_heads(runs, place):
    one, other = (runs[1][f"attention/{name}/{place}"] for name in ("one", "all"))
    np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arm", ["data", "fsdp", "long"])
def test_ids_validity_and_cursor_of_the_queue_agree_bit_for_bit(runs, arm):
    one, other = (state_of(runs[1], name) for name in ("one", arm))
    for field in ("group_id", "valid", "cursor"):
        (name,) = (name for name in one if name.endswith(f".queue.{field}"))
        found = other[name][:SHORT] if other[name].ndim else other[name]
        np.testing.assert_array_equal(found, one[name])
        assert found.dtype == one[name].dtype


def test_the_problem_is_not_trivial(runs):
    facts, arrays = runs
    first, second = facts["one"]["losses"]
    assert first["skipped"] == second["skipped"] == 0
    assert 0 < first["kept/0"] + first["kept/1"] < 2
    assert all(
        abs(first[f"loss/{name}"] - second[f"loss/{name}"]) > 1e-4 for name in ("mvm", "mlm")
    )
    valid = state_of(arrays, "one")[".method.queue.valid"]
    assert 0 < valid[500:532].mean() < 1


def test_arrays_lie_where_they_should_and_stay_there(runs):
    facts, _ = runs
    for arm in ("data", "fsdp", "long"):
        assert facts[arm]["moved"] == []
        (stored, _), (shard, _) = facts[arm]["shards"]["queue"]
        assert shard * 8 == stored
    stored, shard = facts["fsdp"]["shards"]["kernel"]
    assert math.prod(shard) * 2 == math.prod(stored)
    stored, shard = facts["data"]["shards"]["kernel"]
    assert shard == stored


def test_no_collective_grows_with_the_queue(runs):
    facts, _ = runs
    short, long = (facts[arm]["collectives"] for arm in ("data", "long"))
    assert short
    assert facts["one"]["collectives"] == []
    volumes = [sum(math.prod(dims) for dims in found) for found in (short, long)]
    assert volumes[0] == volumes[1]
    for length, found in ((SHORT, short), (LONG, long), (SHORT, facts["fsdp"]["collectives"])):
        assert not [dims for dims in found if {length, length // 8} & set(dims)]
