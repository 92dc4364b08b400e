# SPDX-License-Identifier: Apache-2.0
"""All objectives together on the toy model: values, switches, denominators and gradient flows."""

import dataclasses
import functools

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
    b,
    candidates,
    default_batch,
    k,
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
    masked_patches,
)
from cots_jax.schema import AlignmentConfig
from cots_jax.switches import Condition, Direction, Forward, Gradient, Merge, SameGroup, Teacher


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def encoded(method):
    """What the towers and the heads give: all that the oracles need, computed apart."""
    batch, params = default_batch(), params_of(method)
    model, views = toy_model.toy_model(method.masked), views_of(method, batch)
    image_every, text_every = method.masked.image_every, method.masked.text_every

    @quick.jit
    def compute(params, views):
        towers, heads = params["towers"], params["heads"]
        image = model.encode_image(towers, views.image)
        text = model.encode_text(towers, views.text, views.text_length)
        patches = toy_model.everywhere(*views.image_mask.shape)
        seen = model.encode_image(towers, views.image[::image_every], views.image_mask, patches)
        length = views.text_length[::text_every]
        tokens = toy_model.everywhere(*views.masked_text.text.shape)
        read = model.encode_text(towers, views.masked_text.text, length, tokens)
        codes = model.predict_codes(heads, seen.tokens, text.cls[::image_every])
        words = model.predict_words(heads, towers, read.tokens, image.cls[::text_every])
        return image.joint, text.joint, codes, words

    return [np.asarray(x) for x in compute(params, views)]


class TestValues:
    def test_both_retrieval_levels_agree_with_the_oracle(self):
        batch = default_batch()
        image, text, _, _ = encoded(METHOD)
        queue, own_image, own_text = (jax.tree.map(np.asarray, x) for x in candidates())
        pairs = oracles.Pairs(image, text, own_image, own_text, batch.group_id)
        columns = oracles.columns_of(queue.image, queue.text, queue.group_id, queue.valid)
        counted = np.flatnonzero(batch.weight)
        found = means_of(run())
        instance = np.mean([oracles.instance_loss(pairs, i, columns, 0.1) for i in counted])
        task = np.mean([oracles.alignment(pairs, i, columns, 0.1) for i in counted])
        np.testing.assert_allclose(found["instance"], instance, rtol=1e-11)
        np.testing.assert_allclose(found["task"], task, rtol=1e-11)

    @pytest.mark.parametrize("every", [1, 2])
    def test_masked_vision_modelling_agrees_with_the_oracle(self, every):
        method, batch = with_masked(image_every=every), default_batch()
        codes = encoded(method)[2]
        entropies = [
            -oracles.log_softmax(codes[place, j])[batch.image_tokens[i, j]]
            for place, i in enumerate(range(0, b, every))
            for j in np.flatnonzero(batch.image_mask[i])
            if batch.weight[i]
        ]
        ((mean, count),) = value_of(method, "mvm")
        assert count == len(entropies)
        np.testing.assert_allclose(mean, np.mean(entropies), rtol=1e-11)

    @pytest.mark.parametrize("every", [1, 2])
    def test_masked_language_modelling_agrees_with_the_oracle(self, every):
        method, batch = with_masked(text_every=every), default_batch()
        masked, words = views_of(method, batch).masked_text, encoded(method)[3]
        entropies = [
            -oracles.log_softmax(words[place, at])[batch.text[i, at]]
            for place, i in enumerate(range(0, b, every))
            for at, used in zip(masked.positions[place], masked.weight[place])
            if used and batch.weight[i]
        ]
        ((mean, count),) = value_of(method, "mlm")
        assert count == len(entropies)
        np.testing.assert_allclose(mean, np.mean(entropies), rtol=1e-11)

    def test_the_total_is_the_weighted_sum_of_the_means(self):
        weights = {"instance": 1.0, "mvm": 0.5, "mlm": 0.25, "task": 2.0}
        found = run(**weights)
        means = means_of(found)
        wanted = sum(weights[name] * means[name] for name in OBJECTIVES)
        np.testing.assert_allclose(found[0][0], wanted, rtol=1e-12)
        assert all(value > 0 for value in means.values())

    def test_a_batch_that_is_dropped_whole_is_harmless(self):
        batch = toy_model.changed(default_batch(), weight=np.zeros(b, np.float32))
        (total, _), grads = run(batch=batch)
        assert total == 0
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))

    @pytest.mark.parametrize("paused", [ALL, TOKEN, NONE])
    def test_only_what_pauses_is_asked_whether_it_is_on(self, paused):
        jaxpr = gradient_jaxpr(tools_of(METHOD, ALL, paused))
        names = [equation.primitive.name for equation in oracles.equations(jaxpr)]
        assert (names.count("cond") > 0) == bool(paused)

    def test_no_number_is_narrowed(self):
        assert not oracles.downcasts(gradient_jaxpr(tools_of(METHOD, ALL, ALL)))


def gradient_jaxpr(tools):
    views = views_of(METHOD, default_batch())
    queue, own_image, own_text = candidates()
    keys = Rows(own_image, own_text, views.group_id, views.row)
    weights = Terms(*[jnp.asarray(1.0)] * 4)

    def loss(params):
        counts = denominators(views, tools.model)
        return losses(params, tools, views, Candidates(keys, (queue,)), weights, counts).total

    return jax.make_jaxpr(jax.grad(loss))(params_of(METHOD)).jaxpr


def with_masked(**switches):
    return dataclasses.replace(METHOD, masked=dataclasses.replace(MASKED, **switches))


def with_alignment(**switches):
    return dataclasses.replace(METHOD, alignment=AlignmentConfig(**switches))


class TestSwitches:
    """Each would pass unseen if the code did not look at it."""

    @pytest.mark.parametrize(
        ("objective", "method"),
        [
            ("instance", dataclasses.replace(METHOD, same_group=SameGroup.NEGATIVE)),
            ("instance", dataclasses.replace(METHOD, same_group=SameGroup.POSITIVE)),
            ("instance", dataclasses.replace(METHOD, temperature=0.2)),
            ("task", dataclasses.replace(METHOD, same_group=SameGroup.NEGATIVE)),
            ("task", dataclasses.replace(METHOD, temperature=0.2)),
            ("task", with_alignment(direction=Direction.IMAGE_TO_TEXT)),
            ("task", with_alignment(direction=Direction.TEXT_TO_IMAGE)),
            ("task", with_alignment(teacher=Teacher.MOMENTUM)),
            ("task", with_alignment(temperature=0.2)),
            ("mvm", with_masked(image_ratio=0.25)),
            ("mvm", with_masked(image_every=2)),
            ("mvm", with_masked(merge=Merge.CONCAT)),
            ("mvm", with_masked(condition=Condition.JOINT)),
            ("mlm", with_masked(text_ratio=0.2)),
            ("mlm", with_masked(text_every=2)),
            ("mlm", with_masked(merge=Merge.CONCAT)),
            ("mlm", with_masked(condition=Condition.JOINT)),
        ],
    )
    def test_the_value_follows_the_switch(self, objective, method):
        ((before, _),) = value_of(METHOD, objective)
        ((after, _),) = value_of(method, objective)
        assert abs(before - after) > 1e-4

    def test_column_chunks_change_nothing(self):
        whole = value_of(METHOD, "instance", "task")
        chunked = value_of(dataclasses.replace(METHOD, column_chunk=2), "instance", "task")
        np.testing.assert_allclose(whole, chunked, rtol=1e-12)

    @pytest.mark.parametrize("objective", ["instance", "task"])
    def test_no_more_than_a_chunk_of_logits_is_there_at_once(self, objective):
        def kinds(column_chunk):
            method = dataclasses.replace(METHOD, column_chunk=column_chunk)
            jaxpr = gradient_jaxpr(tools_of(method, frozenset({objective}), NONE))
            return oracles.shapes(jaxpr)

        assert (b, k) in kinds(0)
        assert (b, k) not in kinds(2)
        assert (b, 2) in kinds(2)

    def test_the_share_of_masked_patches(self):
        model = toy_model.toy_model(toy_model.half_masked(image_ratio=0.4))
        assert masked_patches(model) == 6  # of 16

    def test_a_stopped_teacher_has_the_value_of_an_online_one(self):
        (online, _), online_grads = run(task=1.0)
        method = with_alignment(teacher=Teacher.STOPPED)
        (stopped, _), stopped_grads = run(method, active=frozenset({"task"}))
        np.testing.assert_allclose(online, stopped, rtol=1e-12)
        norms = [norm(grads, "towers", "image") for grads in (online_grads, stopped_grads)]
        assert abs(norms[0] / norms[1] - 1) > 1e-3


def norm(grads, *path):
    for name in path:
        grads = grads[name]
    return np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(grads)))


class TestGradients:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_both_towers_learn_from_each_objective_and_nothing_else_does(self, objective):
        _, grads = run(**{objective: 1.0})
        for tower in ("image", "text"):
            assert norm(grads, "towers", tower) > 1e-3
        for head in ("mvm", "mlm"):
            assert (norm(grads, "heads", head) > 0) == (head == objective)

    @pytest.mark.parametrize(("objective", "partner"), [("mvm", "text"), ("mlm", "image")])
    def test_the_partner_can_be_held_fixed(self, objective, partner):
        (value, _), _ = run(**{objective: 1.0})
        stopped = with_masked(gradient=Gradient.STOP)
        (again, _), grads = run(stopped, active=TOKEN, **{objective: 1.0})
        np.testing.assert_allclose(value, again, rtol=1e-12)
        own = "text" if partner == "image" else "image"
        assert norm(grads, "towers", partner) == 0
        assert norm(grads, "towers", own) > 1e-3

    def test_only_the_joint_condition_reaches_the_projection(self):
        for condition, reached in ((Condition.CLS, False), (Condition.JOINT, True)):
            method = with_masked(condition=condition)
            for objective, partner in (("mvm", "text"), ("mlm", "image")):
                _, grads = run(method, active=TOKEN, **{objective: 1.0})
                assert (norm(grads, "towers", partner, "projection") > 0) == reached

    @pytest.mark.parametrize("forward", [Forward.SEPARATE, Forward.SHARED])
    def test_what_may_pause_has_the_gradients_of_what_may_not(self, forward):
        method = with_masked(forward=forward, text_every=1, image_every=1)
        weights = {"instance": 1.0, "mvm": 0.5, "mlm": 0.25, "task": 2.0}
        (total, _), grads = run(method, paused=NONE, **weights)
        (again, _), paused = run(method, paused=ALL, **weights)
        np.testing.assert_allclose(again, total, rtol=1e-12)
        for one, other in zip(*map(jax.tree.leaves, (paused, grads))):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-13)

    def test_weight_zero_stops_an_objective_whether_paused_or_not(self):
        # Alone, it is computed without any head: the others really cost nothing.
        (alone, _), only = run(active=frozenset({"instance"}))
        for paused in (ALL, NONE):
            (total, _), grads = run(paused=paused, instance=1.0)
            assert norm(grads, "heads") == 0
            np.testing.assert_allclose(total, alone, rtol=1e-12)
            for one, other in zip(*map(jax.tree.leaves, (grads["towers"], only["towers"]))):
                np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


class TestRowsThatDoNotCount:
    def spoilt(self):
        """Row 1, of weight 0, as the loader pads: nothing masked, no text, no group."""

        def blank(value):
            return lambda column: column.__setitem__(1, value)

        return toy_model.changed(
            default_batch(),
            image=blank(77),
            image_mask=blank(False),
            text=blank(0),
            text_length=blank(0),
            group_id=blank(-1),
            pair_id=blank(-1),
            image_tokens=blank(0),
        )

    def test_they_change_neither_loss_nor_gradient(self):
        (total, _), grads = run()
        (again, _), spoilt = run(batch=self.spoilt())
        np.testing.assert_allclose(again, total, rtol=1e-13)
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(spoilt)):
            np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-15)
