# SPDX-License-Identifier: Apache-2.0
"""The mesh's axes by name and type, which models and training share."""

from jax.sharding import AbstractMesh, AxisType

AXES = ("data", "fsdp", "tensor")
ROWS = AXES[:2]  # the axes that share the batch and the queue's columns
AUTO = (AxisType.Auto,) * 3  # JAX's own default differs by version
ONE_DEVICE = AbstractMesh((1, 1, 1), AXES, AUTO)  # the context of what runs on a single device
