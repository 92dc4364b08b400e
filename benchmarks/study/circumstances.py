# SPDX-License-Identifier: Apache-2.0
"""Under what circumstances something was measured: commit, machine, versions."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def circumstances() -> dict[str, str]:
    """In words, without anything that names one machine or its owner."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "commit": described.stdout.strip() or "unknown",
        "machine": f"{_processor()}, {platform.system()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    fields = [line.partition(":") for line in lines]
    names = [value.strip() for key, _, value in fields if key.strip() == "model name"]
    flags = next((value.split() for key, _, value in fields if key.strip() == "flags"), [])
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([f"{len(names)} x {names[0]}" if names else platform.machine(), *wide])
