# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices and where arrays lie on it."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cots_jax.errors import UserError
from cots_jax.schema import HardwareConfig

ROWS = ("data", "fsdp")  # the axes that share the batch and the queue's columns

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
    inner = hardware.fsdp * hardware.tensor
    shape = (hardware.chips // inner, hardware.fsdp, hardware.tensor)
    names = ("data", "fsdp", "tensor")
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 3, devices=devices)


def row_shards(mesh: Mesh) -> int:
    """How many ways the batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The first axis cut over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


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
