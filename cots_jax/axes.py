# SPDX-License-Identifier: Apache-2.0
"""The names of the mesh's axes, which models and training share."""

from jax.sharding import AbstractMesh

AXES = ("data", "fsdp", "tensor")
ROWS = AXES[:2]  # the axes that share the batch and the queue's columns
ONE_DEVICE = AbstractMesh((1, 1, 1), AXES)  # the context of what runs on a single device
