# SPDX-License-Identifier: Apache-2.0
"""The discrete VAE: shapes, cell order, locality, the relaxation, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cots_jax.errors import UserError
from cots_jax.models.dvae import Dvae, DvaeConfig, patchify, relax, unpatchify
from cots_jax.objectives.reconstruction import (
    check_tokenizer,
    codebook_usage,
    elbo,
    shrink_and_enlarge,
    squared_error,
)

small = DvaeConfig(image_size=16, patch=4, codes=32, code_dim=16, width=32, layers=1)


@functools.cache
def initialised(config=small):
    size = config.image_size
    key = jax.random.key(0)
    return jax.jit(Dvae(config).init)(key, jnp.zeros((1, size, size, 3)), key)


@functools.partial(jax.jit, static_argnames=("method", "config"))
def run(variables, *inputs, method="__call__", config=small):
    return Dvae(config).apply(variables, *inputs, method=method)


def pictures(count, seed=0, size=16):
    """Every cell one of 24 textures, of which averages know nothing, under a little noise."""
    textures = np.random.default_rng(7).uniform(size=(24, 4, 4, 3))
    rng = np.random.default_rng(seed)
    grid = size // 4
    cells = textures[rng.integers(24, size=(count, grid, grid))]
    images = cells.transpose(0, 1, 3, 2, 4, 5).reshape(count, size, size, 3)
    return jnp.asarray(np.clip(images + rng.normal(0, 0.02, images.shape), 0, 1), jnp.float32)


def test_cells_are_cut_row_by_row_and_put_together_again():
    images = np.arange(2 * 16 * 16 * 3, dtype=np.float32).reshape(2, 16, 16, 3)
    cells = np.asarray(patchify(jnp.asarray(images), 4))
    np.testing.assert_array_equal(cells[1, 2, 3].reshape(4, 4, 3), images[1, 8:12, 12:16])
    np.testing.assert_array_equal(unpatchify(jnp.asarray(cells), 4), images)


def test_shapes():
    images = pictures(3)
    output = run(initialised(), images, jax.random.key(1), jnp.float32(0.5))
    assert output.logits.shape == output.codes.shape == (3, 16, 32)
    assert output.reconstruction.shape == images.shape
    ids = run(initialised(), images, method="encode_ids")
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, np.argmax(output.logits, axis=-1))


def test_reconstruct_is_the_clipped_picture_of_the_hard_codes():
    images = pictures(3)
    ids = np.asarray(run(initialised(), images, method="encode_ids"))
    hard = jnp.asarray(np.eye(32, dtype=np.float32)[ids])
    decoded = np.asarray(run(initialised(), hard, method="decode"))
    got = run(initialised(), images, method="reconstruct")
    np.testing.assert_allclose(got, np.clip(decoded, 0, 1), atol=1e-6)


def changed_cells(reach):
    config = DvaeConfig(
        image_size=20, patch=4, codes=8, width=16, layers=1, encoder_reach=reach, decoder_reach=1
    )
    variables = initialised(config)
    images = pictures(1, size=20)
    edited = images.at[:, 8:12, 8:12].set(1.0 - images[:, 8:12, 8:12])
    before, after = (
        np.asarray(run(variables, x, method="encode_logits", config=config))
        for x in (images, edited)
    )
    return (np.abs(before - after).max(axis=(0, 2)) > 1e-6).reshape(5, 5)


@pytest.mark.parametrize("reach", [1, 3])
def test_a_code_sees_its_reach_and_no_further(reach):
    expected = np.zeros((5, 5), bool)
    edge = reach // 2
    expected[2 - edge : 3 + edge, 2 - edge : 3 + edge] = True
    np.testing.assert_array_equal(changed_cells(reach), expected)


def test_relaxed_draws_follow_the_posterior():
    p = np.asarray([0.6, 0.3, 0.1])
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (200, 100, 3))
    draws = np.asarray(relax(logits, jax.random.key(0), 0.01))
    np.testing.assert_allclose(draws.sum(axis=-1), 1.0, atol=1e-5)
    frequency = np.bincount(draws.argmax(axis=-1).ravel(), minlength=3) / 20_000
    np.testing.assert_allclose(frequency, p, atol=4 * np.sqrt(0.25 / 20_000))


def test_a_lower_temperature_is_nearer_to_one_hot():
    logits = jax.random.normal(jax.random.key(3), (4, 16, 32))
    peaks = [
        float(relax(logits, jax.random.key(1), t).max(axis=-1).mean()) for t in (2.0, 0.5, 0.02)
    ]
    assert peaks[0] < peaks[1] < peaks[2]
    assert peaks[2] > 0.95


optimizer = optax.adam(5e-3)


@jax.jit
def step(params, opt_state, images, key, temperature):
    """One update of the small tokenizer, as a training loop would make it."""

    def loss(params):
        output = Dvae(small).apply({"params": params}, images, key, temperature)
        weight = jnp.ones(images.shape[0])
        parts = elbo(images, output.reconstruction, output.logits, weight, 1.0, 30.0)
        return parts.total / parts.denominator

    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state


def trained(seed, steps):
    params = initialised()["params"]
    opt_state = optimizer.init(params)
    batches = pictures(32 * 8).reshape(8, 32, 16, 16, 3)
    for index in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), index)
        temperature = jnp.float32(max(0.2, 1.0 - index / steps))
        params, opt_state = step(params, opt_state, batches[index % 8], key, temperature)
    return params


def test_training_meets_the_bounds_on_pictures_never_seen():
    variables = {"params": trained(seed=0, steps=200)}
    unseen = pictures(100, seed=1)
    usage = codebook_usage(run(variables, unseen, method="encode_ids"), small.codes)
    error = float(squared_error(unseen, run(variables, unseen, method="reconstruct")).mean())
    bar = float(squared_error(unseen, shrink_and_enlarge(unseen, small.grid)).mean())
    check_tokenizer(float(usage.perplexity), float(usage.dead_fraction), error, bar, small.codes)


def test_the_same_seed_gives_the_same_tokenizer():
    first, again, other = trained(5, steps=3), trained(5, steps=3), trained(6, steps=3)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = [p["to_logits"]["kernel"] for p in (first, other)]
    assert not np.array_equal(*kernels)


def test_pictures_that_do_not_divide_are_refused_with_sizes_that_do():
    with pytest.raises(
        UserError, match="image_size 100 is not a multiple of patch 16: use 96 or 112"
    ):
        DvaeConfig(image_size=100, patch=16)


@pytest.mark.parametrize(
    ("change", "words"), [({"codes": 1}, "at least 2"), ({"encoder_reach": 2}, "odd")]
)
def test_shapes_that_mean_nothing_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        DvaeConfig(**change)
