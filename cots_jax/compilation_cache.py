# SPDX-License-Identifier: Apache-2.0
"""JAX's persistent compilation cache, in a folder that only its owner can write.

Whoever can write the cache can run code in the job, so a folder open to others is refused.
"""

import os
import stat
from pathlib import Path

import jax

from cots_jax.errors import UserError

_found = {"hits": 0, "misses": 0}  # of this process; JAX tells by events alone


def compiled(seconds: float) -> str:
    """What to tell of a first step: how long it took and whether its program was in the cache."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder:
        return f"first step after {seconds:.1f} s; there is no compilation cache"
    where = "found in" if _found["hits"] and not _found["misses"] else "compiled, and now in"
    return f"first step after {seconds:.1f} s; {where} the compilation cache {folder}"


def _count(event: str, **_: object) -> None:
    kind = event.removeprefix("/jax/compilation_cache/cache_")
    if kind in _found:
        _found[kind] += 1


def use_compilation_cache() -> None:
    """Turns the cache on, in $COTS_JAX_CACHE or the user's cache folder; `off` turns it off."""
    chosen = os.environ.get("COTS_JAX_CACHE", "")
    if chosen == "off" or jax.config.values["jax_compilation_cache_dir"]:
        return
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(chosen) if chosen else root / "cots_jax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return  # a home that cannot be written: compile each time
    mode = folder.stat()
    if mode.st_uid != os.getuid() or mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"others can write the compilation cache {folder}: chmod go-w it, or set "
            "COTS_JAX_CACHE to a folder of your own, or to off"
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    jax.monitoring.register_event_listener(_count)
