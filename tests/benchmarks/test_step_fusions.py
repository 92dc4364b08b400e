# SPDX-License-Identifier: Apache-2.0
"""Gradients do not hang on which sums XLA hands to a library."""

import pytest

from benchmarks.step import fusions
from cots_jax.errors import UserError


def test_a_size_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match="size is one of demo"):
        fusions.main(["enormous"])


@pytest.mark.slow
def test_the_demos_gradients_are_those_without_the_librarys_sums() -> None:
    apart = fusions.differences("demo")
    assert len(apart) > 40
    assert max(apart.values()) < 1e-5
