# SPDX-License-Identifier: Apache-2.0
"""The scheduled numbers of a step, which the host computes from the step alone."""

import numpy as np
import pytest

from cots_jax.config import build_config
from cots_jax.schedule import Clockwork
from cots_jax.train.cots import CotsTask, read_schedules


def knobs_at(step, batch, **method):
    config = build_config(
        {
            "name": "x",
            "data": {"train": "a#b", "eval": "a#c"},
            "model": "tiny-16",
            "duration": "100 steps",
            "batch": batch,
            "optimizer": {"learning_rate": "0 @ 0%, 1 @ 10%"},
            "method": method,
        }
    )
    task = object.__new__(CotsTask)
    task.config = config
    task.schedules = read_schedules(config, Clockwork(batch, 1000, 100))
    return task.knobs(step)


@pytest.mark.parametrize("batch", [16, 64, 512])
def test_the_teacher_is_as_fast_at_any_batch(batch):
    knobs = knobs_at(0, batch, momentum="0.99", reference_batch=64)
    np.testing.assert_allclose(knobs.momentum, 0.99 ** (batch / 64), rtol=1e-6)
    assert abs(knobs.momentum ** (64 / batch) - 0.99) < 1e-6


def test_schedules():
    switches = {"weight_task": "0 @ 10%, 0.5 @ 40%", "weight_mvm": "0"}
    switches["filter"] = {"warmup": "15%"}
    knobs = [knobs_at(step, 16, **switches) for step in (0, 5, 25, 90)]
    np.testing.assert_allclose([knob.learning_rate for knob in knobs], [0, 0.5, 1, 1])
    np.testing.assert_allclose([knob.weights.task for knob in knobs], [0, 0, 0.25, 0.5])
    assert {float(knob.weights.mvm) for knob in knobs} == {0.0}
    assert [bool(knob.filter_warm) for knob in knobs] == [False, False, True, True]


def test_each_weight_and_the_momentum_have_a_schedule_of_their_own():
    names = ("instance", "mvm", "mlm", "task")
    weights = {f"weight_{name}": f"0 @ 0%, {n / 5} @ 100%" for n, name in enumerate(names, 1)}
    knobs = knobs_at(50, 16, momentum="0.5 @ 0%, 0.7 @ 100%", reference_batch=16, **weights)
    found = [float(knobs.weights.named()[name]) for name in names]
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(knobs.momentum, 0.6, rtol=1e-6)
