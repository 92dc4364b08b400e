# SPDX-License-Identifier: Apache-2.0
"""What a run measures, on its way to the log and to the live line."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cots_jax.errors import UserError
from cots_jax.train.clock import Clock
from cots_jax.train.health import Spikes, concerns
from cots_jax.train.logging import MetricsLog, NoLog
from cots_jax.train.pace import Pace
from cots_jax.train.progress import Progress
from cots_jax.train.skipped import NoSkippedSteps, SkippedSteps
from cots_jax.train.utilisation import Utilisation

MOST_SKIPPED = 20  # steps with non-finite gradients between two log lines, or in a row

Numbers = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A step whose numbers are on the device still."""

    step: int
    measured: Mapping[str, Any]


class Reporter:
    """Logs and shows a step's numbers, which are fetched while the next one runs.

    named: adds what the host knows of a step's numbers.
    use: what the run gets out of its chips.
    begun: when the run was first started, in seconds since 1970; None where that is not known.
    """

    def __init__(
        self,
        named: Callable[[int, Numbers], Numbers],
        log: MetricsLog | NoLog,
        progress: Progress,
        clock: Clock,
        guard: "SkipGuard",
        skipped: SkippedSteps | NoSkippedSteps,
        pace: Pace,
        use: Utilisation,
        begun: float | None = None,
    ) -> None:
        self._named, self._log, self._progress = named, log, progress
        self._clock, self._guard, self._skipped = clock, guard, skipped
        self._pace, self._begun, self._spikes = pace, begun, Spikes()
        self._use = use
        self._asked: Asked | None = None
        self._last: Numbers = {}
        self._recall: Numbers = {}

    @property
    def metrics(self) -> Numbers:
        """Of the last logged step and of the last evaluation."""
        return self._last | self._recall

    def ask(self, step: int, measured: Mapping[str, Any]) -> None:
        """Remembers what to fetch; waits for nothing."""
        self._asked = Asked(step, measured)

    def settle(self) -> None:
        """Logs and shows what was asked for, if anything was. Raises UserError like SkipGuard."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        with self._clock.span("step"):
            host = {name: float(x) for name, x in jax.device_get(asked.measured).items()}
        rates = self._progress.meter.rates(asked.step)
        self._last = self._named(asked.step, host) | {
            "pairs_per_second": rates.pairs_per_second,
            "data_wait": rates.data_wait,
            "seconds": sum(self._clock.state().values()),
            **self._use.numbers(asked.step, rates.recent),
            **self._goodput(),
            **memory(),
        }
        paced = self._pace.look()
        self._last |= paced.numbers
        self._log.write(asked.step, self._last)
        self._progress.update(asked.step, self.metrics)
        for said in filter(
            None, (paced.straggler, self._spikes.consider(asked.step, host["loss"]))
        ):
            self._progress.note(said)
        self._skipped.settle(asked.step, int(host["skipped"]))
        self._guard.check(asked.step, int(host["skipped"]))

    def _goodput(self) -> Numbers:
        """The share of useful steps in the time since the run was begun: starts, compilation, lost
        work and the time between starts all count against it."""
        if self._begun is None or (since := time.time() - self._begun) <= 0:
            return {}  # a clock that was set back says nothing
        return {"goodput": min(1.0, self._clock.state().get("step", 0.0) / since)}

    def diagnosed(self, step: int, measured: Mapping[str, float]) -> None:
        """Logs what was found out about the run's health, and says what should worry."""
        self._log.write(step, measured)
        for said in concerns(measured):
            self._progress.note(f"step {step}: {said}")

    def evaluated(self, step: int, metrics: Numbers) -> None:
        """Logs and shows an evaluation."""
        self._recall = metrics
        self._log.write(step, metrics)
        self._progress.note(f"step {step}: {summary(metrics)}")


class SkipGuard:
    """Stops a run that gets nowhere; a bad step now and then changes nothing.

    start, skipped: the step that the run goes on from, and the skipped ones until there.
    """

    def __init__(self, start: int, total: int, skipped: int) -> None:
        self._step, self._total, self._skipped = start, total, skipped
        self._broken = 0

    def check(self, step: int, skipped: int) -> None:
        """Raises UserError after MOST_SKIPPED bad steps, or where most are bad at the end."""
        new, since = skipped - self._skipped, step - self._step
        self._step, self._skipped = step, skipped
        self._broken = new + (self._broken if new == since else 0)
        lost = step == self._total and 2 * new > since and (self._broken > 1 or skipped == step)
        if self._broken >= MOST_SKIPPED or lost:
            raise UserError(
                f"{self._broken} steps up to {step} had gradients that are not finite, and changed "
                "nothing: lower config.optimizer.learning_rate, or look at the data; their pairs "
                "and positions are in skipped.jsonl"
            )


def memory() -> Numbers:
    """The most that a device of this process has held so far, in GB; nothing where none counts."""
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in found if "peak_bytes_in_use" in stats]
    return {"memory_gb": max(peaks) / 1e9} if peaks else {}


def summary(metrics: Mapping[str, float]) -> str:
    """An evaluation in one line: R@1 both ways, or the tokenizer's measures."""
    short = {name: value for name, value in metrics.items() if name.endswith("/r1")}
    parts = []
    for name, value in (short or metrics).items():
        label = name.removeprefix("recall/").removesuffix("/r1").replace("image_to_text", "i2t")
        parts.append(f"{label.replace('text_to_image', 't2i')} {value:.4g}")
    return ", ".join(parts)
