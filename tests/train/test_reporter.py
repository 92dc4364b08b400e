# SPDX-License-Identifier: Apache-2.0
"""When numbers reach the log and the line, and when a run with broken steps is stopped."""

import io
import pathlib
import time

import jax.numpy as jnp
import pytest

from cots_jax.errors import UserError
from cots_jax.schema import HardwareConfig
from cots_jax.train import logging
from cots_jax.train.clock import Clock
from cots_jax.train.pace import Pace
from cots_jax.train.progress import Meter, Progress
from cots_jax.train.reporter import MOST_SKIPPED, Reporter, SkipGuard, summary
from cots_jax.train.skipped import NoSkippedSteps
from cots_jax.train.utilisation import Utilisation


class Run:
    """A reporter of ten steps that writes into `folder`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.clock = clock = Clock()
        self.file, self.stream = folder / "metrics.jsonl", io.StringIO()
        progress = Progress(Meter(clock, 10, 0, pairs_per_step=4), self.stream)
        self.log = logging.MetricsLog(folder)
        guard = SkipGuard(0, 10, 0)
        self.skipped, self.pace = NoSkippedSteps(), Pace()
        use = Utilisation(HardwareConfig(row="v5e-4", chips=4), 4, lambda step: 10**12)
        self.reporter = Reporter(
            self.named, self.log, progress, clock, guard, self.skipped, self.pace, use, begun=1.0
        )

    def named(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        return metrics | {"twice": 2.0 * step}

    def ask(self, step: int) -> None:
        self.reporter.ask(step, {"loss": jnp.float32(step), "skipped": jnp.int32(0)})

    @property
    def rows(self) -> list[dict]:
        return logging.read(self.file)


@pytest.fixture
def run(tmp_path: pathlib.Path):
    run = Run(tmp_path)
    yield run
    run.log.close()


class TestReporter:
    def test_a_step_is_logged_once_when_it_is_settled(self, run: Run) -> None:
        run.reporter.settle()
        run.ask(1)
        assert run.rows == []
        run.reporter.settle()
        run.reporter.settle()
        (row,) = run.rows
        assert (row["step"], row["loss"], row["twice"]) == (1, 1.0, 2.0)
        assert {"pairs_per_second", "data_wait", "seconds", "goodput", "mfu"} <= set(row)
        assert "step_p50" not in row  # no step was timed
        assert "nonfinite" not in row  # rates are not known yet

    def test_what_it_adds_to_a_steps_own_numbers_is_known_to_depend_on_time(self, run: Run) -> None:
        """Else `--replay` would compare it, and a resumed run's log would differ."""
        run.pace.add(1.0, own=0.1)
        run.ask(1)
        run.reporter.settle()
        assert set(run.rows[0]) - {"step", "loss", "skipped", "twice"} <= set(logging.TIMES)

    def test_rates_are_those_at_the_end_of_the_step(self, run: Run) -> None:
        run.ask(4)
        time.sleep(0.01)
        before = run.clock.training()
        run.reporter.settle()
        assert run.rows[0]["pairs_per_second"] <= 4 * 4 / before

    def test_step_times_are_those_since_the_last_line(self, run: Run) -> None:
        for number, seconds in ((1, [3.0, 1.0, 2.0]), (2, [5.0])):
            for one in seconds:
                run.pace.add(one, own=0.1)
            run.ask(number)
            run.reporter.settle()
        assert [(row["step_p50"], row["step_max"]) for row in run.rows] == [(2, 3), (5, 5)]

    def test_what_should_worry_is_said(self, run: Run) -> None:
        run.reporter.diagnosed(4, {"queue/valid": 0.0})
        assert "step 4: the queue is dead" in run.stream.getvalue()
        assert run.rows[-1] == {"step": 4, "queue/valid": 0.0}

    def test_the_newest_recall_stands_in_the_line_and_not_in_the_row(self, run: Run) -> None:
        run.ask(1)
        run.reporter.settle()
        for step, recall in ((2, 20.0), (4, 30.0)):
            run.reporter.evaluated(step, {"recall/val/image_to_text/r1": recall})
            run.ask(step + 1)
            run.reporter.settle()
        lines = run.stream.getvalue().splitlines()
        assert [line.startswith("step ") for line in lines] == [True] * 5
        assert "R@1" not in lines[0]
        assert lines[1] == "step 2: val/i2t 20"
        assert "| R@1 20.0 |" in lines[2]
        assert "| R@1 30.0 |" in lines[4]
        assert [len([name for name in row if "r1" in name]) for row in run.rows] == [0, 1, 0, 1, 0]
        assert run.reporter.metrics.items() >= {"loss": 5.0, "twice": 10.0}.items()
        assert run.reporter.metrics["recall/val/image_to_text/r1"] == 30.0

    def test_a_tokenizers_measures_are_all_named(self) -> None:
        assert summary({"dvae/val/error": 0.25, "dvae/val/perplexity": 9.0}) == (
            "dvae/val/error 0.25, dvae/val/perplexity 9"
        )


class TestSkipGuard:
    """`check(step, skipped until there)` at each line of the log."""

    def test_a_bad_step_now_and_then_changes_nothing(self) -> None:
        guard = SkipGuard(0, 1000, 0)
        skipped = 0
        for step in range(1, 1001):  # a line every step, every third step bad, the last one too
            skipped += step % 3 == 1
            guard.check(step, skipped)

    @pytest.mark.parametrize("every", [1, 2, 5, 20, 60])
    def test_many_in_a_row_stop_the_run_however_often_it_logs(self, every: int) -> None:
        guard = SkipGuard(0, 1000, 7)
        guard.check(every, 7)
        wanted = "lower config.optimizer.learning_rate"
        with pytest.raises(UserError, match=wanted):
            for line in range(2, 22):
                guard.check(line * every, 7 + (line - 1) * every)
        assert (line - 1) * every >= MOST_SKIPPED > (line - 2) * every

    def test_those_before_a_good_line_are_forgiven(self) -> None:
        guard = SkipGuard(0, 100, 0)
        guard.check(15, 15)
        guard.check(30, 15)
        guard.check(45, 30)

    @pytest.mark.parametrize(
        ("start", "total", "skipped"), [(0, 1, 1), (0, 12, 12), (0, 12, 9), (90, 100, 10)]
    )
    def test_a_run_that_ends_broken_fails_even_when_it_is_short(
        self, start: int, total: int, skipped: int
    ) -> None:
        with pytest.raises(UserError, match=f"{skipped} steps up to {total} had gradients"):
            SkipGuard(start, total, 0).check(total, skipped)

    def test_a_run_that_ends_well_does_not(self) -> None:
        for start, skipped in ((0, 4), (99, 1)):
            SkipGuard(start, 100, 0).check(100, skipped)
