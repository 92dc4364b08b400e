# SPDX-License-Identifier: Apache-2.0
"""Where arrays lie on the mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cots_jax.errors import UserError
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.schema import HardwareConfig, MaskedConfig
from cots_jax.train.mesh import (
    by_rows,
    make_mesh,
    row_shards,
    state_shardings,
    whole,
)


def mesh_of(*sizes):
    """A mesh to ask questions of: the one device that there is stands for all of them."""
    devices = np.full(sizes, jax.devices()[0])
    return Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def shapes(name="b16-384"):
    size = model_size(name, HardwareConfig())
    model = TwoStream(size, MaskedConfig(), 8192, frozenset({"mvm", "mlm"}))
    key = jax.random.key(0)
    return {
        "towers": jax.eval_shape(model.init_towers, key),
        "heads": jax.eval_shape(model.init_heads, key),
    }


def placed(mesh, tree):
    """path -> (elements, how many ways it is cut over each axis)."""
    shardings = state_shardings(mesh, tree)
    found = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(shardings)
    ):
        axes = [axis for axis in sharding.spec if axis]
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = (int(np.prod(leaf.shape)), sorted(axes))
        sharding.shard_shape(leaf.shape)  # raises where an axis does not divide
    return found


def test_every_large_array_is_cut_over_fsdp_and_the_blocks_over_tensor_too():
    found = placed(mesh_of(2, 4, 2), shapes())
    for name, (elements, axes) in found.items():
        if elements > 500_000:
            assert "fsdp" in axes, name
        if "blocks" in name and name.endswith("kernel"):
            assert axes == ["fsdp", "tensor"], name
    assert found["heads/mvm/output/kernel"][1] == ["fsdp", "tensor"]


def test_small_arrays_stay_whole():
    found = placed(mesh_of(2, 4, 1), shapes())
    for name in ("towers/image/cls", "towers/text/embedding_norm/scale"):
        assert found[name][1] == []


def test_what_does_not_divide_stays_whole():
    """Two heads do not divide over three chips; 32 channels neither."""
    found = placed(mesh_of(1, 3, 3), shapes("tiny-16"))
    assert found["towers/image/transformer/blocks/mlp_in/kernel"][1] == []
    assert found["towers/image/transformer/blocks/attention/qkv/kernel"][1] == []


def test_moments_and_momentum_lie_like_their_parameters():
    tree = shapes("tiny-16")["towers"]
    mesh = mesh_of(1, 2, 2)
    alone = placed(mesh, tree)
    nested = placed(mesh, {"opt_state": [{"mu": {"towers": tree}}]})
    assert {name.split("towers/")[1]: axes for name, axes in nested.items()} == alone
    assert any(axes for _, axes in alone.values())


def test_rows_are_cut_over_data_and_fsdp():
    mesh = mesh_of(4, 2, 3)
    assert row_shards(mesh) == 8
    assert by_rows(mesh) == NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    assert by_rows(mesh).shard_shape((16, 5)) == (2, 5)
    assert whole(mesh).shard_shape((16, 5)) == (16, 5)


def test_the_mesh_of_the_devices_there_are():
    here = len(jax.devices())
    mesh = make_mesh(HardwareConfig(chips=here))
    assert dict(mesh.shape) == {"data": here, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_other_devices_than_the_row_wants_are_an_error_that_names_both():
    here = len(jax.devices())
    with pytest.raises(UserError, match=rf"v5e-256 wants 256 chips, {here} are here.*-{here}"):
        make_mesh(HardwareConfig(row="v5e-256", chips=256))
