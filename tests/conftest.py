"""Shared fixtures: strict numerics for every test, and the development data where it is there."""

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real data that may not be redistributed; a test that needs it skips where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no development data beside the project (looked for {folder.name}/)")
    return folder
