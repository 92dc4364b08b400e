# SPDX-License-Identifier: Apache-2.0
"""`starts.jsonl`: every start of a run, with what it ran on; so that a number has its machine."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax

from cots_jax.processes import code_of_the_package
from cots_jax.train.logging import refusals_explained

FILE = "starts.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass(frozen=True)
class Start:
    """One line of the file. `time` is in seconds since 1970, by the first host's clock."""

    time: float
    step: int
    host: str
    processes: int
    devices: int
    kind: str
    python: str
    versions: dict[str, str]
    code: str  # sha256 of the package's source

    @classmethod
    def now(cls, step: int) -> "Start":
        """This process's start, at `step`."""
        return cls(
            time=time.time(),
            step=step,
            host=platform.node(),
            processes=jax.process_count(),
            devices=jax.device_count(),
            kind=jax.devices()[0].device_kind,
            python=platform.python_version(),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
            code=hashlib.sha256(code_of_the_package().encode()).hexdigest(),
        )


def note_start(workdir: Path, start: Start) -> None:
    """Adds a line. Raises UserError when the disk refuses."""
    with refusals_explained(str(workdir / FILE)):
        line = json.dumps(dataclasses.asdict(start)) + "\n"
        with (workdir / FILE).open("a", encoding="utf-8") as lines:
            lines.write(line)
            lines.flush()
            os.fsync(lines.fileno())


def first_start(workdir: Path) -> float | None:
    """When the run was begun; None where that is not known. Lines that a kill tore are left out."""
    for row in read_starts(workdir):
        return float(row["time"])
    return None


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """All starts, oldest first."""
    file, rows = workdir / FILE, []
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and "time" in row]
