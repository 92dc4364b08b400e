# SPDX-License-Identifier: Apache-2.0
"""Signs that a run goes wrong."""

import math

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from cots_jax.objectives.queue import empty_queue, enqueue
from cots_jax.train.health import FEW, Spikes, concerns, momentum_distance, queue_health
from cots_jax.train.pace import Pace


def filled(image, text, keep):
    queue = empty_queue(8, image.shape[1], shards=3)  # of 9 columns
    keys = (jnp.asarray(x) for x in (image, text, np.arange(len(image), dtype=np.int32), keep))
    return enqueue(queue, *keys, length=8)


def measured(queue, length):
    return {name: float(value) for name, value in queue_health(queue, length).items()}


def test_a_queue_half_full_of_keys_that_point_everywhere_and_of_one_key():
    rng = np.random.default_rng(0)
    image = oracles.unit_rows(rng, 6, 4).astype(np.float32)
    text = np.tile(image[:1], (6, 1))
    keep = np.array([True, True, False, True, True, False])
    found = measured(filled(image, text, keep), 8)
    assert found["queue/valid"] == pytest.approx(0.5)
    wanted = np.linalg.norm(image[keep].mean(axis=0))
    assert found["queue/alike_image"] == pytest.approx(wanted, rel=1e-6) and wanted < 0.9
    assert found["queue/alike_text"] == pytest.approx(1, rel=1e-6)
    (said,) = concerns(found)
    assert "the text keys of the queue are all but one" in said


def test_a_dead_queue_is_said_and_an_unknown_one_is_not():
    found = measured(empty_queue(4, 3), 4)
    (said,) = concerns(found)
    assert "the queue is dead" in said
    assert concerns({"gradient_share/mvm": 0.0}) == []


def test_distance_of_the_momentum_towers():
    online = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.0])}
    momentum = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([1.0])}
    assert momentum_distance(online, momentum) == pytest.approx(0.2)


class TestSpikes:
    def said(self, losses):
        spikes = Spikes()
        return [bool(spikes.consider(step, loss)) for step, loss in enumerate(losses)]

    def test_a_jump_is_said_as_long_as_it_lasts_and_a_fall_is_not(self):
        calm = [5 + 0.05 * (-1) ** number for number in range(FEW)]
        assert self.said([*calm, 9.0, 9.0, 5.0, 1.0]) == [False] * FEW + [True, True, False, False]

    def test_noise_is_no_spike(self):
        assert not any(self.said(5 + np.random.default_rng(0).normal(0, 0.3, 500)))

    def test_the_first_losses_say_nothing(self):
        assert not any(self.said([1.0, 50.0, 3.0]))

    @pytest.mark.parametrize("position", range(FEW))
    def test_a_loss_that_is_no_number_hides_no_spike(self, position):
        losses = [1 + 0.05 * number for number in range(FEW)]
        losses.insert(position, math.nan)
        assert self.said([*losses, 50.0])[-1]

    def test_a_loss_that_hardly_moves_has_no_spikes_in_its_last_digits(self):
        assert not any(self.said([5.0] * FEW + [5.001]))


class TestPace:
    def test_of_one_process(self):
        pace = Pace()
        assert pace.look().numbers == {}
        for step in (0.1, 0.2, 0.6):
            pace.add(step, own=0.05)
        paced = pace.look()
        assert paced.numbers["step_p50"] == pytest.approx(0.2)
        assert paced.numbers["step_max"] == pytest.approx(0.6) and paced.straggler == ""

    def test_a_process_that_stays_late_is_named(self):
        pace, late = Pace(), np.array([0.01, 0.011, 0.05, 0.01])
        assert pace.straggler(late, step=0.2) == ""  # once is noise
        said = pace.straggler(late, step=0.2)
        assert said.startswith("process 2 is 39.5 ms a step behind the others (20% of a step)")

    def test_equals_and_those_who_take_turns_are_not(self):
        pace = Pace()
        for own in ([0.15, 0.151], [0.15, 0.151], [0.0, 0.1], [0.1, 0.0], [0.0, 0.1]):
            assert pace.straggler(np.array(own), step=0.2) == ""
