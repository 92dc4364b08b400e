# SPDX-License-Identifier: Apache-2.0
"""The image tower: patches, the mask embedding, frames, the unit vector."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from cots_jax.models.transformer import Norm, TransformerConfig
from cots_jax.models.vision import ImageTower, VisionConfig, patches, unit
from cots_jax.switches import FrameMean

STACK = TransformerConfig(layers=1, width=8, heads=2, mlp=16)
CONFIG = VisionConfig(image_size=12, patch=4, transformer=STACK, embed_dim=6)
n = 9
PATCHES = jnp.tile(jnp.arange(n), (2, 1))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def params():
    image = jnp.zeros((1, 1, 12, 12, 3))
    shapes = jax.eval_shape(ImageTower(CONFIG).init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape), shapes)


@functools.cache
def compiled(masked):
    def call(params, image, mask=None):
        hidden = mask if masked else None
        return ImageTower(CONFIG).apply({"params": params}, image, hidden, PATCHES)

    return quick.jit(call)


def pictures(b=2, t=1):
    return np.random.default_rng(1).normal(size=(b, t, 12, 12, 3))


def encode(image, mask=None, changed=None):
    return compiled(mask is not None)({**params(), **(changed or {})}, image, mask)


def assert_equal(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)


def differs(one, other):
    return np.abs(np.asarray(one) - np.asarray(other)).max() > 1e-6


def test_patches_are_cut_row_by_row():
    image = pictures()[:, 0]
    cut = patches(jnp.asarray(image), 4)
    np.testing.assert_array_equal(cut[1, 5].reshape(4, 4, 3), image[1, 4:8, 8:12])


def test_shapes_and_unit_length():
    found = encode(pictures())
    assert found.tokens.shape == (2, n, 8)
    assert found.cls.shape == (2, 8)
    assert found.joint.shape == (2, 6)
    assert found.joint.dtype == jnp.float64
    np.testing.assert_allclose(np.linalg.norm(found.joint, axis=1), 1, rtol=1e-10)


def test_the_parameters_are_those_of_a_published_vit_and_a_mask_embedding():
    names = {"patch_embedding", "cls", "position_embedding", "transformer", "final_norm"}
    assert set(params()) == names | {"mask_embedding", "projection"}
    assert params()["position_embedding"].shape == (n + 1, 8)


@pytest.mark.parametrize("positions", [np.array([[8, 0], [3, 3]]), None], ids=["some", "none"])
def test_outputs_at_patches_are_those_that_were_asked_for(positions):
    def call(params, image):
        asked = None if positions is None else jnp.asarray(positions)
        return ImageTower(CONFIG).apply({"params": params}, image, None, asked)

    found, whole = quick.jit(call)(params(), pictures()), encode(pictures())
    wanted = np.zeros((2, 0), int) if positions is None else positions
    chosen = np.take_along_axis(np.asarray(whole.tokens), wanted[:, :, None], axis=1)
    assert_equal(found, whole.replace(tokens=chosen))


def mask_of(*hidden):
    mask = np.zeros((2, n), bool)
    mask[:, list(hidden)] = True
    return mask


def test_what_a_masked_patch_shows_does_not_matter_at_all():
    image, other = pictures(), pictures()
    other[:, :, 4:8, 8:12] += 5.0  # patch 5
    assert_equal(encode(image, mask_of(5, 0)), encode(other, mask_of(5, 0)))
    assert differs(encode(image, mask_of(0)).joint, encode(other, mask_of(0)).joint)


def test_the_mask_embedding_stands_at_masked_patches_only():
    image, changed = pictures(), {"mask_embedding": np.full(8, 3.0)}
    assert_equal(encode(image), encode(image, changed=changed))
    nothing = mask_of()
    assert_equal(encode(image), encode(image, nothing))
    assert_equal(encode(image, nothing), encode(image, nothing, changed))
    one_row = mask_of(4)
    one_row[0] = False
    before, after = encode(image, one_row), encode(image, one_row, changed)
    assert not differs(before.tokens[0], after.tokens[0])
    assert differs(before.tokens[1], after.tokens[1])


def encode_frames(where, image):
    config = dataclasses.replace(CONFIG, frame_mean=where)
    call = quick.jit(lambda params, image: ImageTower(config).apply({"params": params}, image))
    return call(params(), image)


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("where", list(FrameMean))
def test_frames_are_averaged(where):
    """Against the tower's own outputs on one frame at a time."""
    film = pictures(t=3)
    film[:, 1] *= 7  # frames whose vectors differ in length
    found = encode_frames(where, film)
    frames = [encode(film[:, frame : frame + 1]) for frame in range(3)]
    cls = np.mean([frame.cls for frame in frames], axis=0)
    np.testing.assert_allclose(found.cls, cls, rtol=1e-10)
    assert found.tokens.shape == (2, 0, 8)
    if where is FrameMean.JOINT:
        mean = np.mean([frame.joint for frame in frames], axis=0)
    else:
        mean = cls @ params()["projection"]["kernel"] + params()["projection"]["bias"]
    np.testing.assert_allclose(found.joint, unit_rows(mean), rtol=1e-10)
    other = next(x for x in FrameMean if x is not where)
    assert differs(found.joint, encode_frames(other, film).joint)


@pytest.mark.parametrize("where", list(FrameMean))
def test_equal_frames_are_one_picture(where):
    still = pictures()
    film = encode_frames(where, np.repeat(still, 3, axis=1))
    np.testing.assert_allclose(film.joint, encode(still).joint, rtol=1e-10)
    one = encode_frames(where, still)
    assert np.array_equal(one.joint, encode_frames(FrameMean.CLS, still).joint)


def test_the_order_of_frames_does_not_matter():
    film = pictures(t=3)
    for where in FrameMean:
        found = encode_frames(where, film).joint, encode_frames(where, film[:, ::-1]).joint
        np.testing.assert_allclose(*found, rtol=1e-10)


def test_a_post_norm_tower_has_no_final_norm():
    stack = TransformerConfig(layers=1, width=8, heads=2, mlp=16, norm=Norm.POST)
    tower = ImageTower(VisionConfig(12, 4, stack, 6))
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 1, 12, 12, 3)))
    assert "final_norm" not in shapes["params"]


def test_the_gradient_of_a_zero_feature_is_finite():
    value, grad = jax.value_and_grad(lambda x: unit(x).sum())(jnp.zeros((1, 3)))
    assert value == 0
    assert np.isfinite(grad).all()
