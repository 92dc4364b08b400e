# SPDX-License-Identifier: Apache-2.0
"""Breakdowns agree with looking at the parts alone."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from cots_jax.retrieval.breakdown import break_down, by_source, by_words
from cots_jax.retrieval.breakdown_page import ShownBreakdown, draw_breakdowns
from cots_jax.retrieval.examples import EvaluatedSet
from cots_jax.retrieval.metrics import rank_both_ways


def test_captions_are_told_apart_by_their_words():
    counts = [1, 2, 3, 5, 6, 10, 11, 15, 16, 25, 26, 99]
    captions = [" ".join(["w"] * count) for count in counts]
    parts = by_words(captions, np.arange(1, 13))
    assert [(part.name, part.queries) for part in parts] == [
        ("1-2", 2), ("3-5", 2), ("6-10", 2), ("11-15", 2), ("16-25", 2), ("26+", 2),
    ]  # fmt: skip
    assert [part.r1 for part in parts] == [50, 0, 0, 0, 0, 0]
    assert [part.r5 for part in parts] == [100, 100, 50, 0, 0, 0]
    assert [part.r10 for part in parts] == [100, 100, 100, 100, 100, 0]


def test_empty_bins_are_left_out():
    assert [part.name for part in by_words(["a b c"], np.ones(1, int))] == ["3-5"]


def test_sources_where_there_are_a_few():
    ranks = np.array([1, 2, 1, 20])
    parts = by_source(["b", "b", "a", "a"], ranks)
    assert [(part.name, part.queries, part.r1) for part in parts] == [("a", 2, 50), ("b", 2, 50)]
    assert by_source(["a"] * 4, ranks) == ()
    assert by_source([str(i) for i in range(21)], np.ones(21, int)) == ()


def some_set(groups: int = 6):
    """Groups 0 and 1 look alike and are confused; each has two captions and one picture."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(groups, 16)).astype(np.float32)
    images[1] = images[0]
    group = 10 + np.arange(groups)
    texts, text_group = np.repeat(images, 2, axis=0), np.repeat(group, 2)
    ranks = rank_both_ways(images, texts, group, text_group)
    captions = ["a cat"] * len(texts)
    return EvaluatedSet("<val>", images, texts, group, text_group, ranks, captions, no_picture)


def some_breakdown(groups: int = 6):
    return break_down(
        some_set(groups), ["x", "y"] * (groups // 2), ["x", "x", "y", "y"] * (groups // 2)
    )


def no_picture(row: int) -> bytes:
    raise AssertionError(f"nobody asked for picture {row}")


def test_confused_groups_are_counted_in_both_directions():
    (pair,) = some_breakdown().confused
    assert (pair.first, pair.second) == (10, 11)
    assert (pair.image_to_text, pair.text_to_image, pair.times) == (2, 4, 6)


def test_a_perfect_set_has_nothing_to_show():
    images = np.eye(4, dtype=np.float32)
    group = np.arange(4)
    ranks = rank_both_ways(images, images, group, group)
    one = EvaluatedSet("val", images, images, group, group, ranks, ["a"] * 4, no_picture)
    found = break_down(one, ["s"] * 4, ["s"] * 4)
    assert found.confused == found.text_to_image_by_source == ()
    assert set(ShownBreakdown(found, {}, {}).row()) == {"name", "text_to_image_by_words"}


def test_the_row_and_the_page():
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    found = some_breakdown()
    shown = ShownBreakdown(found, {10: "<cat>", 11: "tom"}, dict.fromkeys((10, 11), out.getvalue()))
    row = json.loads(json.dumps(shown.row()))
    assert row["confused"] == [
        {"captions": ["<cat>", "tom"], "image_to_text": 2, "text_to_image": 4}
    ]
    assert [part["name"] for part in row["image_to_text_by_source"]] == ["x", "y"]
    assert row["text_to_image_by_words"][0]["r1"] == pytest.approx(100 * 8 / 12)
    page = draw_breakdowns([shown])
    assert "<cat>" not in page
    assert page.count("data:image/png;base64,") == 2
    assert "6 times: image → text 2, text → image 4" in page
