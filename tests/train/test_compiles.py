# SPDX-License-Identifier: Apache-2.0
"""The full step at ViT-B/16-384 + BERT-base compiles: one device, eight fake ones, TPU v5e ahead of
time. Each in a process of its own, as devices are fixed when JAX starts."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("users_compiler")

SCRIPT = pathlib.Path(__file__).with_name("compile_run.py")
GIB = 2**30


def compiled(row: str, batch: int, timeout: int = 1500, **environment: str) -> dict[str, float]:
    """What `compile_run.py` says of the step for these devices."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), row, str(batch)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_for_one_device() -> None:
    found = compiled("cpu-1", 2)
    assert found["devices"] == 1
    assert found["parameters"] == 204_072_250
    # Parameters, two moments and the momentum towers (195 M), in float32.
    assert found["arguments"] > 4 * (3 * 204_072_250 + 195_376_640)


@pytest.mark.slow
def test_for_eight_devices() -> None:
    found = compiled("cpu-8", 8, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert found["devices"] == 8
    assert found["parameters"] == 204_072_250


@pytest.mark.slow
def test_ahead_of_time_for_v5e() -> None:
    folder = os.environ.get("COTS_LIBTPU", "")
    if not (pathlib.Path(folder) / "libtpu").is_dir():
        pytest.skip("no libtpu: `make test-slow` fetches it into .venv/libtpu where it can")
    found = compiled("v5e-4", 16, PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    assert found["devices"] == 4
    assert found["platform"] == "TPU v5 lite"
    assert found["arguments"] + found["temporary"] < 16 * GIB  # a chip's memory
