# SPDX-License-Identifier: Apache-2.0
"""Compiles the step of configs/pretrain.py for a hardware row and prints its memory a device.

    python tests/train/compile_run.py ROW BATCH

A `v5e` row compiles ahead of time for a topology of that many chips; libtpu must be importable.
"""

import json
import pathlib
import sys
import time

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from cots_jax.arguments import parse_arguments
from cots_jax.train.mesh import make_mesh
from cots_jax.train.planning import planned_step

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "pretrain.py"
TOPOLOGIES = {1: "1x1", 4: "2x2", 8: "2x4"}
# The rows of the CPU unroll the layers, which at this size takes the compiler minutes.
SCANNED = ("--config.hardware.scan=on", "--config.hardware.remat=on")


def main(row: str, batch: str) -> None:
    """Compiles and prints."""
    flags = [f"--config={CONFIG}:{row}", f"--config.batch={batch}", *SCANNED]
    config = parse_arguments(flags, "").config
    if config.hardware.row.startswith("v5e"):
        name = f"v5e:{TOPOLOGIES[config.hardware.chips]}"
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
        shape = np.array(devices).reshape(-1, config.hardware.fsdp, config.hardware.tensor)
        mesh = Mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    else:
        mesh = make_mesh(config.hardware)
    planned = planned_step(config, mesh)
    begin = time.monotonic()
    step = jax.jit(planned.step, donate_argnums=0).lower(*planned.arguments).compile()
    memory = step.memory_analysis()
    found = {
        "devices": mesh.size,
        "platform": mesh.devices.flat[0].device_kind,
        "parameters": planned.parameters,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
