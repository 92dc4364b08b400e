# SPDX-License-Identifier: Apache-2.0
"""Times and schedules: what they mean, and that what cannot be read is named."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cots_jax.errors import UserError
from cots_jax.schedule import Clockwork, Point, Schedule, parse_schedule

CLOCK = Clockwork(batch=32, pairs=1000, total_steps=400)

numbers = st.floats(-1e6, 1e6, allow_nan=False)


class TestTimes:
    @pytest.mark.parametrize(
        ("time", "steps"),
        [
            ("2000 steps", 2000),
            ("1 step", 1),
            ("7steps", 7),
            ("2 epochs", 63),  # 62.5 batches of 32 out of 1,000 pairs, rounded
            ("1e8 examples", 3_125_000),
            ("40%", 160),
            ("0.125 %", 1),  # half a step is rounded up
            ("0 steps", 0),
        ],
    )
    def test_units(self, time, steps):
        assert CLOCK.steps(time) == steps

    @pytest.mark.parametrize(
        "time",
        ["", "200", "steps", "2 weeks", "-3 steps", "nan steps", "1e999 steps", "1.2.3 steps"],
    )
    def test_what_is_no_time_is_named_with_its_key(self, time):
        with pytest.raises(UserError, match=r"config\.duration = .* is no time"):
            CLOCK.steps(time, "config.duration")

    @pytest.mark.parametrize(("time", "steps"), [("5 steps", 5), ("0.01%", 1), ("2 epochs", 63)])
    def test_what_comes_again_and_again(self, time, steps):
        assert CLOCK.every(time, "config.log_every") == steps

    @pytest.mark.parametrize("time", ["0 steps", "0%", "0.0 epochs", "-0 steps"])
    def test_it_does_not_come_every_0_steps(self, time):
        with pytest.raises(UserError, match=r"config\.log_every = .* is no distance"):
            CLOCK.every(time, "config.log_every")

    def test_the_duration_itself_is_no_percentage(self):
        with pytest.raises(UserError, match="duration itself"):
            Clockwork(batch=32, pairs=1000).steps("50%")


class TestSchedules:
    def test_a_number_holds_for_ever(self):
        for text in ("0.3", "3e-1", 0.3):
            schedule = parse_schedule(text, CLOCK, "key")
            assert {schedule(step) for step in (0, 7, 10**9)} == {0.3}

    def test_lines_between_points_and_the_nearest_value_outside(self):
        schedule = parse_schedule("0 @ 10%, 0.5 @ 40%, 0.25 @ 200 steps", CLOCK, "key")
        wanted = {0: 0, 40: 0, 100: 0.25, 160: 0.5, 180: 0.375, 200: 0.25, 399: 0.25}
        for step, value in wanted.items():
            assert math.isclose(schedule(step), value, abs_tol=1e-12)

    def test_cosine_is_half_a_wave(self):
        schedule = parse_schedule("0 @ 0%, 1 @ 10%, cosine 0 @ 100%", CLOCK, "key")
        for step in range(40, 401, 40):
            wanted = (1 + math.cos(math.pi * (step - 40) / 360)) / 2
            assert math.isclose(schedule(step), wanted, abs_tol=1e-12)

    def test_two_points_at_one_time_are_a_jump(self):
        schedule = parse_schedule("1 @ 10 steps, 0.2 @ 20 steps, 5 @ 20 steps", CLOCK, "key")
        assert schedule(19) < 1
        assert schedule(20) == schedule(21) == 5

    @pytest.mark.parametrize(
        ("text", "positive", "zero"),
        [
            ("0", False, True),
            ("1", True, False),
            ("0 @ 10%, 0.5 @ 40%", True, True),
            ("0.05 @ 40%, 0 @ 80%", True, True),
            ("0.1 @ 40%, 0.2 @ 80%", True, False),
        ],
    )
    def test_whether_it_is_ever_on_or_off(self, text, positive, zero):
        schedule = parse_schedule(text, CLOCK, "key")
        assert schedule.ever_positive == positive
        assert schedule.ever_zero == zero

    @pytest.mark.parametrize(
        "text",
        ["", "fast", "1 @", "1 @ 5", "sine 1 @ 5%", "1 @ 5%, 2", "nan", "inf @ 5%", "1, 2"],
    )
    def test_what_is_no_schedule_is_named_with_its_key(self, text):
        with pytest.raises(UserError, match=r"config\.rate"):
            parse_schedule(text, CLOCK, "config.rate")

    def test_times_do_not_go_back(self):
        with pytest.raises(UserError, match="must not go back"):
            parse_schedule("1 @ 50%, 0 @ 40%", CLOCK, "key")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(numbers, st.integers(0, 10**6), st.sampled_from(["linear", "cosine"])),
            min_size=1,
            max_size=5,
        )
    )
    def test_what_is_written_is_read_again(self, points):
        points = sorted(points, key=lambda point: point[1])
        schedule = Schedule(tuple(Point(step, value, shape) for value, step, shape in points))
        words = {"linear": ("", "linear "), "cosine": ("cosine ", "cosine ")}
        for style in range(2):
            text = ",".join(
                f" {words[point.shape][style]}{point.value!r} @ {point.step} steps"
                for point in schedule.points
            )
            assert parse_schedule(text, CLOCK, "key") == schedule

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(numbers, st.integers(0, 1000)), min_size=1, max_size=5),
        st.integers(-5, 1100),
    )
    def test_it_stays_between_its_points_and_passes_through_them(self, points, step):
        points = sorted(points, key=lambda point: point[1])
        schedule = Schedule(tuple(Point(at, value) for value, at in points))
        values = [value for value, _ in points]
        assert min(values) - 1e-9 <= schedule(step) <= max(values) + 1e-9
        times = [at for _, at in points]
        for value, at in points:
            if times.count(at) == 1:
                assert math.isclose(schedule(at), value, abs_tol=1e-9)
