# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: strict numerics for every test, and the development data where it is there."""

import atexit
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import flax.struct
import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A busy machine is no failure: no example of a property test has to end within some milliseconds.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# A compilation cache for this test process and those it starts: whole programs compile the same
# few steps again and again. Not shared by the workers, since JAX writes its entries in place.
CACHE = tempfile.mkdtemp(prefix="cots_jax_test_cache_")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["COTS_JAX_CACHE"] = CACHE
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)

LONGEST = (
    *("test_two_processes", "test_kill", "test_factorisations", "test_levels_alive"),
    *("test_compiles", "test_planner"),
)

_struct_dataclass = flax.struct.dataclass


def _pytree_dataclass(cls):
    """Types are checked at functions. Inside a pytree, JAX also puts shardings and bare shapes."""
    cls.__no_type_check__ = True
    return _struct_dataclass(cls)


flax.struct.dataclass = _pytree_dataclass


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real data that may not be redistributed; a test that needs it skips where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no development data beside the project (looked for {folder.name}/)")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """64 pairs through every door: prepared, tokenizer and model trained, evaluated."""
    from tiny_world import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def users_compiler() -> Iterator[None]:
    """Programs that a module starts are compiled as users compile, not hastily (Makefile)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):
            patch.delenv(name, raising=False)
        patch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `make demo` has it
        yield


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left alone with it at the end.

    All tests of the tiny world go to one worker: making it takes a minute.
    """
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else 99)
    for item in items:
        if "tiny" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("tiny"))
