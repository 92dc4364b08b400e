# SPDX-License-Identifier: Apache-2.0
"""Baselines that compare the batch with itself: the formula, and pieces that change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import quick
import toy_model
import toy_step

from cots_jax.objectives.total import OBJECTIVES
from cots_jax.schema import FilterConfig, HardwareConfig
from cots_jax.switches import Contrast, SameGroup, Switch
from cots_jax.train.mesh import make_mesh
from cots_jax.train.state import fresh_state

BIAS = -2.0
IN_BATCH = (Contrast.BATCH, Contrast.SIGMOID)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def method_of(contrast):
    return dataclasses.replace(
        toy_step.METHOD, contrast=contrast, queue_length=0, filter=FilterConfig(Switch.OFF)
    )


def step_of(contrast, accumulate=1):
    return toy_step.make_step(make_mesh(HardwareConfig()), accumulate, method_of(contrast))


def state_of(step):
    heads = toy_model.random_heads(2, step.model)
    if step.method.contrast is Contrast.SIGMOID:
        heads["sigmoid_bias"] = jnp.float64(BIAS)
    params = {"towers": toy_model.random_towers(1), "heads": heads}
    return fresh_state(params, step.optimizer, {})


def padded_batch(seed=0):
    return toy_model.changed(
        toy_model.random_batch(seed, toy_step.b), weight=lambda w: w.__setitem__(6, 0)
    )


@functools.cache
def after_two_steps(contrast, pieces):
    step = step_of(contrast, pieces)
    run, state, measured = quick.jit(step), state_of(step), []
    for seed in (0, 1):
        knobs = toy_step.make_knobs(learning_rate=0.1)
        state, metrics = run(state, {}, padded_batch(seed), knobs)
        measured.append(jax.device_get(metrics))
    return jax.device_get(state), measured


@pytest.mark.parametrize("contrast", IN_BATCH)
def test_pieces_change_nothing(contrast):
    for one, other in zip(
        jax.tree.leaves(after_two_steps(contrast, 2)),
        jax.tree.leaves(after_two_steps(contrast, 1)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("contrast", IN_BATCH)
def test_the_problem_is_not_trivial(contrast):
    state, measured = after_two_steps(contrast, 1)
    assert state.skipped == 0
    for name in OBJECTIVES:
        assert measured[0][f"loss/{name}"] != measured[1][f"loss/{name}"]
    if contrast is Contrast.SIGMOID:
        assert state.params["heads"]["sigmoid_bias"] != BIAS


@pytest.mark.parametrize("contrast", IN_BATCH)
def test_no_more_than_a_piece_is_encoded_at_once(contrast):
    rows = []

    class Counting(toy_model.ToyTwoStream):
        def encode_image(self, towers, image, mask=None, positions=None):
            rows.append(len(image))
            return super().encode_image(towers, image, mask, positions)

    step = step_of(contrast, 4)
    fields = {f.name: getattr(step.model, f.name) for f in dataclasses.fields(step.model)}
    step = dataclasses.replace(step, model=Counting(**fields))
    jax.eval_shape(step, state_of(step), {}, padded_batch(), toy_step.make_knobs())
    assert max(rows) == toy_step.b // 4


def features(step, state, batch):
    pixels = jnp.asarray(batch.image, jnp.float64) / 255 * 2 - 1
    image = step.model.encode_image(state.params["towers"], pixels)
    text = step.model.encode_text(
        state.params["towers"], jnp.asarray(batch.text), jnp.asarray(batch.text_length)
    )
    return np.asarray(image.joint), np.asarray(text.joint)


def wanted_instance(contrast, image, text, batch, tau):
    """CLIP's and SigLIP's published formulas over the real rows; equal groups are left out."""
    real = np.flatnonzero(batch.weight > 0)
    total = 0.0
    for i in real:
        same = (batch.group_id == batch.group_id[i]) & (batch.group_id != -1)
        others = [j for j in real if j != i and not same[j]]
        order = [i, *others]
        if contrast is Contrast.BATCH:
            total -= oracles.log_softmax(text[order] @ image[i] / tau)[0]
            total -= oracles.log_softmax(image[order] @ text[i] / tau)[0]
        else:
            z = np.where(np.array(order) == i, 1, -1)
            total += np.log1p(np.exp(-z * (text[order] @ image[i] / tau + BIAS))).sum()
    return total / len(real)


@pytest.mark.parametrize("contrast", IN_BATCH)
def test_the_loss_is_the_published_formula(contrast):
    step, batch = step_of(contrast), padded_batch()
    state = state_of(step)
    wanted = wanted_instance(
        contrast, *features(step, state, batch), batch, toy_step.METHOD.temperature
    )
    _, measured = after_two_steps(contrast, 1)
    np.testing.assert_allclose(measured[0]["loss/instance"], wanted, rtol=1e-6)


@pytest.mark.parametrize(("contrast", "pieces"), [(Contrast.BATCH, 2), (Contrast.SIGMOID, 1)])
def test_negatives_carry_gradients(contrast, pieces):
    """Against a difference quotient of the loss, along a direction in one row's text embedding."""
    step, batch = step_of(contrast, pieces), jax.tree.map(jnp.asarray, padded_batch())
    step = dataclasses.replace(step, active=frozenset({"instance"}))
    state = jax.tree.map(jnp.asarray, state_of(step))
    knobs = toy_step.make_knobs(**toy_step.only(instance=1.0))
    rng = np.random.default_rng(0)
    towers = state.params["towers"]
    direction = jax.tree.map(lambda leaf: rng.normal(size=np.shape(leaf)), towers)

    @quick.jit
    def at(size):
        moved = jax.tree.map(lambda leaf, d: leaf + size * d, towers, direction)
        params = {**state.params, "towers": moved}
        found = step.gradients(dataclasses.replace(state, params=params), {}, batch, knobs)
        return found.losses.total, found.grads["towers"]

    small = 1e-5
    _, grads = at(0.0)
    slope = sum(map(np.vdot, jax.tree.leaves(grads), jax.tree.leaves(direction)))
    quotient = (at(small)[0] - at(-small)[0]) / (2 * small)
    np.testing.assert_allclose(slope, quotient, rtol=1e-6)


def test_a_fresh_state_has_no_momentum_part():
    step = step_of(Contrast.SIGMOID)
    state = jax.eval_shape(lambda key: step.fresh(jax.random.split(key, 2), 1), jax.random.key(0))
    assert state.method == {}
    assert "sigmoid_bias" in state.params["heads"]


def test_same_group_pairs_can_be_negatives():
    one = step_of(Contrast.BATCH)
    method = dataclasses.replace(one.method, same_group=SameGroup.NEGATIVE)
    other = dataclasses.replace(one, method=method)
    batch = toy_model.changed(padded_batch(), group_id=lambda g: g.__setitem__(slice(None), 1))
    knobs = toy_step.make_knobs(**toy_step.only(instance=1.0))
    masked, compared = (
        quick.jit(step.gradients)(state_of(step), {}, batch, knobs).losses.total
        for step in (one, other)
    )
    np.testing.assert_allclose(masked, 0, atol=1e-12)  # nobody left to be compared with
    assert compared > 0.1
