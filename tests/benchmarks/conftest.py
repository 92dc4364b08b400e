# SPDX-License-Identifier: Apache-2.0
"""Prepared pairs for the studies' tests."""

import pathlib

import pytest
from tiny_world import prepare_tiny


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> pathlib.Path:
    """48 pairs to train on and 16 held out."""
    root = tmp_path_factory.mktemp("pairs")
    assert prepare_tiny(root).status == 0
    return root / "data" / "tiny"
