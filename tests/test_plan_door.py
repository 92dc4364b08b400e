# SPDX-License-Identifier: Apache-2.0
"""The plan door as a whole: what it says, with compilers for other hardware and without."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from doors import PROJECT, Said, run_plan

TINY = f"--config={PROJECT / 'configs' / 'tiny.py'}:contrastive"
PRETRAIN = f"--config={PROJECT / 'configs' / 'pretrain.py'}"


def test_help_goes_to_standard_output(tmp_path: pathlib.Path) -> None:
    said = run_plan(tmp_path, "--help")
    assert (said.status, said.err) == (0, "")
    assert "--price_per_chip_hour" in said.out


@pytest.mark.parametrize(
    ("flags", "status", "named"),
    [
        ([], 2, "--config is missing"),
        ([f"{PRETRAIN}:v5x-8"], 2, "nearest: v5"),
        ([f"{TINY},cpu-1", "--prize_per_chip_hour=3"], 2, "--price_per_chip_hour"),
        ([f"{PRETRAIN}:v5e-7"], 1, "name v5e-4 or v5e-8"),
        ([f"{PRETRAIN}:v5e-8", "--config.hardware.tensor=8"], 1, "12 heads"),
        ([f"{PRETRAIN}:v5e-8", "--config.batch=1001"], 1, "use 1000 or 1008"),
        ([f"{PRETRAIN}:v5e-8", "--config.hardware.fsdp=3"], 1, "do not divide over fsdp=3"),
        ([f"{TINY.removesuffix('contrastive')}dvae,cpu-1"], 1, "the towers' step"),
    ],
)
def test_one_line_names_the_remedy(
    tmp_path: pathlib.Path, flags: list[str], status: int, named: str
) -> None:
    assert jax.device_count() == 1  # so that no answer may need the devices that it speaks of
    said = run_plan(tmp_path, *flags)
    assert said.status == status
    assert named in said.line
    assert said.out == ""


def plan_apart(*flags: str, **environment: str) -> Said:
    """In a process of its own, since devices are counted once."""
    command = [sys.executable, "-m", "cots_jax.plan", *flags]
    told = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=1500)
    return Said(done.returncode, done.stdout, done.stderr)


def folder_of(variable: str, inside: str, how: str) -> str:
    folder = os.environ.get(variable, "")
    if not (pathlib.Path(folder) / inside).exists():
        pytest.skip(f"{variable} names no folder with {inside}: {how}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("row", ["v5e-4", "v4-4"])
def test_for_chips_that_are_not_here(row: str) -> None:
    """By libtpu, which needs no TPU; two processes of it do not wait for each other."""
    folder = folder_of("COTS_LIBTPU", "libtpu", "`make test-slow` fetches it where it can")
    said = plan_apart(f"{TINY},{row}", "--json", "--price_per_chip_hour=2", COTS_LIBTPU=folder)
    assert said.status == 0, said.err
    found = json.loads(said.out)
    assert found["compiled_for_the_chip"]
    assert found["compiler"].startswith("libtpu")
    assert found["fits"]
    assert found["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
    assert {one["group"] for one in found["collectives"]} == {4}
    assert found["seconds"]["step"] > 0
    assert found["cost"]["money"] == pytest.approx(2 * found["cost"]["chip_hours"])


@pytest.mark.slow
def test_for_cards_that_are_not_here() -> None:
    """By XLA's compiler for CUDA, which needs no card."""
    how = "pip install it as `plan` says without it; `make` does not, for its 700 MB"
    folder = folder_of("COTS_CUDA", "jax_plugins", how)
    said = plan_apart(f"{TINY},h100-8", "--config.batch=32", "--json", COTS_CUDA=folder)
    assert said.status == 0, said.err
    found = json.loads(said.out)
    assert found["compiler"].startswith("jax-cuda13-plugin")
    assert found["fits"]


@pytest.mark.slow
def test_without_libtpu_the_cpu_stands_in(tmp_path: pathlib.Path) -> None:
    said = plan_apart(f"{TINY},v5e-4", COTS_LIBTPU=str(tmp_path))
    assert said.status == 0, said.err
    assert "pip install --no-deps --target libtpu" in said.out
    assert "FLOP a step" in said.out
    assert "XLA for CPU" in said.out
