# SPDX-License-Identifier: Apache-2.0
"""One COTS step: its order, and what dropped, padded and broken rows do."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
import toy_model
import toy_step
from toy_step import CURSOR, STORED, b, compiled, k, make_knobs, make_state, only

from cots_jax.data.masking import drop_words
from cots_jax.data.transforms import normalise
from cots_jax.objectives.contrastive import Rows
from cots_jax.schema import HardwareConfig
from cots_jax.switches import Negatives, Switch
from cots_jax.train.mesh import make_mesh
from cots_jax.train.step import WORD_DROPOUT, RowInputs

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def the_step():
    return toy_step.make_step(make_mesh(HardwareConfig()))


@functools.cache
def found_state():
    return jax.device_get(make_state(the_step()))


def the_batch():
    return toy_model.random_batch(0, b)


def run(state=None, batch=None, **knobs):
    new, metrics = compiled()(state or found_state(), {}, batch or the_batch(), make_knobs(**knobs))
    return jax.device_get(new), jax.device_get(metrics)


@functools.cache
def encoder():
    model = the_step().model

    @quick.jit
    def encode(towers, image, text, length):
        view = normalise(image, HALF, HALF)
        joint = model.encode_image(towers, view).joint
        return joint, model.encode_text(towers, text, length).joint

    return encode


def features(towers, batch):
    found = encoder()(towers, batch.image, batch.text, batch.text_length)
    return [np.asarray(feature) for feature in found]


def gradients(**weights):
    """With plain descent at rate 1, what the first step takes off the parameters."""
    new, _ = run(**only(**weights))
    return jax.tree.map(lambda old, new: old - new, found_state().params, new.params)


def size(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


def assert_same(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(x, y, **tolerance)


class TestOrder:
    def test_the_losses_compare_online_features_with_keys_and_queue_as_found(self):
        state, batch = found_state(), the_batch()
        pairs = oracles.Pairs(
            *features(state.params["towers"], batch),
            *features(state.method.momentum_params, batch),
            batch.group_id,
        )
        queue = state.method.queue
        columns = oracles.columns_of(queue.image, queue.text, queue.group_id, queue.valid)
        keys = (pairs.image_key, pairs.text_key, pairs.group, np.ones(b, bool))
        columns += oracles.columns_of(*keys, rows=range(b))
        _, metrics = run()
        instance = np.mean([oracles.instance_loss(pairs, i, columns, 0.1) for i in range(b)])
        task = np.mean([oracles.alignment(pairs, i, columns, 0.1) for i in range(b)])
        np.testing.assert_allclose(metrics["loss/instance"], instance, rtol=1e-10)
        np.testing.assert_allclose(metrics["loss/task"], task, rtol=1e-10)
        weights = {"instance": 1.0, "mvm": 0.5, "mlm": 0.25, "task": 2.0}
        total = sum(weight * metrics[f"loss/{name}"] for name, weight in weights.items())
        np.testing.assert_allclose(metrics["loss"], total, rtol=1e-12)

    def test_the_queue_takes_the_keys_of_the_momentum_towers_as_found(self):
        state, batch = found_state(), the_batch()
        image, text = features(state.method.momentum_params, batch)
        new, _ = run()
        at = (CURSOR + np.arange(b)) % k
        queue = new.method.queue
        np.testing.assert_allclose(queue.image[at], image, rtol=1e-12)
        np.testing.assert_allclose(queue.text[at], text, rtol=1e-12)
        np.testing.assert_array_equal(queue.group_id[at], batch.group_id)
        assert queue.valid[at].all()
        assert queue.cursor == (CURSOR + b) % k
        others = np.setdiff1d(np.arange(STORED), at)
        for name in ("image", "text", "group_id", "valid"):
            before = getattr(state.method.queue, name)
            np.testing.assert_array_equal(getattr(queue, name)[others], before[others])

    def test_momentum_follows_the_new_parameters(self):
        new, _ = run(momentum=0.75)
        assert size(gradients(instance=1)["towers"]) > 1e-3
        wanted = jax.tree.map(
            lambda m, p: 0.75 * m + 0.25 * p,
            found_state().method.momentum_params,
            new.params["towers"],
        )
        assert_same(new.method.momentum_params, wanted, rtol=1e-13)

    def test_the_rate_scales_the_update(self):
        half, whole = (run(learning_rate=rate)[0].params for rate in (0.5, 1.0))
        old = found_state().params
        moves = [jax.tree.map(np.subtract, new, old) for new in (half, whole)]
        assert_same(jax.tree.map(lambda x: 2 * x, moves[0]), moves[1], rtol=1e-9, atol=1e-14)

    def test_counts(self):
        new, metrics = run()
        assert metrics["columns"] == found_state().method.queue.valid.sum() + b - 1
        assert new.step == 1
        assert new.skipped == metrics["skipped"] == 0

    def test_the_same_step_twice_is_the_same(self):
        (one, _), (other, _) = run(), run()
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
            np.testing.assert_array_equal(x, y)

    def test_random_choices_depend_on_seed_and_step(self):
        _, metrics = run()
        later = dataclasses.replace(found_state(), step=np.int32(1))
        reseeded = dataclasses.replace(make_knobs(), seed=np.uint32(4))
        _, at_step = run(later)
        _, at_seed = compiled()(found_state(), {}, the_batch(), reseeded)
        losses = {float(found["loss/mlm"]) for found in (metrics, at_step, at_seed)}
        assert len(losses) == 3
        assert metrics["loss/instance"] == at_step["loss/instance"] == at_seed["loss/instance"]

    def test_no_number_is_narrowed(self):
        placed = jax.tree.map(jnp.asarray, (found_state(), {}, the_batch(), make_knobs()))
        assert not oracles.downcasts(jax.make_jaxpr(the_step())(*placed).jaxpr)


def judge(filter_warm=True, **switches):
    """What the filter makes of a batch, with another FilterConfig or reference batch."""
    method, found = toy_step.METHOD, dataclasses.replace
    reference = switches.pop("reference_batch", method.reference_batch)
    method = found(method, reference_batch=reference, filter=found(method.filter, **switches))
    step = toy_step.make_step(make_mesh(HardwareConfig()), method=method)

    @quick.jit
    def judged(state, keys, batch, knobs):
        return step._judge(state, keys, batch, knobs)

    rng = np.random.default_rng(0)
    keys = Rows(
        *(oracles.unit_rows(rng, b, toy_model.EMBED) for _ in range(2)),
        group_id=the_batch().group_id,
        row=np.arange(b),
    )
    knobs = make_knobs(filter_warm=filter_warm)
    return jax.device_get(judged(found_state().method.filter, keys, the_batch(), knobs))


class TestSwitches:
    """Each would pass unseen if the step did not look at it."""

    def test_filter_switches(self):
        base = judge(kappa=0.5)
        assert 0 < base.keep.sum() < b
        assert judge(state=Switch.OFF, kappa=0.5).keep.all()
        assert judge(kappa=5.0).keep.all()
        for other in (judge(kappa=0.5, momentum=0.5), judge(kappa=0.5, reference_batch=2)):
            assert np.abs(other.state.mean - base.state.mean).min() > 1e-4

    @pytest.mark.parametrize(("ratio", "every"), [(0.5, 2), (0.2, 2), (0.5, 4)])
    def test_how_many_words_are_hidden_in_how_many_rows(self, ratio, every):
        masked = toy_model.half_masked(text_ratio=ratio, text_every=every)
        method = dataclasses.replace(toy_step.METHOD, masked=masked)
        step = toy_step.make_step(make_mesh(HardwareConfig()), method=method)
        rows = RowInputs(the_batch(), jax.random.split(jax.random.key(0), b), *[jnp.arange(b)] * 2)
        found = quick.jit(step._mask_texts)(rows)
        assert found.positions.shape == (b // every, math.ceil(ratio * toy_model.LENGTH))

    def test_the_batch_gives_columns_only_where_it_should(self):
        method = dataclasses.replace(toy_step.METHOD, negatives=Negatives.QUEUE)
        step = toy_step.make_step(make_mesh(HardwareConfig()), method=method)
        step = dataclasses.replace(step, active=frozenset({"instance"}))

        @quick.jit
        def gradients_of(state, batch, knobs):
            found = step.gradients(state, {}, batch, knobs)
            return found.losses.sums.instance / found.denominators.instance

        state, batch = found_state(), the_batch()
        pairs = oracles.Pairs(
            *features(state.params["towers"], batch),
            *features(state.method.momentum_params, batch),
            batch.group_id,
        )
        queue = state.method.queue
        columns = oracles.columns_of(queue.image, queue.text, queue.group_id, queue.valid)
        wanted = np.mean([oracles.instance_loss(pairs, i, columns, 0.1) for i in range(b)])
        np.testing.assert_allclose(gradients_of(state, batch, make_knobs()), wanted, rtol=1e-10)
        assert abs(run()[1]["loss/instance"] - wanted) > 0.1

    def test_words_are_dropped_for_the_online_tower_alone(self):
        step = toy_step.make_step(make_mesh(HardwareConfig()))
        fewer = dataclasses.replace(step.augmentation, word_dropout=0.5)
        step = dataclasses.replace(
            step, augmentation=fewer, active=frozenset({"instance"}), paused=frozenset()
        )
        state, batch = found_state(), the_batch()
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), b)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, WORD_DROPOUT))(keys)
        seen = np.asarray(drop_words(keys, jnp.asarray(batch.text), 0.5, step.masking))
        assert 0 < (seen != batch.text).mean() < 0.5

        @quick.jit
        def found(state, batch, knobs):
            found = step.gradients(state, {}, batch, knobs)
            return found.losses.sums.instance / b, found.keys

        loss, keys = found(state, batch, make_knobs())
        clean = features(state.method.momentum_params, batch)
        np.testing.assert_allclose(keys.text, clean[1], rtol=1e-12)
        online = features(state.params["towers"], dataclasses.replace(batch, text=seen))
        pairs = oracles.Pairs(*online, *clean, batch.group_id)
        queue = state.method.queue
        columns = oracles.columns_of(queue.image, queue.text, queue.group_id, queue.valid)
        columns += oracles.columns_of(*clean, batch.group_id, np.ones(b, bool), rows=range(b))
        wanted = np.mean([oracles.instance_loss(pairs, i, columns, 0.1) for i in range(b)])
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)


class TestWeights:
    @pytest.mark.parametrize("objective", ["instance", "mvm", "mlm", "task"])
    def test_only_what_is_on_moves_anything(self, objective):
        grads = gradients(**{objective: 1.0})
        assert min(size(grads["towers"][tower]) for tower in ("image", "text")) > 1e-4
        for head in ("mvm", "mlm"):
            assert (size(grads["heads"][head]) > 0) == (head == objective)
        _, metrics = run(**only(**{objective: 1.0}))
        for name in ("instance", "mvm", "mlm", "task"):
            assert (metrics[f"loss/{name}"] > 0) == (name == objective)

    def test_nothing_on_moves_nothing(self):
        assert size(gradients()) == 0

    def test_gradients_add_up_under_their_weights(self):
        parts = [
            jax.tree.map(lambda g, w=weight: w * g, gradients(**{name: 1.0}))
            for name, weight in {"instance": 1.0, "mvm": 0.5, "mlm": 0.25, "task": 2.0}.items()
        ]
        whole = jax.tree.map(np.subtract, found_state().params, run()[0].params)
        summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        assert_same(whole, summed, rtol=1e-9, atol=1e-13)

    def test_the_share_of_the_towers_is_measured(self):
        _, metrics = run(**only(mlm=1.0))
        grads = gradients(mlm=1.0)

        def norm(tree):
            return np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))

        np.testing.assert_allclose(metrics["gradient_norm"], norm(grads), rtol=1e-9)
        np.testing.assert_allclose(metrics["tower_gradient_norm"], norm(grads["towers"]), rtol=1e-9)


def strict_towards_source_1():
    """A filter that has seen ever so many rows of source 1 that were far more alike."""
    state = found_state()
    seen = state.method.filter
    mean, square = seen.mean.copy(), seen.mean_square.copy()
    mean[1], square[1] = 5.0, 25.0
    mean[0], square[0] = 0.0, 1e4
    seen = dataclasses.replace(seen, mean=mean, mean_square=square)
    return dataclasses.replace(state, method=dataclasses.replace(state.method, filter=seen))


class TestRowsThatDoNotCount:
    """Rows 1, 3, 5 and 7 are of source 1."""

    odd = np.arange(b) % 2 == 1

    def spoilt(self, rows):
        other = toy_model.random_batch(9, b)

        def spoil(name):
            def change(column):
                column[rows] = getattr(other, name)[rows]

            return change

        names = ("image", "text", "text_length", "image_tokens")
        return toy_model.changed(the_batch(), **{name: spoil(name) for name in names})

    def test_a_dropped_row_enters_the_queue_as_not_valid(self):
        new, metrics = run(strict_towards_source_1(), filter_warm=True)
        at = (CURSOR + np.arange(b)) % k
        np.testing.assert_array_equal(new.method.queue.valid[at], ~self.odd)
        assert metrics["kept/0"] == 1
        assert metrics["kept/1"] == 0
        assert new.method.queue.cursor == (CURSOR + b) % k

    def test_before_the_filter_is_warm_all_rows_stay(self):
        new, metrics = run(strict_towards_source_1(), filter_warm=False)
        assert new.method.queue.valid[(CURSOR + np.arange(b)) % k].all()
        assert metrics["kept/1"] == 1

    def test_a_dropped_row_contributes_nothing_to_any_loss(self):
        state = strict_towards_source_1()
        before, metrics = run(state, filter_warm=True)
        after, others = run(state, self.spoilt(self.odd), filter_warm=True)
        kept, _ = run(state, filter_warm=False)
        assert_same(before.params, after.params, rtol=1e-12, atol=1e-14)
        for name in ("loss", "loss/instance", "loss/mvm", "loss/mlm", "loss/task"):
            np.testing.assert_allclose(metrics[name], others[name], rtol=1e-12)
        assert not np.array_equal(before.method.queue.image, after.method.queue.image)
        assert size(jax.tree.map(np.subtract, before.params, kept.params)) > 1e-4

    def test_a_dropped_row_is_like_a_padded_one(self):
        dropped, one = run(strict_towards_source_1(), filter_warm=True)
        padded = toy_model.changed(the_batch(), weight=(~self.odd).astype(np.float32))
        absent, other = run(batch=padded)
        assert_same(dropped.params, absent.params, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-12)

    def test_a_padded_row_changes_nothing(self):
        weight = (np.arange(b) < b - 2).astype(np.float32)
        padding = weight == 0

        def blank(value):
            return lambda column: column.__setitem__(padding, value)

        padded = toy_model.changed(the_batch(), weight=weight)
        blanked = toy_model.changed(
            padded,
            image=blank(0),
            image_mask=blank(False),
            text=blank(0),
            text_length=blank(0),
            pair_id=blank(-1),
            group_id=blank(-1),
            source=blank(0),
            image_tokens=blank(0),
        )
        (one, metrics), (other, again) = run(batch=padded), run(batch=blanked)
        assert other.skipped == 0
        assert_same(one.params, other.params, rtol=1e-12, atol=1e-14)
        assert_same(one.method.filter, other.method.filter, rtol=1e-13)
        np.testing.assert_allclose(metrics["loss"], again["loss"], rtol=1e-12)
        at = (CURSOR + np.arange(b)) % k
        for new in (one, other):
            np.testing.assert_array_equal(new.method.queue.valid[at], ~padding)

    def test_a_batch_dropped_whole_moves_no_parameter(self):
        nothing = toy_model.changed(the_batch(), weight=np.zeros(b, np.float32))
        new, metrics = run(batch=nothing)
        assert metrics["loss"] == 0
        assert new.skipped == 0
        assert_same(new.params, found_state().params, rtol=0)
        assert not new.method.queue.valid[(CURSOR + np.arange(b)) % k].any()


class TestBrokenSteps:
    def poisoned_momentum(self):
        state = found_state()
        towers = jax.tree.map(np.copy, state.method.momentum_params)
        towers["text"]["projection"][0, 0] = np.nan
        return dataclasses.replace(
            state, method=dataclasses.replace(state.method, momentum_params=towers)
        )

    def assert_nothing_changed(self, new, old):
        assert new.step == old.step + 1
        assert new.skipped == old.skipped + 1
        same = dataclasses.replace(new, step=old.step, skipped=old.skipped)
        for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(old)):
            np.testing.assert_array_equal(x, y)

    def test_gradients_that_are_not_finite_change_nothing(self):
        new, metrics = run(instance=np.inf)
        self.assert_nothing_changed(new, found_state())
        assert metrics["skipped"] == 1

    def test_keys_that_are_not_finite_never_reach_the_queue(self):
        for warm in (False, True):
            state = self.poisoned_momentum()
            new, _ = run(state, filter_warm=warm)
            self.assert_nothing_changed(new, state)

    def test_the_next_step_goes_on(self):
        broken, _ = run(instance=np.inf)
        new, _ = run(broken)
        assert new.step == 2
        assert new.skipped == 1
        assert new.method.queue.cursor == (CURSOR + b) % k
