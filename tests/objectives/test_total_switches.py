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


def shared(image_every: int = 1, text_every: int = 1):
    masked = dataclasses.replace(
        MASKED, forward=Forward.SHARED, image_every=image_every, text_every=text_every
    )
    return dataclasses.replace(METHOD, masked=masked)


def separate(method):
    masked = dataclasses.replace(method.masked, forward=Forward.SEPARATE)
    return dataclasses.replace(method, masked=masked)


@pytest.mark.parametrize(
    "method", [shared(), shared(2, 1), shared(1, 3), shared(3, 2)], ids=["all", "2-1", "1-3", "3-2"]
)
class TestSharedForward:
    def joints(self, method, mask, text):
        """Row by row: hidden in every so many-th row, whole in the others."""
        views, params = views_of(method, default_batch()), params_of(method)
        model, rows = toy_model.toy_model(method.masked), len(views.text)
        image_mask, read = np.zeros(views.image_tokens.shape[1:], bool), np.array(views.text)
        image_mask = np.tile(image_mask, (rows, 1))
        if mask:
            image_mask[:: method.masked.image_every] = views.image_mask
        if text:
            read[:: method.masked.text_every] = views.masked_text.text
        image = model.encode_image(params["towers"], views.image, jnp.asarray(image_mask))
        found = model.encode_text(params["towers"], jnp.asarray(read), views.text_length)
        return np.asarray(image.joint), np.asarray(found.joint)

    @pytest.mark.parametrize(("mvm", "mlm"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
    def test_retrieval_reads_the_views_that_are_masked_now(self, method, mvm, mlm):
        """An objective without a weight at this step hides nothing."""
        batch = default_batch()
        image, text = self.joints(method, mvm > 0, mlm > 0)
        queue, own_image, own_text = (jax.tree.map(np.asarray, x) for x in candidates())
        pairs = oracles.Pairs(image, text, own_image, own_text, batch.group_id)
        columns = oracles.columns_of(queue.image, queue.text, queue.group_id, queue.valid)
        counted = np.flatnonzero(batch.weight)
        wanted = np.mean([oracles.instance_loss(pairs, i, columns, 0.1) for i in counted])
        found = means_of(run(method, instance=1.0, mvm=mvm, mlm=mlm))
        np.testing.assert_allclose(found["instance"], wanted, rtol=1e-11)

    @pytest.mark.parametrize("objective", ["mvm", "mlm"])
    def test_alone_a_masked_objective_has_the_value_of_a_separate_pass(self, method, objective):
        """Its partner is whole then, as only its own side is hidden."""
        (one, _), _ = run(method, **{objective: 1.0})
        (other, _), _ = run(separate(method), **{objective: 1.0})
        np.testing.assert_allclose(one, other, rtol=1e-12)

    def test_together_each_sees_the_other_masked(self, method):
        """In rows that have both."""
        one, other = means_of(run(method)), means_of(run(separate(method)))
        for objective in ("mvm", "mlm"):
            assert abs(one[objective] - other[objective]) > 1e-4

    def test_it_runs_each_tower_once(self, method):
        calls = []

        class Counting(toy_model.ToyTwoStream):
            def encode_image(self, towers, image, mask=None, positions=None):
                calls.append("image")
                return super().encode_image(towers, image, mask, positions)

            def encode_text(self, towers, text, length, positions=None):
                calls.append("text")
                return super().encode_text(towers, text, length, positions)

        tools = tools_of(method, ALL, NONE)
        model = Counting(toy_model.SHAPE, method.masked, toy_model.CODES, TOKEN)
        views = views_of(method, default_batch())
        queue, own_image, own_text = candidates()
        keys = Rows(own_image, own_text, views.group_id, views.row)
        counts = denominators(views, model)
        tools = dataclasses.replace(tools, model=model)
        params = jax.tree.map(jnp.asarray, params_of(method))
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
