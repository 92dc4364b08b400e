# SPDX-License-Identifier: Apache-2.0
"""`jit` for tests: compiled in a third of the time, as each program runs only once or twice."""

import functools

import jax

WANTED = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def options() -> tuple[tuple[str, object], ...]:
    """Those of the wanted options that this version of XLA knows."""
    return tuple(item for item in WANTED.items() if _known(*item))


def _known(name, value) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except Exception:
        return False
    return True


def jit(function, **arguments):
    return jax.jit(function, compiler_options=dict(options()), **arguments)
