# SPDX-License-Identifier: Apache-2.0
"""Freed memory stays with the process: the next step does not fault its pages in again."""

import platform
import sys

import pytest
from doors import PROJECT, run_apart

FAULTS = """
import resource
import jax, jax.numpy as jnp
from cots_jax.host_memory import keep_freed_memory
keep_freed_memory()
step = jax.jit(lambda x: x[None] * jnp.arange(8.0)[:, None, None])  # 128 MB
x = jnp.ones((2048, 2048))
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-10:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")
def test_freed_memory_is_used_again_without_faults(monkeypatch):
    faults = {}
    for mode in ("keep", "return"):
        monkeypatch.setenv("COTS_JAX_FREED_MEMORY", mode)
        said = run_apart(PROJECT, [sys.executable, "-c", FAULTS])
        assert said.status == 0, said.err
        faults[mode] = int(said.out)
    assert faults["keep"] < faults["return"] / 10
