# SPDX-License-Identifier: Apache-2.0
"""Collectives of the full step of configs/tiny.py on 8 fake devices, as JSON.

    python tests/planning/pinned_run.py

For each factorisation of the mesh, at a short queue and at one eight times as long.
"""

import json
import pathlib

import quick

from cots_jax.arguments import parse_arguments
from cots_jax.planning import planner
from cots_jax.planning.targets import target_of

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"
MESHES = {"data": (1, 1), "fsdp": (8, 1), "all": (2, 2)}  # fsdp, tensor
LENGTHS = (1024, 8192)


def main() -> None:
    """Compiles and prints."""
    planner.OPTIONS["cpu"] = dict(quick.options())
    found = {}
    for name, (fsdp, tensor) in MESHES.items():
        for length in LENGTHS:
            config = parse_arguments(
                [
                    f"--config={CONFIG}:cpu-8",
                    "--config.batch=32",
                    "--config.hardware.scan=on",
                    f"--config.hardware.fsdp={fsdp}",
                    f"--config.hardware.tensor={tensor}",
                    f"--config.method.queue_length={length}",
                ],
                "",
            ).config
            plan = planner.plan_step(config, target_of(config.hardware))
            assert plan.compiled is not None
            found[f"{name} {length}"] = {
                "parameters": plan.arguments["parameters"],
                "queue": plan.arguments["queue"],
                "collectives": sorted(
                    [one.kind, one.payload, one.group, one.times]
                    for one in plan.compiled.collectives
                ),
                "bytes": sum(one.wire_a_step for one in plan.compiled.collectives),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
