# SPDX-License-Identifier: Apache-2.0
"""A forward that all objectives share, and a temperature that is learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
import toy_model
from toy_losses import (
    ALL,
    MASKED,
    METHOD,
    NONE,
    TOKEN,
    candidates,
    default_batch,
    means_of,
    params_of,
    run,
    tools_of,
    value_of,
    views_of,
)

from cots_jax.objectives.contrastive import Rows
from cots_jax.objectives.total import (
    OBJECTIVES,
    Candidates,
    Terms,
    denominators,
    losses,
)
from cots_jax.switches import Forward, TemperatureRule


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class TestSharedForward:
    SHARED = dataclasses.replace(METHOD, masked=dataclasses.replace(MASKED, forward=Forward.SHARED))

    def joints(self, mask, text):
        views, params = views_of(self.SHARED, default_batch()), params_of(self.SHARED)
        model = toy_model.toy_model(self.SHARED.masked)
        image = model.encode_image(params["towers"], views.image, views.image_mask & mask)
        seen = views.masked_text.text if text else views.text
        return image.joint, model.encode_text(params["towers"], seen, views.text_length).joint

    @pytest.mark.parametrize(("mvm", "mlm"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
    def test_retrieval_reads_the_views_that_are_masked_now(self, mvm, mlm):
        """An objective without a weight at this step hides nothing."""
        batch = default_batch()
        image, text = (np.asarray(x) for x in self.joints(mvm > 0, mlm > 0))
        queue, own_image, own_text = (jax.tree.map(np.asarray, x) for x in candidates())
        pairs = oracles.Pairs(image, text, own_image, own_text, batch.group_id)
        columns = oracles.columns_of(queue.image, queue.text, queue.group_id, queue.valid)
        counted = np.flatnonzero(batch.weight)
        wanted = np.mean([oracles.instance_loss(pairs, i, columns, 0.1) for i in counted])
        found = means_of(run(self.SHARED, instance=1.0, mvm=mvm, mlm=mlm))
        np.testing.assert_allclose(found["instance"], wanted, rtol=1e-11)

    @pytest.mark.parametrize("objective", ["mvm", "mlm"])
    def test_alone_a_masked_objective_has_the_value_of_a_separate_pass(self, objective):
        """Its partner is whole then, as only its own side is hidden."""
        (shared, _), _ = run(self.SHARED, **{objective: 1.0})
        (separate, _), _ = run(**{objective: 1.0})
        np.testing.assert_allclose(shared, separate, rtol=1e-12)

    def test_together_each_sees_the_other_masked(self):
        shared, separate = means_of(run(self.SHARED)), means_of(run())
        for objective in ("mvm", "mlm"):
            assert abs(shared[objective] - separate[objective]) > 1e-4

    def test_it_runs_each_tower_once(self):
        calls = []

        class Counting(toy_model.ToyTwoStream):
            def encode_image(self, towers, image, mask=None):
                calls.append("image")
                return super().encode_image(towers, image, mask)

            def encode_text(self, towers, text, length):
                calls.append("text")
                return super().encode_text(towers, text, length)

        tools = tools_of(self.SHARED, ALL, NONE)
        model = Counting(toy_model.SHAPE, self.SHARED.masked, toy_model.CODES, TOKEN)
        views = views_of(self.SHARED, default_batch())
        queue, own_image, own_text = candidates()
        keys = Rows(own_image, own_text, views.group_id, views.row)
        counts = denominators(views, model)
        tools = dataclasses.replace(tools, model=model)
        params = jax.tree.map(jnp.asarray, params_of(self.SHARED))
        losses(params, tools, views, Candidates(keys, (queue,)), Terms(1, 1, 1, 1), counts)
        assert sorted(calls) == ["image", "text"]


class TestLearnedTemperature:
    LEARNED = dataclasses.replace(METHOD, temperature_rule=TemperatureRule.LEARNED)

    def loss(self, objective, method=LEARNED):
        views, tools = views_of(method, default_batch()), tools_of(method, ALL, NONE)
        queue, own_image, own_text = candidates()
        keys = Rows(own_image, own_text, views.group_id, views.row)
        weights = Terms(**dict.fromkeys(OBJECTIVES, 0.0) | {objective: 1.0})

        def of(log_temperature):
            params = jax.tree.map(jnp.asarray, params_of(method))
            params["heads"] |= {"log_temperature": log_temperature}
            counts = denominators(views, tools.model)
            found = Candidates(keys, (queue,))
            return losses(params, tools, views, found, weights, counts).total

        return quick.jit(jax.value_and_grad(of))

    @pytest.mark.parametrize("temperature", [0.1, 0.3])
    def test_the_parameter_is_the_temperature(self, temperature):
        found, slope = self.loss("instance")(jnp.log(temperature))
        fixed = dataclasses.replace(METHOD, temperature=temperature)
        ((wanted, _),) = value_of(fixed, "instance")
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        step = 1e-6
        above, below = (self.loss("instance")(jnp.log(temperature) + s)[0] for s in (step, -step))
        np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)

    def test_the_alignment_cannot_buy_agreement_with_it(self):
        value, slope = self.loss("task")(jnp.log(0.1))
        assert value > 0
        assert slope == 0
