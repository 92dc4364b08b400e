# SPDX-License-Identifier: Apache-2.0
"""Traces of the steps that were asked for."""

import jax
import jax.numpy as jnp
import pytest

from cots_jax.errors import UserError
from cots_jax.train.trace import Steps, Trace


@pytest.mark.parametrize(("text", "steps"), [("7", Steps(7, 7)), ("100-110", Steps(100, 110))])
def test_steps_are_read(text, steps):
    assert Steps.parse(text) == steps


@pytest.mark.parametrize("text", ["0", "9-3", "a-b", "-5", "3-", "1.5"])
def test_what_names_no_steps_is_refused(text):
    with pytest.raises(UserError, match="write FIRST-LAST"):
        Steps.parse(text)


def test_a_trace_begins_and_ends_where_it_should(tmp_path):
    trace, there = Trace(tmp_path / "profile", Steps(2, 3)), []
    for done in range(5):
        trace.at(done)
        jnp.ones(3).block_until_ready()
        there.append(any(tmp_path.rglob("*.xplane.pb")))
    trace.close()
    assert there == [False, False, False, True, True]
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


class Running:
    """An array that the devices are still at."""

    def __init__(self, said):
        self._said = said

    def block_until_ready(self):
        self._said.append("waited")


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        (0, [1, "waited", "begun", 2, 3, "waited", "ended", 4]),
        (2, ["waited", "begun", 3, "waited", "ended", 4]),  # a run that was started again
        (3, [4]),
    ],
)
def test_steps_are_recorded_to_their_end_and_what_is_left_of_them(
    tmp_path, monkeypatch, start, wanted
):
    said = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: said.append("begun"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: said.append("ended"))
    trace = Trace(tmp_path, Steps(2, 3))
    for done in range(start, 4):
        trace.at(done, Running(said))
        said.append(done + 1)
    trace.close()
    assert said == wanted


def test_steps_that_a_run_does_not_come_to():
    steps = Steps(5, 8)
    assert [steps.within(*run) for run in ((0, 4), (0, 5), (7, 9), (8, 9))] == [
        *(False, True, True, False)
    ]


def test_a_run_that_ends_earlier_leaves_what_it_has(tmp_path):
    trace = Trace(tmp_path / "profile", Steps(1, 99))
    trace.at(0)
    trace.close()
    trace.close()
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    Trace(tmp_path / "nothing", None).at(0)
    assert not (tmp_path / "nothing").exists()
