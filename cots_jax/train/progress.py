# SPDX-License-Identifier: Apache-2.0
"""The line that a person watches while a run goes on."""

import collections
import dataclasses
import io
import math
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from cots_jax.train.clock import Clock

WINDOW = 20  # updates that the time left is reckoned from


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast the run goes since its (re)start; NaN before the first measured step."""

    pairs_per_second: float
    recent: float  # the same, since the update before
    data_wait: float  # share of the training time in which the devices had nothing to do
    seconds_left: float


class Meter:
    """Reckons rates from a clock, compilation and pauses excluded, and the time left from the
    last few updates, pauses included. To be asked when a step has ended."""

    def __init__(self, clock: Clock, total: int, start: int, pairs_per_step: int) -> None:
        self.total = total
        self._clock = clock
        self._start = start
        self._pairs_per_step = pairs_per_step
        # steps done, with seconds that pauses count in and those of training alone
        self._window: collections.deque[tuple[int, float, float]]
        self._window = collections.deque([(start, 0.0, 0.0)], maxlen=WINDOW)

    def rates(self, step: int) -> Rates:
        """Rates with `step` steps done; each `compile` span holds a step that does not count."""
        compiled = self._start + self._clock.count("compile")
        running = self._clock.elapsed() - self._clock.seconds("compile")
        training = self._clock.training()
        if step > self._window[-1][0]:
            self._window.append((step, running, training))
        first, begin, _ = self._window[0]
        pace = _ratio(running - begin, step - max(first, compiled))
        before, _, trained = self._window[max(0, len(self._window) - 2)]
        last, _, now = self._window[-1]
        return Rates(
            pairs_per_second=_ratio((step - compiled) * self._pairs_per_step, training),
            recent=_ratio((last - max(before, compiled)) * self._pairs_per_step, now - trained),
            data_wait=self._clock.fraction("data"),
            seconds_left=(self.total - step) * pace,
        )


def _ratio(amount: float | int, of: float | int) -> float:
    return amount / of if amount > 0 and of > 0 else math.nan


class Silence(io.TextIOBase):
    """Where a process writes that is not the one to speak."""

    def write(self, text: str) -> int:
        return len(text)


class Progress:
    """Shows a live line on a terminal, and a plain line an update elsewhere."""

    def __init__(self, meter: Meter, stream: TextIO | io.TextIOBase | None = None) -> None:
        self.meter = meter
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._line = ""

    def update(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Shows this step, with the recall that was measured last if `metrics` holds one."""
        self._line = describe(step, self.meter.total, self.meter.rates(step), metrics)
        self._show()

    def note(self, text: str) -> None:
        """Prints a line of its own above the live one."""
        self._stream.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        if self._live and self._line:
            self._show()
        self._stream.flush()

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._live and self._line:
            self._stream.write("\n")
            self._stream.flush()
        self._line = ""

    def _show(self) -> None:
        if self._live:
            self._stream.write(f"\r{self._line[: _width(self._stream) - 1]}\x1b[K")
        else:
            self._stream.write(f"{self._line}\n")
        self._stream.flush()


def describe(step: int, total: int, rates: Rates, metrics: Mapping[str, float | int]) -> str:
    """One line: step, time left, pairs/s, data wait, R@1 of the first set (image to text, text to
    image), losses over their chance levels, the rest."""
    parts = [f"step {step}/{total} {100 * step // max(total, 1)}%"]
    if math.isfinite(rates.seconds_left):
        parts.append(f"{duration(rates.seconds_left)} left")
    if math.isfinite(rates.pairs_per_second):
        parts.append(f"{rates.pairs_per_second:.4g} pairs/s")
    parts.append(f"data wait {rates.data_wait:.0%}")
    recalls = [f"{value:.1f}" for name, value in metrics.items() if name.endswith("/r1")]
    if recalls:
        parts.append(f"R@1 {' '.join(recalls[:2])}")
    parts += _losses(metrics)
    if "temperature" in metrics:
        parts.append(f"temperature {metrics['temperature']:.3g}")
    kept = [f"{value:.0%}" for name, value in metrics.items() if name.startswith("kept/")]
    if kept:
        parts.append(f"kept {' '.join(kept)}")
    return " | ".join(parts)


def _losses(metrics: Mapping[str, float | int]) -> list[str]:
    parts = [f"loss {metrics['loss']:.3f}"] if "loss" in metrics else []
    for name, value in metrics.items():
        kind, _, term = name.partition("/")
        if kind == "loss" and term:
            chance = metrics.get(f"chance/{term}")
            parts.append(f"{term} {value:.2f}" + ("" if chance is None else f"/{chance:.2f}"))
    return parts


def duration(seconds: float | int) -> str:
    """9 -> 0:09, 3700 -> 1:01:40, 200000 -> 2d 7:33:20."""
    days, rest = divmod(round(seconds), 86400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    clock = f"{hours}:{minutes:02d}:{left:02d}" if days or hours else f"{minutes}:{left:02d}"
    return f"{days}d {clock}" if days else clock


def _width(stream: TextIO | io.TextIOBase) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
