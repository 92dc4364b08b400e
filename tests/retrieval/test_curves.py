# SPDX-License-Identifier: Apache-2.0
"""Charts: what is drawn, where, and that nothing in them can break the page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cots_jax.retrieval.curves import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Curve,
    Series,
    downsample,
    draw,
    number,
    smooth,
    ticks,
)


def points(figure, style):
    line = re.search(rf'<polyline class="{style}[^"]*" points="([^"]*)"', figure)
    assert line, style
    return np.array([pair.split(",") for pair in line[1].split()], float)


def test_a_chart_is_well_formed_and_inside_its_frame():
    series = Series("a <b> & 'c'", range(1000), np.sin(np.arange(1000) / 9).tolist())
    figure = draw(Curve("T <i>", [series], chance=0.5, unit="%", note="n > m", window=20))
    svg = ElementTree.fromstring(figure)  # raises where anything is not escaped
    assert svg.find("figcaption").text.startswith("T <i>")
    for style in ("line", "raw", "reference"):
        where = points(figure, style)
        assert (where >= 0).all() and (where <= [WIDTH, HEIGHT]).all()


def test_a_higher_value_stands_higher_and_a_later_step_further_right():
    where = points(draw(Curve("t", [Series("s", [10, 20, 30], [1.0, 3.0, 2.0])])), "line")
    assert (np.diff(where[:, 0]) > 0).all()
    assert where[1, 1] < where[2, 1] < where[0, 1]


def test_chance_may_be_a_level_or_a_line():
    loss = Series("loss", [0, 100], [6.0, 2.0])
    level = points(draw(Curve("t", [loss], chance=5.0)), "reference")
    assert level[0, 1] == level[1, 1]
    rising = Series("chance", [0, 100], [4.0, 7.0])
    line = points(draw(Curve("t", [loss], chance=rising)), "reference")
    assert line[0, 1] > line[1, 1]


@pytest.mark.parametrize(
    "series",
    [
        Series("one point", [5], [3.0]),
        Series("constant zero", [0, 1, 2], [0.0, 0.0, 0.0]),
        Series("constant", [7, 8], [0.05, 0.05]),
        Series("tiny", [0, 1], [1e-9, 2e-9]),
        Series("negative", [0, 1], [-5.0, -4.0]),
        Series("step zero alone", [0], [1.0]),
        Series("gaps", [0, 1, 2, 3], [1.0, float("nan"), float("inf"), 2.0]),
    ],
)
def test_odd_series_draw_finite_places(series):
    figure = draw(Curve("t", [series]))
    ElementTree.fromstring(figure)
    assert "nan" not in figure and "inf" not in figure
    assert np.isfinite(points(figure, "line")).all()


def test_nothing_logged_is_said():
    assert "nothing was logged" in draw(Curve("t", [Series("s", [1], [float("nan")])], chance=1.0))


def test_charts_of_one_page_share_their_width():
    half = Series("s", [0, 50], [1.0, 2.0])
    alone, beside = (points(draw(Curve("t", [half]), last), "line") for last in (0, 100))
    assert beside[1, 0] < alone[1, 0]


def test_downsampling_keeps_spikes_and_order():
    values = np.zeros(10_000)
    values[[137, 9_333]] = 50, -50
    thin = downsample(Series("s", range(10_000), values.tolist()))
    assert len(thin.steps) <= MOST_POINTS and max(thin.values) == 50 and min(thin.values) == -50
    assert thin.steps == sorted(thin.steps)


def test_smoothing_is_a_centred_mean():
    line = Series("s", range(100), (3.0 * np.arange(100)).tolist())
    smoothed = smooth(line, 5)
    np.testing.assert_allclose(smoothed.values[2:-2], line.values[2:-2])
    assert smoothed.values[0] == pytest.approx(3.0)
    noise = Series("s", range(1000), np.random.default_rng(0).standard_normal(1000).tolist())
    assert np.std(smooth(noise, 25).values) < 0.4


@pytest.mark.parametrize(("least", "most"), [(0, 1), (0, 4000), (-3, 7), (1e-5, 4e-5), (97, 103)])
def test_ticks_are_round_and_inside(least, most):
    marks = ticks(least, most)
    assert 3 <= len(marks) <= 11
    assert marks[0] >= least - 1e-9 * most and marks[-1] <= most * (1 + 1e-9)
    np.testing.assert_allclose(np.diff(marks), marks[1] - marks[0])


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (1200, "1.2k"), (38.94, "38.9"), (0.0712, "0.0712"), (3e-4, "3e-4"),
     (1234.5, "1234"), (12345, "12.35k"), (2_500_000, "2.5M"), (-5.25, "-5.25"),
     (2.5e-7, "2.5e-7")],
)  # fmt: skip
def test_numbers_are_short(value, said):
    assert number(value) == said
