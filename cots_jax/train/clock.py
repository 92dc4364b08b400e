# SPDX-License-Identifier: Apache-2.0
"""Where a run's time goes: waiting for data, steps, compilation, evaluation, checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

Span = Literal["data", "step", "compile", "evaluation", "checkpoint"]


class Clock:
    """Adds up seconds by span; time outside of any span is `other`.

    before: `state()` of the run that this one goes on from; `total` counts it in, `seconds` not.
    now: a monotonic time in seconds.
    """

    def __init__(
        self,
        before: Mapping[str, float | int] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._start = now()
        self._before = dict(before or {})
        self._seconds: dict[str, float] = {}
        self._count: dict[str, int] = {}
        self._open: str | None = None
        self._last = 0.0  # seconds of the span that ended last

    @contextlib.contextmanager
    def span(self, name: Span) -> Iterator[None]:
        """Counts the time inside towards `name`; spans do not nest."""
        if self._open is not None:
            raise RuntimeError(f"span {name!r} inside span {self._open!r} would count time twice")
        self._open, begin = name, self._now()
        try:
            yield
        finally:
            self._open = None
            self._last = self._now() - begin
            self._seconds[name] = self._seconds.get(name, 0.0) + self._last
            self._count[name] = self._count.get(name, 0) + 1

    def hidden(self, name: Span, behind: Span) -> None:
        """The span that has just ended, one of `name`, cost nothing: `behind` went on meanwhile."""
        self._seconds[name] -= self._last
        self._seconds[behind] = self._seconds.get(behind, 0.0) + self._last
        self._last = 0.0

    def seconds(self, *names: Span) -> float:
        """Seconds in these spans since this start."""
        return sum(self._seconds.get(name, 0.0) for name in names)

    def count(self, name: Span) -> int:
        """How many spans of this name have ended since this start."""
        return self._count.get(name, 0)

    def elapsed(self) -> float:
        """Seconds since this start, in spans or not."""
        return self._now() - self._start

    def training(self) -> float:
        """Seconds since this start, without compilation and pauses: what rates are taken over."""
        return self.elapsed() - self.seconds("compile", "evaluation", "checkpoint")

    def fraction(self, name: Span) -> float:
        """Share of a span in the time since this start; data and step: in the training time."""
        whole = self.training() if name in ("data", "step") else self.elapsed()
        return self.seconds(name) / whole if whole > 0 else 0.0

    def state(self) -> dict[str, float]:
        """Seconds by span over all starts, `other` included, as JSON holds them."""
        here = {**self._seconds, "other": self.elapsed() - sum(self._seconds.values())}
        names = sorted({*self._before, *here})
        return {name: self._before.get(name, 0.0) + here.get(name, 0.0) for name in names}
