# SPDX-License-Identifier: Apache-2.0
"""Keeps the memory that a step frees, for the next step.

XLA asks for its buffers anew at each step. glibc hands large freed ones back to the kernel, so that
every page is faulted in and cleared again: a third of a small model's step on CPU.
"""

import ctypes
import os

import jax
import jax.numpy as jnp

# mallopt's parameters (glibc, malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc to hold on to freed memory, and starts JAX; nothing with other C libraries.

    To be called before JAX looks for its devices. The environment variable
    COTS_JAX_FREED_MEMORY=return leaves glibc as it is.
    """
    if os.environ.get("COTS_JAX_FREED_MEMORY") == "return":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # no glibc: macOS, musl
    mallopt(MMAP_MAX, 0)  # large blocks come from the heap
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    mallopt(TOP_PAD, 2**28)
    # JAX's threads share the one arena that is not cut into pieces of 64 MB. Those that start later
    # have others: decoded pictures would leave thousands of gaps that each step searches through.
    mallopt(ARENA_MAX, 1)
    square, run = jnp.ones((256, 256)), jax.jit(jnp.matmul)
    jax.block_until_ready([run(square, square) for _ in range(64)])  # each thread gets some
    mallopt(ARENA_MAX, 8 * (os.cpu_count() or 1))
