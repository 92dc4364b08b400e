# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG: no script, no library, legible in light, dark and on a phone.

Colours are classes of the page's style sheet, so that a chart follows the reader's scheme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 420, 210  # user units, close to the pixels of a card so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 8, 24
MOST_POINTS = 400  # a series
MARKED_POINTS = 30  # a series this short shows where it was measured
MOST_STRIPS = 60  # places with a hover title
COLOURS = 8

Number = int | float


@dataclass(frozen=True)
class Series:
    """One line: values at steps, in step order; non-finite values are left out."""

    name: str
    steps: Sequence[Number]
    values: Sequence[Number]


@dataclass(frozen=True)
class Curve:
    """One chart. `chance` (dashed) is a level or a line that moves; `note` says how to read it."""

    title: str
    series: Sequence[Series]
    chance: Series | Number | None = None
    unit: str = ""
    note: str = ""
    reference: str = "chance"  # what the dashed line is called
    window: int = 1  # points averaged for the bold line; above 1 the raw one stays behind it, faint


@dataclass(frozen=True)
class _Frame:
    """The ranges that the chart's area covers."""

    x_least: Number
    x_most: Number
    y_least: Number
    y_most: Number

    def x(self, step: Number) -> Number:
        return LEFT + (step - self.x_least) / (self.x_most - self.x_least) * (WIDTH - LEFT - RIGHT)

    def y(self, value: Number) -> Number:
        share = (value - self.y_least) / (self.y_most - self.y_least)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def draw(curve: Curve, last_step: Number = 0) -> str:
    """A figure element: title, legend with the last values, chart (at least to a step), note."""
    lines = [finite(s) for s in curve.series]
    lines = [s for s in lines if len(s.steps)]
    reference = _reference_line(curve, lines)
    parts = [
        '<figure class="chart">',
        f"<figcaption>{escape(curve.title)}{_unit(curve.unit)}</figcaption>",
        _legend(curve, lines, reference),
    ]
    if lines:
        parts.append(_svg(curve, lines, reference, last_step))
    else:
        parts.append('<p class="empty">nothing was logged</p>')
    if curve.note:
        parts.append(f'<p class="note">{escape(curve.note)}</p>')
    return "\n".join([*parts, "</figure>"])


def finite(series: Series) -> Series:
    """The series without its non-finite values."""
    values = np.asarray(series.values, np.float64)
    keep = np.isfinite(values)
    steps = np.asarray(series.steps, np.float64)[keep]
    return Series(series.name, steps.tolist(), values[keep].tolist())


def smooth(series: Series, window: int) -> Series:
    """Mean over `window` neighbouring points, centred, over fewer at both ends."""
    if window <= 1 or len(series.values) < 2 * window:
        return series
    total = np.concatenate([[0.0], np.cumsum(series.values)])
    place = np.arange(len(series.values))
    first = np.maximum(place - (window - 1) // 2, 0)
    last = np.minimum(place + window // 2 + 1, len(series.values))
    return Series(
        series.name, series.steps, ((total[last] - total[first]) / (last - first)).tolist()
    )


def downsample(series: Series, most: int = MOST_POINTS) -> Series:
    """At most `most` points: each bucket keeps its lowest and its highest, so spikes stay."""
    if len(series.steps) <= most:
        return series
    values = np.asarray(series.values)
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    kept = set()
    for start, stop in pairwise(edges):
        kept.add(int(start + np.argmin(values[start:stop])))
        kept.add(int(start + np.argmax(values[start:stop])))
    order = sorted(kept)
    return Series(series.name, [series.steps[i] for i in order], [series.values[i] for i in order])


def ticks(least: Number, most: Number, about: int = 5) -> list[Number]:
    """Round numbers (1, 2 or 5 times a power of ten) inside a range."""
    rough = (most - least) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: Number) -> str:
    """A number as short as it can be read: 1.2k, 38.9, 0.0712, 3e-4."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4 or (size >= 1000 and float(value).is_integer() and value % 100 == 0):
        return f"{value / 1e3:.4g}k"
    if size >= 100:
        return f"{value:.0f}"
    if size == 0 or size >= 1e-3:
        return f"{value:.3g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _unit(unit: str) -> str:
    return f' <span class="unit">{escape(unit)}</span>' if unit else ""


def _reference_line(curve: Curve, lines: list[Series]) -> Series | None:
    if curve.chance is None or not lines:
        return None
    if isinstance(curve.chance, Series):
        line = finite(curve.chance)
        return line if len(line.steps) else None
    ends = [min(s.steps[0] for s in lines), max(s.steps[-1] for s in lines)]
    return Series(curve.reference, ends, [float(curve.chance)] * 2)


def _legend(curve: Curve, lines: list[Series], reference: Series | None) -> str:
    entries = [
        f'<li><span class="key c{i % COLOURS}"></span>{escape(s.name)} '
        f"<b>{number(smooth(s, curve.window).values[-1])}</b></li>"
        for i, s in enumerate(lines)
    ]
    if reference is not None:
        entries.append(
            f'<li><span class="key dashed"></span>{escape(curve.reference)} '
            f"<b>{number(reference.values[-1])}</b></li>"
        )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _svg(curve: Curve, lines: list[Series], reference: Series | None, last_step: Number) -> str:
    frame = _fit(curve, lines, reference, last_step)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_spoken(curve, lines), quote=True)}">',
        *_grid(frame),
    ]
    if reference is not None:
        parts.append(_path(frame, downsample(reference), "reference"))
    for i, series in enumerate(lines):
        smoothed = smooth(series, curve.window)
        if smoothed is not series:
            parts.append(_path(frame, downsample(series), f"raw c{i % COLOURS}"))
        parts.append(_path(frame, downsample(smoothed), f"line c{i % COLOURS}"))
        parts.extend(_markers(frame, series, i))
    parts.extend(_strips(frame, curve, lines, reference))
    return "\n".join([*parts, "</svg>"])


def _fit(curve: Curve, lines: list[Series], reference: Series | None, last_step: Number) -> _Frame:
    shown = [*lines, reference] if reference is not None else lines
    steps = [step for s in lines for step in s.steps]
    values = [value for s in shown for value in s.values]
    least, most = min(values), max(values)
    if least >= 0 and (least < 0.6 * most or curve.unit == "%"):
        least = 0.0
    margin = 0.06 * (most - least) or 0.05 * abs(most) or 1.0
    bottom = least - margin if least != 0 else 0.0
    x_least, x_most = min(0.0, *steps), max(*steps, last_step)
    return _Frame(x_least, x_most if x_most > x_least else x_least + 1, bottom, most + margin)


def _grid(frame: _Frame) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in ticks(frame.y_least, frame.y_most):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{number(value)}</text>"
        )
    for step in ticks(frame.x_least, frame.x_most, about=5):
        x = frame.x(step)
        anchor = "end" if x > right - 12 else "middle"
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">'
            f"{number(step)}</text>"
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _path(frame: _Frame, series: Series, style: str) -> str:
    points = " ".join(
        f"{frame.x(step):.1f},{frame.y(value):.1f}"
        for step, value in zip(series.steps, series.values, strict=True)
    )
    return f'<polyline class="{style}" points="{points}"/>'


def _markers(frame: _Frame, series: Series, i: int) -> list[str]:
    if len(series.steps) > MARKED_POINTS:
        return []
    return [
        f'<circle class="dot c{i % COLOURS}" cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" '
        'r="2.5"/>'
        for step, value in zip(series.steps, series.values, strict=True)
    ]


def _strips(
    frame: _Frame, curve: Curve, lines: list[Series], reference: Series | None
) -> list[str]:
    """Invisible columns whose titles tell the values there, for a reader with a pointer."""
    steps = sorted({step for s in lines for step in s.steps})
    picked = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, MOST_STRIPS).astype(int))]
    places = [frame.x(step) for step in picked]
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    edges = [LEFT, *middles, WIDTH - RIGHT]
    shown = lines if reference is None else [*lines, reference]
    names = [s.name for s in lines] + [curve.reference] * (reference is not None)
    parts = []
    for step, left, right in zip(picked, edges[:-1], edges[1:], strict=True):
        told = [f"{n}: {number(_nearest(s, step))}" for n, s in zip(names, shown, strict=True)]
        title = escape("\n".join([f"step {step:,.0f}", *told]))
        parts.append(
            f'<rect class="strip" x="{left:.1f}" y="{TOP}" width="{max(right - left, 0):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{title}</title></rect>'
        )
    return parts


def _nearest(series: Series, step: Number) -> Number:
    return series.values[int(np.argmin(np.abs(np.asarray(series.steps) - step)))]


def _spoken(curve: Curve, lines: list[Series]) -> str:
    ends = ", ".join(
        f"{s.name} from {number(s.values[0])} to {number(s.values[-1])}" for s in lines
    )
    return f"{curve.title} over {number(lines[0].steps[-1])} steps: {ends}"
