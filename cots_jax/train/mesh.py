# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices and where arrays lie on it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from cots_jax.axes import AUTO, AXES, ROWS
from cots_jax.errors import UserError
from cots_jax.schema import HardwareConfig

# Path of a parameter -> which of its axes `fsdp` and `tensor` cut. The first match holds; what
# matches nothing, or does not divide, is kept whole on every device.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"attention/qkv/kernel", (None, "fsdp", None, "tensor", None)),
    (r"attention/qkv/bias", (None, None, "tensor", None)),
    (r"attention/out/kernel", (None, "tensor", None, "fsdp")),
    (r"mlp_in/kernel", (None, "fsdp", "tensor")),
    (r"mlp_in/bias", (None, "tensor")),
    (r"mlp_out/kernel", (None, "tensor", "fsdp")),
    (r"token_embedding", ("tensor", "fsdp")),
    (r"(patch_embedding|projection|partner|transform)/kernel", ("fsdp", None)),
    (r"output/kernel", ("fsdp", "tensor")),
)


def make_mesh(hardware: HardwareConfig) -> Mesh:
    """data x fsdp x tensor over the devices there are, with Auto axes. Raises UserError."""
    devices = jax.devices()
    if len(devices) != hardware.chips:
        raise UserError(
            f"hardware row {hardware.row} wants {hardware.chips} chips, {len(devices)} are here: "
            f"name the row with -{len(devices)}, or none to take the row of the devices found"
        )
    return mesh_over(devices, hardware)


def mesh_over(devices: Sequence[jax.Device], hardware: HardwareConfig) -> Mesh:
    """data x fsdp x tensor over these devices, `hardware.chips` of them."""
    inner = hardware.fsdp * hardware.tensor
    shape = (hardware.chips // inner, hardware.fsdp, hardware.tensor)
    return jax.make_mesh(shape, AXES, axis_types=AUTO, devices=devices)


def row_shards(mesh: Mesh) -> int:
    """How many ways the batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The first axis cut over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def rows_of_process(mesh: Mesh, batch: int) -> Int[np.ndarray, "r"]:
    """The global batch's rows that the devices of this process hold, in order.

    On the torus of a TPU slice they need be no run, and where `tensor` reaches over processes
    several of them hold the same.
    """
    places = by_rows(mesh).addressable_devices_indices_map((batch,)).values()
    held = {row for index in places if index for row in range(*index[0].indices(batch))}
    return np.array(sorted(held))


def place(tree: Any, sharding: Any) -> Any:
    """Host arrays that every process has whole, on the mesh.

    sharding: one, or a tree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf: Any, where: NamedSharding) -> Array:
        whole_leaf = np.asarray(leaf)
        return jax.make_array_from_callback(whole_leaf.shape, where, lambda at: whole_leaf[at])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, sharding), tree)
    return jax.tree.map(put, tree, sharding)


def place_rows(batch: Any, mesh: Mesh, rows: int) -> Any:
    """A batch of `rows` rows on the mesh, of which each process has those of `rows_of_process`."""
    where = by_rows(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, where)
    held = rows_of_process(mesh, rows)

    def put(leaf: np.ndarray) -> Array:
        def piece(index: Any) -> np.ndarray:
            return leaf[np.searchsorted(held, np.arange(rows)[index[0]])]

        return jax.make_array_from_callback((rows, *leaf.shape[1:]), where, piece)

    return jax.tree.map(put, batch)


def fetch(tree: Any) -> Any:
    """Arrays of the mesh as whole NumPy arrays, in every process; all of them call it together."""

    def whole_leaf(leaf: Any) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(whole_leaf, tree)


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """A sharding for each array of a State, or of a tree of parameters, momentum or moments.

    The queue is cut by its columns over `data` and `fsdp`, everything else by RULES.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith("method/queue/") and np.ndim(leaf):
            return by_rows(mesh)
        return NamedSharding(mesh, PartitionSpec(*_axes(mesh, name, np.shape(leaf))))

    return jax.tree_util.tree_map_with_path(place, tree)


def _axes(mesh: Mesh, name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    for pattern, axes in RULES:
        if re.search(pattern, name) and len(axes) == len(shape):
            return tuple(
                axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, shape)
            )
    return ()
