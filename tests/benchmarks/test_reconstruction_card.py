# SPDX-License-Identifier: Apache-2.0
"""The card of reconstructed signs."""

import numpy as np
import pytest
from doors import load_benchmark
from tiny_world import Tiny

bench = load_benchmark("reconstruction_card")


def test_the_signs_are_twelve_different_ones_on_white():
    signs = bench.signs()
    assert signs.shape == (12, 256, 256, 3)
    assert len({sign.tobytes() for sign in signs}) == 12
    assert (signs[:, 0, 0] == 255).all()
    np.testing.assert_array_equal(signs, bench.signs())


@pytest.mark.xdist_group("tiny")
def test_a_card_has_a_row_a_tokenizer_between_the_signs_and_the_bar(tiny: Tiny):
    folder = tiny.root / "runs" / "tiny-dvae"
    one, two = bench.card([folder]), bench.card([folder, folder])
    step = bench.SHOWN + bench.GAP
    assert one.size == (bench.GAP + 12 * step, bench.GAP + 3 * step)
    assert two.size == (bench.GAP + 12 * step, bench.GAP + 4 * step)
    first, second = (np.asarray(two)[bench.GAP + row * step :][: bench.SHOWN] for row in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert (np.asarray(one)[bench.GAP :][: bench.SHOWN] != first).any()
