# SPDX-License-Identifier: Apache-2.0
"""Checkpoints across devices and processes: the same values come back on other ones."""

import socket
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoint_cases import assert_same_bits, one_device, run, start
from doors import fake_devices

from cots_jax import checkpoint
from cots_jax.checkpoint import Keep

MESH = """
import sys
from pathlib import Path
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from checkpoint_cases import Keep, assert_same_bits, checkpoint
rows, out = Path(sys.argv[1]), Path(sys.argv[2])
assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
spread = NamedSharding(mesh, PartitionSpec("data", "fsdp"))
target = {"keys": jax.ShapeDtypeStruct((16, 8), "float32", sharding=spread)}
restored = checkpoint.restore(rows, "method", target)
assert restored["keys"].sharding == spread
assert len({str(shard.index) for shard in restored["keys"].addressable_shards}) == 8
assert_same_bits(restored, checkpoint.restore(rows, "method"))
checkpoint.save(out, 1, {"method": restored}, {}, keep=Keep())
"""


def test_saved_on_one_device_restored_on_eight_and_back(tmp_path: Path) -> None:
    ONE = one_device()
    keys = jax.device_put(np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32), ONE)
    path = checkpoint.save(tmp_path / "one", 1, {"method": {"keys": keys}}, {}, keep=Keep())
    flags = {"XLA_FLAGS": fake_devices(8), "JAX_PLATFORMS": "cpu"}
    run(MESH, path, tmp_path / "eight", **flags)
    restored = checkpoint.restore(tmp_path / "eight" / "1", "method", {"keys": keys})
    assert restored["keys"].sharding == ONE
    assert_same_bits(restored, {"keys": keys})


PAIR = """
import sys
from pathlib import Path
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cots_jax import checkpoint
from cots_jax.errors import UserError
number, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
spread = NamedSharding(mesh, PartitionSpec("data"))
rows = np.arange(8, dtype=np.float32)
keys = jax.make_array_from_callback((8,), spread, lambda index: rows[index])
assert checkpoint.latest(folder) is None
for step in (1, 2):
    trees = {"method": {"keys": keys * step}}
    checkpoint.save(folder, step, trees, {"a": step}, keep=checkpoint.Keep())
if number == 0:
    (folder / "2" / "a.json").write_text("3")
multihost_utils.sync_global_devices("damaged")
found = checkpoint.latest(folder)
assert found.step == 1
assert len(found.damaged) == (number == 0)
again = checkpoint.restore(found.path, "method", {"keys": keys})["keys"]
assert again.sharding == spread
for shard in again.addressable_shards:
    np.testing.assert_array_equal(shard.data, rows[shard.index])
if number == 0:
    (folder / "1" / "a.json").write_text("3")
multihost_utils.sync_global_devices("all damaged")
try:
    checkpoint.latest(folder)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_two_processes_write_one_checkpoint_and_agree_on_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    flags = {"XLA_FLAGS": fake_devices(2), "JAX_PLATFORMS": "cpu"}
    pair = [start(PAIR, number, port, tmp_path / "shared", **flags) for number in (0, 1)]
    try:
        told = [process.communicate(timeout=120) for process in pair]
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    for process, (out, errors) in zip(pair, told, strict=True):
        assert process.returncode == 0, errors
        assert "no checkpoint in" in out
    restored = checkpoint.restore(tmp_path / "shared" / "1", "method")["keys"]
    np.testing.assert_array_equal(restored, np.arange(8, dtype=np.float32))
