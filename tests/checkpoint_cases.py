# SPDX-License-Identifier: Apache-2.0
"""What the checkpoint tests share: trees that depend on the step, and processes of their own."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cots_jax import checkpoint
from cots_jax.checkpoint import Keep

NINE = Keep(last=9)


def one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    opt_state: Any
    nothing: None = None


def make_trees(step: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    towers = {
        "image": {"kernel": jnp.asarray(rng.normal(size=(17, 16)), jnp.float32)},
        "half": jnp.asarray(rng.normal(size=(5,)), jnp.bfloat16),
        "ids": jnp.asarray(rng.integers(-9, 9, (3, 2)), jnp.int32),
        "valid": jnp.asarray(rng.integers(0, 2, (7,)), bool),
    }
    training = State(jnp.int32(step), optax.adamw(1e-3).init(towers["image"]))
    return {"towers": towers, "method": {}, "training": training}


def save(folder: Path, *steps: int, keep: Keep = NINE) -> None:
    for step in steps:
        facts = {"data": {"position": step}, "facts": {"name": "ünï"}}
        checkpoint.save(folder, step, make_trees(step), facts, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_bits(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def assert_holds(folder: Path, step: int) -> None:
    found = checkpoint.latest(folder)
    assert found is not None
    assert found.step == step
    for name, tree in make_trees(step).items():
        assert_same_bits(checkpoint.restore(found.path, name, tree), tree)
    assert checkpoint.read_fact(found.path, "data") == {"position": step}


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts a script in a process of its own that can import this file."""
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent}", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: object, **environment: str) -> None:
    with start(script, *arguments, **environment) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
