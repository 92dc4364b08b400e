# SPDX-License-Identifier: Apache-2.0
"""The parts that are counted, each in a process of its own: devices are fixed when JAX starts, and
what one part has compiled would be missing in the next one's count."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.counts import compiled, short_run, steps
from benchmarks.counts.record import Counts
from benchmarks.measure import PROJECT
from cots_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """A module of this folder that prints its counts, and what is promised of them."""

    devices: int  # fake ones of the CPU
    broken: Callable[[dict[str, Any]], list[str]]


PARTS = {
    "steps": Part(1, steps.broken),
    "compiled": Part(8, compiled.broken),
    "short_run": Part(2, short_run.broken),
}


def measured(part: str) -> dict[str, Any]:
    """What the part's process counts, by the names of the record. Raises UserError."""
    # Machine code that is not optimised is made in half the time and computes the same.
    flags = f"--xla_force_host_platform_device_count={PARTS[part].devices}"
    paths = filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", f"benchmarks.counts.{part}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"counting {part} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def broken(found: Counts) -> list[str]:
    """Promises that these counts break, a line each."""
    return [
        line for part, one in PARTS.items() if part in found for line in one.broken(found[part])
    ]
