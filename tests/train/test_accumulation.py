# SPDX-License-Identifier: Apache-2.0
"""A batch cut into pieces gives the same step as the batch at once, in float64."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy_model
import toy_step

from cots_jax.schema import HardwareConfig
from cots_jax.train.mesh import make_mesh


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def after_two_steps(pieces):
    """A dropped and a padded row among them; the second step sees the first one's queue."""
    state = jax.device_get(toy_step.make_state(toy_step.make_step(make_mesh(HardwareConfig()))))
    losses = []
    for seed in (0, 1):
        batch = toy_model.random_batch(seed, toy_step.b)
        batch = toy_model.changed(batch, weight=lambda w: w.__setitem__(6, 0))
        knobs = toy_step.make_knobs(filter_warm=True, learning_rate=0.1)
        state, metrics = toy_step.compiled(pieces)(state, {}, batch, knobs)
        losses.append(jax.device_get(metrics))
    return jax.device_get(state), losses


@pytest.mark.parametrize("pieces", [2, 4])
def test_pieces_change_nothing(pieces):
    (whole, losses), (cut, again) = after_two_steps(1), after_two_steps(pieces)
    for one, other in zip(jax.tree.leaves((cut, again)), jax.tree.leaves((whole, losses))):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)
    for name in ("group_id", "valid", "cursor"):
        one, other = (getattr(state.method.queue, name) for state in (cut, whole))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_no_more_than_a_piece_is_encoded_at_once(pieces):
    rows = []

    class Counting(toy_model.ToyTwoStream):
        def encode_image(self, towers, image, mask=None, positions=None):
            rows.append(len(image))
            return super().encode_image(towers, image, mask, positions)

    step = toy_step.make_step(make_mesh(HardwareConfig()), pieces)
    model = Counting(
        **{f.name: getattr(step.model, f.name) for f in dataclasses.fields(step.model)}
    )
    state, batch = toy_step.make_state(step), toy_model.random_batch(0, toy_step.b)
    step = dataclasses.replace(step, model=model)
    jax.eval_shape(step, state, {}, batch, toy_step.make_knobs())
    assert max(rows) == toy_step.b // pieces


def test_the_problem_is_not_trivial():
    state, losses = after_two_steps(1)
    assert not state.method.queue.valid.all()
    assert state.skipped == 0
    assert 0 < min(metrics["kept/0"] + metrics["kept/1"] for metrics in losses) < 2
    for name in ("instance", "mvm", "mlm", "task"):
        assert losses[0][f"loss/{name}"] != losses[1][f"loss/{name}"]
