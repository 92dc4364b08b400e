# SPDX-License-Identifier: Apache-2.0
"""The live line, on a fake time and a fake terminal."""

import io
import math
import re

import pytest

from cots_jax.train.clock import Clock
from cots_jax.train.progress import Meter, Progress, Rates, describe, duration

METRICS = {
    "loss": 9.1234,
    "loss/instance": 3.21,
    "chance/instance": 7.0,
    "loss/task": 0.5,
    "temperature": 0.07,
    "kept/web": 0.91,
}


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """Ten pairs a step, and time that passes as told."""

    def __init__(self, start: int = 0, total: int = 1000) -> None:
        self.time = FakeTime()
        self.clock = Clock(now=self.time)
        self.meter = Meter(self.clock, total, start, pairs_per_step=10)

    def spend(self, **seconds: float) -> None:
        for name, amount in seconds.items():
            with self.clock.span(name):
                self.time.seconds += amount


class TestMeter:
    def test_compilation_and_its_step_do_not_count(self) -> None:
        run = Run(start=100, total=200)
        run.spend(compile=60)
        assert math.isnan(run.meter.rates(101).pairs_per_second)
        run.spend(data=1, step=4)
        rates = run.meter.rates(111)
        assert rates == Rates(20.0, recent=20.0, data_wait=0.2, seconds_left=89 * 0.5)

    def test_pauses_count_towards_the_time_left_alone(self) -> None:
        run = Run(total=20)
        run.spend(step=5, evaluation=5)
        assert run.meter.rates(10) == Rates(20.0, 20.0, 0.0, 10.0)

    def test_time_left_follows_the_last_updates(self) -> None:
        run = Run(total=400)
        for step in range(1, 301):
            run.spend(step=1.0 if step <= 200 else 3.0)
            rates = run.meter.rates(step)
        assert rates.seconds_left == pytest.approx(100 * 3.0)
        assert rates.pairs_per_second == pytest.approx(10 * 300 / 500)
        assert rates.recent == pytest.approx(10 / 3)

    def test_pauses_do_not_count_towards_the_recent_rate(self) -> None:
        run = Run()
        run.spend(compile=60, step=9)
        run.meter.rates(10)
        run.spend(step=2, evaluation=50)
        assert run.meter.rates(20).recent == 50.0
        assert run.meter.rates(20).recent == 50.0

    def test_asking_twice_changes_nothing(self) -> None:
        run = Run()
        run.spend(step=5)
        assert run.meter.rates(10) == run.meter.rates(10)

    def test_nothing_is_known_at_the_start(self) -> None:
        rates = Run(start=50).meter.rates(50)
        assert math.isnan(rates.pairs_per_second)
        assert math.isnan(rates.seconds_left)


class TestDescribe:
    def test_losses_stand_beside_their_chance_levels(self) -> None:
        line = describe(250, 1000, Rates(123.4, 99.0, 0.034, 75.0), METRICS)
        assert line == (
            "step 250/1000 25% | 1:15 left | 123.4 pairs/s | data wait 3% | loss 9.123"
            " | instance 3.21/7.00 | task 0.50 | temperature 0.07 | kept 91%"
        )

    def test_recall_of_the_first_set_stands_where_a_narrow_terminal_shows_it(self) -> None:
        ways = ("image_to_text/r1", "image_to_text/r10", "text_to_image/r1")
        sets = {f"recall/{name}/{way}": 33.14 for name in ("dev", "test") for way in ways}
        sets["recall/dev/text_to_image/r1"] = 100.0
        line = describe(250, 1000, Rates(123.4, 99.0, 0.034, 75.0), METRICS | sets)
        assert "| data wait 3% | R@1 33.1 100.0 | loss 9.123 |" in line
        assert line.index(" | loss") < 80

    def test_unknown_rates_are_left_out(self) -> None:
        line = describe(1, 10, Rates(math.nan, math.nan, 0.0, math.nan), {"loss": math.nan})
        assert line == "step 1/10 10% | data wait 0% | loss nan"

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.4, "0:00"), (9, "0:09"), (3700, "1:01:40"), (86400, "1d 0:00:00"), (2e5, "2d 7:33:20")],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text


class TestProgress:
    def test_plain_lines_where_there_is_no_terminal(self) -> None:
        stream = io.StringIO()
        progress = Progress(Run().meter, stream)
        progress.update(1, {"loss": 1.0})
        progress.note("saved step 1")
        progress.update(2, {"loss": 2.0})
        progress.close()
        lines = stream.getvalue().splitlines()
        assert [line.split(" | ")[-1] for line in lines] == [
            "loss 1.000",
            "saved step 1",
            "loss 2.000",
        ]
        assert "\r" not in stream.getvalue()

    def test_in_place_on_a_terminal(self) -> None:
        stream = Terminal()
        progress = Progress(Run().meter, stream)
        progress.update(1, METRICS)
        progress.note("saved")
        progress.update(2, METRICS | {str(term): 1.0 for term in range(40)})
        progress.close()
        assert stream.getvalue().count("\n") == 2
        shown = re.split(r"\r|\n", stream.getvalue().replace("\x1b[K", ""))
        assert [text[:9] for text in shown if text] == [
            "step 1/10",
            "saved",
            "step 1/10",
            "step 2/10",
        ]
        assert max(map(len, shown)) < 80
