# SPDX-License-Identifier: Apache-2.0
"""Switches that one step obeys: what the image tokenizer sees, and a temperature that learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import toy_model
import toy_step
from toy_step import b, make_knobs, make_state

from cots_jax.data.transforms import Augmentation, tokenizer_view
from cots_jax.models.dvae import Dvae, DvaeConfig
from cots_jax.models.image_tokens import picture_ids
from cots_jax.objectives.momentum_filter import FilterState, filter_threshold
from cots_jax.schema import FilterConfig, HardwareConfig
from cots_jax.switches import Switch, TemperatureRule, TokenizerInput
from cots_jax.train.mesh import make_mesh
from cots_jax.train.step import AUGMENTATION


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def found_state(step):
    return jax.device_get(make_state(step))


class TestImageTokenizer:
    """Made online, ids are those of the views that the switch names; ids made before come first."""

    COLOURS = Augmentation(hue=0.5, brightness=0.9, shift=0.2)

    def tokenizer(self, size):
        config = DvaeConfig(size, size // 4, codes=toy_model.CODES, code_dim=4, width=8)
        init = quick.jit(Dvae(config).init)
        key = jax.random.key(7)
        params = init(key, jnp.zeros((1, size, size, 3)), key)["params"]
        params["to_logits"]["kernel"] *= 30.0
        return config, params

    def losses(self, size, rule, batch, given=None):
        config, params = self.tokenizer(size)
        masked = dataclasses.replace(toy_step.METHOD.masked, tokenizer_input=rule)
        method = dataclasses.replace(toy_step.METHOD, masked=masked)
        step = toy_step.make_step(make_mesh(HardwareConfig()), method=method)
        step = dataclasses.replace(
            step, image_tokenizer=config, augmentation=self.COLOURS, tokenizer_pieces=2
        )
        if given is not None:
            batch = dataclasses.replace(batch, image_tokens=given)
        found = quick.jit(step)(found_state(step), params, batch, make_knobs())
        return float(found[1]["loss/mvm"])

    @pytest.mark.parametrize(
        ("size", "rule"),
        [(toy_model.SIDE, TokenizerInput.JITTERED), (2 * toy_model.SIDE, TokenizerInput.CLEAN)],
    )
    def test_ids_made_online(self, size, rule):
        batch = toy_model.random_batch(0, b, tokens=False)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), b)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, AUGMENTATION))(keys)
        jittered = rule is TokenizerInput.JITTERED
        config, params = self.tokenizer(size)

        def view(jittered):
            pixels = tokenizer_view(
                keys, jnp.asarray(batch.image), self.COLOURS, size, jittered=jittered
            )
            return np.asarray(picture_ids(config, params, pixels[:, 0]))

        found = self.losses(size, rule, batch)
        own, other = view(jittered), view(not jittered)
        assert (own != other).any()
        np.testing.assert_allclose(found, self.losses(size, rule, batch, own), rtol=1e-12)
        assert abs(found - self.losses(size, rule, batch, other)) > 1e-3

    def test_they_are_made_in_the_pieces_asked_for(self, monkeypatch):
        config, params = self.tokenizer(toy_model.SIDE)
        step = toy_step.make_step(make_mesh(HardwareConfig()))
        step = dataclasses.replace(step, image_tokenizer=config, tokenizer_pieces=4)
        seen = []

        def ids(config, params, pixels, pieces=1):
            seen.append(pieces)
            return picture_ids(config, params, pixels)

        monkeypatch.setattr("cots_jax.train.step.picture_ids", ids)
        batch = toy_model.random_batch(0, b, tokens=False)
        jax.eval_shape(step, found_state(step), params, batch, make_knobs())
        assert set(seen) == {4}


class TestDroppedRows:
    def run(self, rule):
        """With a filter that has seen few rows, so that all of its settings count."""
        chosen = FilterConfig(kappa=0.25, momentum=0.75, list_dropped=rule)
        method = dataclasses.replace(toy_step.METHOD, reference_batch=16, filter=chosen)
        step = toy_step.make_step(make_mesh(HardwareConfig()), method=method)
        step = dataclasses.replace(step, active=frozenset({"instance"}), paused=frozenset())
        state, batch = found_state(step), toy_model.random_batch(0, b)
        seen = FilterState(np.full(2, 20.0), np.array([0.1, 0.2]), np.array([0.3, 0.4]))
        state = dataclasses.replace(state, method=dataclasses.replace(state.method, filter=seen))
        new, metrics = quick.jit(step)(state, {}, batch, make_knobs(filter_warm=True))
        return filter_threshold(new.method.filter, 0.25, 0.75, 16)[batch.source], metrics

    def test_they_are_listed_with_the_threshold_that_dropped_them(self):
        threshold, metrics = self.run(Switch.ON)
        judged = metrics["judged"]
        np.testing.assert_allclose(judged.threshold, threshold, rtol=1e-12)
        np.testing.assert_array_equal(judged.dropped, judged.similarity < judged.threshold)
        assert 0 < judged.dropped.sum() < b

    def test_they_are_not_listed_where_nobody_asks(self):
        assert "judged" not in self.run(Switch.OFF)[1]


def test_a_learned_temperature_moves_within_its_range():
    method = dataclasses.replace(
        toy_step.METHOD,
        temperature_rule=TemperatureRule.LEARNED,
        temperature_range=(0.0999, 0.1001),
    )
    step = toy_step.make_step(make_mesh(HardwareConfig()), method=method)
    state = found_state(step)
    heads = state.params["heads"] | {"log_temperature": np.log(0.1)}
    state = dataclasses.replace(
        state,
        params=state.params | {"heads": heads},
        opt_state=step.optimizer.init(state.params | {"heads": heads}),
    )
    new, metrics = quick.jit(step)(state, {}, toy_model.random_batch(0, b), make_knobs())
    assert float(metrics["temperature"]) == pytest.approx(0.1)  # what this step was made with
    after = float(np.exp(new.params["heads"]["log_temperature"]))
    assert after in (pytest.approx(0.0999, rel=1e-9), pytest.approx(0.1001, rel=1e-9))
