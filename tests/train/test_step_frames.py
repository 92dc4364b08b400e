# SPDX-License-Identifier: Apache-2.0
"""One COTS step on videos: equal frames are a picture, different ones each have their share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import toy_model
import toy_step
from toy_step import CURSOR, b, k, make_knobs

from cots_jax.data.transforms import Augmentation, normalise
from cots_jax.models.vision import Encoded, unit
from cots_jax.schema import HardwareConfig
from cots_jax.train.mesh import make_mesh
from cots_jax.train.step import CotsStep

t = 3
HALF = (0.5, 0.5, 0.5)
MOVING = Augmentation(shift=0.1, flip_probability=0.5, brightness=0.3, hue=0.1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class FilmTwoStream(toy_model.ToyTwoStream):
    """The toy's tower on every frame, and the mean of their features."""

    def encode_image(self, towers, image, mask=None, positions=None):
        frames = [
            super(FilmTwoStream, self).encode_image(towers, image[:, i : i + 1], mask, positions)
            for i in range(image.shape[1])
        ]
        mean = {
            name: jnp.mean(jnp.stack([getattr(frame, name) for frame in frames]), axis=0)
            for name in ("tokens", "cls", "joint")
        }
        return Encoded(mean["tokens"], mean["cls"], unit(mean["joint"]))


def make_step(accumulate=1, augmentation=MOVING) -> CotsStep:
    step = toy_step.make_step(make_mesh(HardwareConfig()), accumulate)
    found = step.model
    model = FilmTwoStream(found.config, found.masked, found.codes, frozenset({"mlm"}))
    active = frozenset({"instance", "mlm", "task"})
    return dataclasses.replace(
        step, model=model, augmentation=augmentation, active=active, paused=frozenset()
    )


@functools.cache
def state():
    return jax.device_get(toy_step.make_state(make_step()))


def film() -> np.ndarray:
    shape = (b, t, toy_model.SIDE, toy_model.SIDE, 3)
    return np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)


def run(frames, **more):
    batch = toy_model.changed(toy_model.random_batch(0, b, tokens=False), image=frames)
    call = quick.jit(make_step(**more))
    return jax.device_get(call(state(), {}, batch, make_knobs(filter_warm=True, mvm=0.0)))


def assert_close(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-8)


def test_a_film_of_equal_frames_is_its_picture_to_every_part_of_the_step():
    """Augmentation is shared by the frames of a row, so queue, filter and gradients agree too."""
    still = film()[:, :1]
    one, measured = run(still)
    equal, also = run(np.repeat(still, t, axis=1))
    assert_close(one, equal)
    assert_close(measured, also)
    assert measured["loss/mlm"] > 0


@pytest.mark.slow
def test_a_batch_of_films_may_be_cut_into_pieces():
    assert_close(run(film())[0], run(film(), accumulate=2)[0])


def test_the_queue_takes_the_mean_feature_of_the_frames():
    new, _ = run(film(), augmentation=Augmentation())
    model, towers = toy_model.toy_model(), state().method.momentum_params
    frames = [
        model.encode_image(towers, normalise(jnp.asarray(film()[:, i : i + 1]), HALF, HALF)).joint
        for i in range(t)
    ]
    mean = np.mean(frames, axis=0)
    at = (CURSOR + np.arange(b)) % k
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(new.method.queue.image[at], wanted, rtol=1e-6)
