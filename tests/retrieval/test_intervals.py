# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals: the binomial where it holds, and captions that hang together."""

import math

import numpy as np
import pytest

from cots_jax.retrieval.intervals import bootstrap
from cots_jax.retrieval.metrics import Ranks


def ranks_of(found, captions=1):
    """`found` of images and of their captions at rank 1, the others at rank 7."""
    image = np.where(found, 1, 7)
    return Ranks(image, np.repeat(image, captions))


def width(interval):
    return interval.high - interval.low


def test_it_agrees_with_the_binomial():
    """400 of 1,000 found: 40 +- 1.96 * sqrt(.4 * .6 / 1,000) = 40 +- 3.04 percent."""
    found, group = np.arange(1000) < 400, np.arange(1000)
    ends = bootstrap(ranks_of(found), group, group, draws=4000)
    half = 196 * math.sqrt(0.4 * 0.6 / 1000)
    interval = ends.image_to_text["r1"]
    assert interval.low == pytest.approx(40 - half, abs=0.3)
    assert interval.high == pytest.approx(40 + half, abs=0.3)
    assert (ends.text_to_image["r10"].low, ends.text_to_image["r10"].high) == (100, 100)


def test_captions_of_one_image_are_drawn_together():
    """Five captions that fail together say no more than one does."""
    found, group = np.arange(500) % 2 == 0, np.arange(500)
    one = bootstrap(ranks_of(found), group, group)
    five = bootstrap(ranks_of(found, 5), group, np.repeat(group, 5))
    assert width(five.text_to_image["r1"]) == pytest.approx(width(one.text_to_image["r1"]), rel=0.1)


def test_both_directions_move_together_in_the_sum():
    """Equal hits both ways: the sum of two recalls has twice the width of one."""
    found, group = np.arange(500) % 2 == 0, np.arange(500)
    ends = bootstrap(ranks_of(found), group, group)
    assert width(ends.rsum) == pytest.approx(4 * width(ends.image_to_text["r1"]), rel=1e-9)


def test_it_can_be_repeated_in_any_number_of_parts(monkeypatch):
    found, group = np.arange(90) % 3 == 0, np.arange(90)
    whole = bootstrap(ranks_of(found), group, group)
    monkeypatch.setattr("cots_jax.retrieval.intervals.AT_ONCE", 100)
    assert bootstrap(ranks_of(found), group, group) == whole
    assert bootstrap(ranks_of(found), group, group, draws=40, seed=1) != bootstrap(
        ranks_of(found), group, group, draws=40
    )


def test_group_ids_may_be_anything():
    found = np.arange(60) % 3 == 0
    plain = bootstrap(ranks_of(found), np.arange(60), np.arange(60))
    spread = bootstrap(ranks_of(found), 1000 * np.arange(60), 1000 * np.arange(60))
    assert plain == spread
