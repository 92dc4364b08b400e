# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG: panels of lines over labelled places, with a logarithmic height, and bars."""

import dataclasses
import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 380, 240, 60, 40, 30  # of a panel
COLOURS = ("#1a5fb4", "#c64600")
LOWEST = 1e-9  # what zero is drawn as, if the decades go so far down
LINE, NAMES, BARS, VALUES = 22, 230, 400, 130  # pixels: height of a bar; widths from left to right


@dataclasses.dataclass(frozen=True)
class Bar:
    """A value with the least and the most of its rounds, and what it should be."""

    name: str
    value: float
    least: float
    most: float
    aim: float | None = None
    at_least: bool = True  # else at most

    @property
    def kept(self) -> bool:
        """Whether the aim is reached; True without one."""
        if self.aim is None:
            return True
        return self.value >= self.aim if self.at_least else self.value <= self.aim


def page(panels: Sequence[str]) -> str:
    """The panels, two in a row, as one file."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    placed = [
        f'<g transform="translate({WIDTH * (number % columns)} {HEIGHT * (number // columns)})">'
        f"{panel}</g>"
        for number, panel in enumerate(panels)
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {columns * WIDTH} {rows * HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(placed)}</svg>\n'
    )


def panel(
    title: str,
    below: str,
    names: Sequence[str],
    labels: Sequence[str],
    lines: Sequence[Sequence[float]],
) -> str:
    """Up to two named lines; labels stand under the places, `below` says what they are.

    Values are at least 0; whole decades frame the least and the most of those above 0.
    """
    decades = _decades([value for line in lines for value in line])

    def y(value: float) -> float:
        low, high = math.log10(decades[0]), math.log10(decades[-1])
        share = (max(math.log10(max(value, LOWEST)), low) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def x(place: int) -> float:
        return LEFT + 15 + place * (WIDTH - LEFT - 40) / max(1, len(labels) - 1)

    parts = [f'<text x="{LEFT}" y="14" font-weight="bold">{title}</text>']
    for value in decades:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(value):.0f}" y2="{y(value):.0f}" '
            f'stroke="#ddd"/><text x="{LEFT - 5}" y="{y(value) + 4:.0f}" text-anchor="end">'
            f"{value:g}</text>"
        )
    for place, label in enumerate(labels):
        parts.append(
            f'<text x="{x(place):.0f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" '
            f'font-size="9">{label}</text>'
        )
    for number, (name, line) in enumerate(zip(names, lines, strict=True)):
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[number]}" '
            f'stroke-width="2"/><text x="{LEFT + 100 + 130 * number}" y="14" '
            f'fill="{COLOURS[number]}">{name}</text>'
        )
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{below}</text>')
    return "".join(parts)


def _decades(values: Sequence[float]) -> list[float]:
    shown = [value for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(shown)))
    high = max(low + 1, math.ceil(math.log10(max(shown))))
    return [10.0**power for power in range(low, high + 1)]


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """A file of horizontal bars from 0 on, with whiskers from least to most and a mark at an aim.

    Bars that miss their aim have the second colour.
    """
    far = max([1e-9, *(bar.most for bar in rows), *(bar.aim for bar in rows if bar.aim)])
    width, height = NAMES + BARS + VALUES, TOP + LINE * len(rows) + 8

    def x(value: float) -> float:
        return NAMES + BARS * value / far

    parts = [f'<text x="8" y="16" font-weight="bold">{escape(title)}, {escape(unit)}</text>']
    for number, bar in enumerate(rows):
        top = TOP + LINE * number
        middle, colour = top + LINE / 2, COLOURS[not bar.kept]
        said = f"{bar.value:.3g}"
        if bar.aim is not None:
            said += f" (aim: {'≥' if bar.at_least else '≤'} {bar.aim:g})"
        parts.append(
            f'<text x="{NAMES - 6}" y="{middle + 4}" text-anchor="end">{escape(bar.name)}</text>'
            f'<rect class="bar" x="{NAMES}" y="{top + 4}" width="{x(bar.value) - NAMES:.1f}" '
            f'height="{LINE - 8}" fill="{colour}" fill-opacity="0.75"/>'
            f'<line x1="{x(bar.least):.1f}" x2="{x(bar.most):.1f}" y1="{middle}" y2="{middle}" '
            f'stroke="#222"/>'
            f'<text x="{NAMES + BARS + 8}" y="{middle + 4}">{said}</text>'
        )
        if bar.aim is not None:
            parts.append(
                f'<line class="aim" x1="{x(bar.aim):.1f}" x2="{x(bar.aim):.1f}" y1="{top}" '
                f'y2="{top + LINE}" stroke="#222" stroke-width="2"/>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )
