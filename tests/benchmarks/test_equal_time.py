# SPDX-License-Identifier: Apache-2.0
"""Studies: the steps of arms that are given another arm's time, and how a step is measured."""

import contextlib
import dataclasses
import json
import threading

import pytest
from tiny_world import CONFIG, Tiny

from benchmarks.study.arms import Arm, Suite
from benchmarks.study.cost import step_seconds
from benchmarks.study.equal_time import steps_of, with_equal_time
from benchmarks.study.runs import one_at_a_time


class TestEqualTime:
    SUITE = Suite(
        "timed",
        "",
        (
            Arm("slow", "configs/x.py", {"duration": "100 steps"}),
            Arm("fast", "configs/y.py", as_long_as="slow"),
            Arm("slow-long", "configs/x.py", {"duration": "400 steps"}),
            Arm("fast-long", "configs/y.py", as_long_as="slow-long"),
            Arm("fast-hot", "configs/y.py", {"optimizer.learning_rate": "1"}, as_long_as="slow"),
        ),
        (),
    )

    def stored(self, folder, **costs):
        (folder / "timed").mkdir()
        (folder / "timed" / "cost.json").write_text(json.dumps({"seconds_a_step": costs}))

    def test_a_cheaper_arm_is_given_more_steps(self, tmp_path):
        self.stored(tmp_path, slow=0.3, fast=0.2)
        suite = with_equal_time(self.SUITE, tmp_path, ["fast"])
        assert [steps_of(arm) for arm in suite.arms] == [100, 150, 400, 600, 150]
        assert "--config.duration=150 steps" in suite.arm("fast").flags(0)

    def test_what_is_left_over_goes_to_the_arm_that_is_compared_with(self, tmp_path):
        self.stored(tmp_path, slow=0.3, fast=0.29)
        suite = with_equal_time(self.SUITE, tmp_path, ["slow", "fast"])
        assert steps_of(suite.arm("fast")) == 110

    def test_nothing_is_measured_for_arms_that_need_no_time_of_others(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "benchmarks.study.equal_time._output", lambda *_: pytest.fail("measured")
        )
        assert with_equal_time(self.SUITE, tmp_path, ["slow", "slow-long"]) == self.SUITE
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("quick", "ratio", "times"), [(False, 2, 3), (True, 4, 1)])
    def test_the_median_of_several_processes_counts(
        self, tmp_path, monkeypatch, quick, ratio, times
    ):
        measured = iter(
            [{"slow": 4.0, "fast": 1.0}, {"slow": 2.0, "fast": 0.5}, {"slow": 1.0, "fast": 3.0}]
        )
        monkeypatch.setattr(
            "benchmarks.study.equal_time._output", lambda *_: json.dumps(next(measured))
        )
        suite = self.SUITE.quick() if quick else self.SUITE
        suite = with_equal_time(suite, tmp_path, ["fast"])
        assert steps_of(suite.arm("fast")) == 100 * ratio
        kept = json.loads((tmp_path / suite.name / "cost.json").read_text("utf-8"))
        (stored,) = kept["measurements"]
        assert len(stored["each"]) == times
        assert stored["seconds_a_step"]["slow"] / stored["seconds_a_step"]["fast"] == ratio

    def test_what_is_wanted_later_is_measured_then_and_what_is_there_stays(
        self, tmp_path, monkeypatch
    ):
        suite = dataclasses.replace(
            self.SUITE,
            arms=(*self.SUITE.arms, Arm("other", "configs/z.py", as_long_as="slow")),
        )
        measured: list[list[str]] = []

        def output(command, core):
            measured.append(list(command[2:]))
            costs = {"slow": 2.0, "fast": 0.5, "other": 1.0}
            if len(measured) > 3:  # a faster day
                costs = {"slow": 1.0, "fast": 0.9, "other": 0.1}
            return json.dumps({name: costs[name] for name in command[2:]})

        monkeypatch.setattr("benchmarks.study.equal_time._output", output)
        first = with_equal_time(suite, tmp_path, ["fast"])
        assert measured == [["fast", "slow"]] * 3
        assert steps_of(first.arm("fast")) == 400
        assert "duration" not in first.arm("other").keys
        both = with_equal_time(suite, tmp_path, ["fast", "other"])
        assert measured[3:] == [["other", "slow"]] * 3
        assert (steps_of(both.arm("fast")), steps_of(both.arm("other"))) == (400, 1000)
        assert with_equal_time(suite, tmp_path, ["fast", "other"]) == both
        assert len(measured) == 6

    def test_only_steps_can_be_counted(self):
        with pytest.raises(ValueError, match="'2 epochs', not in steps"):
            steps_of(Arm("x", "configs/x.py", {"duration": "2 epochs"}))

    def test_what_only_the_turn_costs_counts_for_no_arm(self, monkeypatch):
        """The first steps after another arm's are slow where they need more memory than it does."""
        larger = "larger"
        ran: list[str] = []

        @contextlib.contextmanager
        def opened(arm):
            class Ready:
                def run(self, point, steps):
                    after_another = ran and ran[-1] != arm.name
                    ran.append(arm.name)
                    return steps * 1.0 + (10.0 if arm.name == larger and after_another else 0.0)

            yield Ready()

        monkeypatch.setattr("benchmarks.study.cost._opened", opened)
        found = step_seconds([Arm("first", CONFIG), Arm(larger, CONFIG)], rounds=2, steps=5)
        assert found == {"first": 1.0, larger: 1.0}

    @pytest.mark.slow
    def test_a_step_of_each_is_measured(self, tiny: Tiny, monkeypatch):
        monkeypatch.chdir(tiny.root)
        arms = [Arm("full", CONFIG), Arm("alone", f"{CONFIG}:contrastive")]
        found = step_seconds(arms, rounds=1, steps=1)
        assert found.keys() == {"full", "alone"}
        assert min(found.values()) > 0


def test_another_study_waits_until_data_and_measurements_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order: list[str] = []
    waits = threading.Event()

    def says(*words, **_):
        order.append(words[0])
        waits.set()

    monkeypatch.setattr("builtins.print", says)

    def second():
        with one_at_a_time():
            order.append("second")

    with one_at_a_time():
        other = threading.Thread(target=second)
        other.start()
        assert waits.wait(60)
        order.append("first is through")
    other.join(60)
    assert order == [
        "waiting for another study, which makes data or measures",
        "first is through",
        "second",
    ]
