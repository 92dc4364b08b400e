# SPDX-License-Identifier: Apache-2.0
"""Durations and schedules: how a config says "when" and "how much, when".

A time is `"2000 steps"`, `"30 epochs"`, `"1e8 examples"` or `"40%"` (of the duration). A schedule
is a number, or points `"0 @ 10%, 0.5 @ 40%"` joined by straight lines; `cosine` before a point
joins it by half a cosine wave instead: `"0 @ 0%, 1e-3 @ 8%, cosine 0 @ 100%"`. Outside the points
the nearest value holds. Both are own choices of notation.
"""

import dataclasses
import itertools
import math
import re

from cots_jax.errors import UserError

_TIME = re.compile(r"\s*([0-9.eE+-]+)\s*(%|steps?|epochs?|examples?)\s*")


@dataclasses.dataclass(frozen=True)
class Clockwork:
    """What turns a time into steps: the global batch, the pairs of an epoch, the run's length."""

    batch: int
    pairs: int
    total_steps: int = 0

    def steps(self, time: str, key: str = "time") -> int:
        """The step that `time` names, at least 0. Raises UserError where it cannot be read."""
        found = _TIME.fullmatch(time)
        try:
            number = float(found.group(1)) if found else math.nan
        except ValueError:
            number = math.nan
        if not found or not math.isfinite(number) or number < 0:
            raise UserError(
                f"{key} = {time!r} is no time: write e.g. '2000 steps', '30 epochs', "
                "'1e8 examples' or '40%'"
            )
        unit = found.group(2).rstrip("s")
        if unit == "%" and not self.total_steps:
            raise UserError(f"{key} = {time!r}: the duration itself cannot be a percentage")
        per_unit = {
            "step": 1.0,
            "epoch": self.pairs / self.batch,
            "example": 1.0 / self.batch,
            "%": self.total_steps / 100,
        }[unit]
        return math.floor(number * per_unit + 0.5)

    def every(self, time: str, key: str) -> int:
        """Steps from one of what comes every `time` to the next, at least 1. UserError for 0."""
        steps = self.steps(time, key)
        found = _TIME.fullmatch(time)
        if found and not float(found.group(1)):
            raise UserError(
                f"{key} = {time!r} is no distance: write e.g. '1 step' or '200%' for never"
            )
        return max(1, steps)


@dataclasses.dataclass(frozen=True)
class Point:
    """A schedule reaches `value` at `step`, coming from the point before along `shape`."""

    step: int
    value: float
    shape: str = "linear"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A number that depends on the step alone."""

    points: tuple[Point, ...]

    def __call__(self, step: int) -> float:
        """The value at `step`."""
        if step <= self.points[0].step:
            return self.points[0].value
        for before, after in itertools.pairwise(self.points):
            if step < after.step:
                way = (step - before.step) / (after.step - before.step)
                if after.shape == "cosine":
                    way = 0.5 - 0.5 * math.cos(math.pi * way)
                return before.value + way * (after.value - before.value)
        return self.points[-1].value

    @property
    def ever_zero(self) -> bool:
        """Whether the value is 0 at any step."""
        return any(point.value <= 0 for point in self.points)

    @property
    def ever_positive(self) -> bool:
        """Whether the value is above 0 at any step."""
        return any(point.value > 0 for point in self.points)


def parse_schedule(text: str | float, clock: Clockwork, key: str) -> Schedule:
    """Reads a schedule. `key` is the config key, for the error. Raises UserError."""
    points = [
        Point(clock.steps(time, key) if time else 0, value, shape)
        for value, time, shape in _written_points(text, key)
    ]
    if any(b.step < a.step for a, b in itertools.pairwise(points)):
        raise UserError(f"{key} = {text!r}: the times must not go back")
    return Schedule(tuple(points))


def schedule_values(text: str | float, key: str) -> list[float]:
    """The values that a schedule goes through; known before any clock is. Raises UserError."""
    return [value for value, _, _ in _written_points(text, key)]


def _written_points(text: str | float, key: str) -> list[tuple[float, str, str]]:
    """(value, time, shape) as written; a single number has no time."""
    parts = str(text).split(",")
    if len(parts) == 1 and "@" not in parts[0]:
        return [(_number(parts[0], text, key), "", "linear")]
    points = []
    for part in parts:
        value, at, time = part.partition("@")
        shape, _, number = value.strip().rpartition(" ")
        if not at or not time.strip() or shape not in ("", "linear", "cosine"):
            raise UserError(
                f"{key} = {text!r} is no schedule: write a number or 'value @ time, value @ time', "
                "a point optionally after the word cosine"
            )
        points.append((_number(number, text, key), time, shape or "linear"))
    return points


def _number(text: str, whole: str | float, key: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{key} = {whole!r}: {text.strip()!r} is not a finite number")
    return number
