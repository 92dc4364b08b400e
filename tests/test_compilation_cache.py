# SPDX-License-Identifier: Apache-2.0
"""A torn entry of the compilation cache costs a compilation, and nothing else."""

import pathlib
import sys

from doors import run_apart

SCRIPT = """
import os, sys
os.environ["COTS_JAX_CACHE"] = sys.argv[1]
import jax
from cots_jax.compilation_cache import use_compilation_cache
use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: x * 2 + 1)(20.5))
"""


def test_a_torn_entry_is_compiled_anew(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cache")]
    assert run_apart(tmp_path, command).out == "42.0\n"
    entries = list((tmp_path / "cache").glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
    said = run_apart(tmp_path, command)
    assert (said.status, said.out) == (0, "42.0\n"), said.err
    assert "Traceback" not in said.err
