# SPDX-License-Identifier: Apache-2.0
"""The clock, on a fake time."""

import json

import pytest

from cots_jax.train.clock import Clock


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def spend(clock: Clock, time: FakeTime, **seconds: float) -> None:
    for name, amount in seconds.items():
        with clock.span(name):
            time.seconds += amount


def test_fractions_leave_compilation_and_pauses_out(time: FakeTime) -> None:
    clock = Clock(now=time)
    spend(clock, time, compile=50, data=1, step=6, evaluation=20, checkpoint=10)
    time.seconds += 3
    assert clock.elapsed() == 90
    assert clock.training() == 10
    assert clock.fraction("data") == 0.1
    assert clock.fraction("step") == 0.6
    assert clock.fraction("compile") == pytest.approx(50 / 90)


def test_waiting_behind_a_step_is_none(time: FakeTime) -> None:
    clock = Clock(now=time)
    spend(clock, time, data=2, step=10)
    spend(clock, time, data=3)
    clock.hidden("data", behind="step")
    assert (clock.seconds("data"), clock.seconds("step")) == (2, 13)
    clock.hidden("data", behind="step")  # no second time
    assert clock.state() == {"data": 2, "other": 0, "step": 13}


def test_fraction_before_any_time_has_passed(time: FakeTime) -> None:
    assert Clock(now=time).fraction("data") == 0.0


def test_a_span_that_fails_is_counted(time: FakeTime) -> None:
    clock = Clock(now=time)
    with pytest.raises(KeyError), clock.span("data"):
        time.seconds += 2
        raise KeyError
    spend(clock, time, data=1)
    assert clock.seconds("data") == 3
    assert clock.count("data") == 2


def test_spans_do_not_nest(time: FakeTime) -> None:
    clock = Clock(now=time)
    with clock.span("step"), pytest.raises(RuntimeError, match="'data' inside span 'step'"):
        spend(clock, time, data=1)


def test_state_goes_on_over_restarts(time: FakeTime) -> None:
    first = Clock(now=time)
    spend(first, time, data=1, step=2)
    time.seconds += 4
    second = Clock(json.loads(json.dumps(first.state())), now=time)
    spend(second, time, step=8, checkpoint=16)
    assert second.state() == {"checkpoint": 16, "data": 1, "other": 4, "step": 10}
    assert second.seconds("step") == 8
