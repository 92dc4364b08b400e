# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's loss and bounds against float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from cots_jax.errors import UserError
from cots_jax.objectives.reconstruction import (
    check_tokenizer,
    code_counts,
    codebook_usage,
    elbo,
    shrink_and_enlarge,
    squared_error,
    usage_of_counts,
)

rng = np.random.default_rng(0)


def elbo_oracle(images, others, logits, weight, kl_weight, usage_weight, deviation):
    """Loops in float64, one cell after the other."""
    b, n, v = logits.shape
    error = divergence = 0.0
    mean = np.zeros(v)
    for i in range(b):
        error += weight[i] * np.square(images[i] - others[i]).sum()
        for j in range(n):
            e = np.exp(logits[i, j] - logits[i, j].max())
            q = e / e.sum()
            divergence += weight[i] * np.sum(q * (np.log(q) - np.log(1 / v)))
            mean += weight[i] * q / (n * weight.sum())
    imbalance = weight.sum() * n * np.sum(mean * (np.log(mean) - np.log(1 / v)))
    total = error / (2 * deviation**2) + kl_weight * divergence + usage_weight * imbalance
    return total, error, divergence, imbalance, weight.sum()


def case(b=5, s=8, n=4, v=7):
    images, others = rng.uniform(size=(2, b, s, s, 3))
    return images, others, 3 * rng.normal(size=(b, n, v))


def narrow(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def test_elbo_agrees_with_the_definition():
    weight = np.asarray([1.0, 1.0, 0.0, 1.0, 0.5])
    arrays = case()
    expected = elbo_oracle(*arrays, weight, 0.7, 30.0, 0.2)
    got = elbo(*narrow(*arrays, weight), 0.7, 30.0, 0.2)
    parts = (got.total, got.error, got.divergence, got.imbalance, got.denominator)
    np.testing.assert_allclose(parts, expected, rtol=2e-5)


def test_padded_pictures_change_nothing():
    images, others, logits = case()
    weight = np.ones(5)
    weight[3:] = 0
    changed = [a.copy() for a in (images, others, logits)]
    for a in changed:
        a[3:] = rng.uniform(size=a[3:].shape)
    first, second = (
        elbo(*narrow(*c, weight), 1.0, 1.0) for c in ((images, others, logits), changed)
    )
    np.testing.assert_allclose(first.total, second.total, rtol=1e-6)
    assert float(first.denominator) == 3.0


def test_a_batch_of_padding_is_zero():
    got = elbo(*narrow(*case(), np.zeros(5)), 1.0, 1.0)
    assert float(got.total) == 0.0


def test_divergence_is_information_plus_imbalance():
    images, others, _ = case()
    one_hot = 50 * np.eye(3)[np.arange(20).reshape(5, 4) % 2]
    sharp = elbo(*narrow(images, others, one_hot, np.ones(5)), 1.0, 1.0)
    np.testing.assert_allclose(sharp.divergence, 5 * 4 * np.log(3), rtol=1e-5)
    np.testing.assert_allclose(sharp.imbalance, 5 * 4 * np.log(3 / 2), rtol=1e-5)
    flat = elbo(*narrow(images, others, np.zeros((5, 4, 3)), np.ones(5)), 1.0, 1.0)
    np.testing.assert_allclose([flat.divergence, flat.imbalance], 0.0, atol=1e-4)


def test_usage_agrees_with_the_definition():
    ids = rng.integers(0, 6, size=(40, 9)) ** 2
    p = np.bincount(ids.ravel(), minlength=30) / ids.size
    entropy = -sum(x * np.log(x) for x in p if x)
    got = codebook_usage(jnp.asarray(ids), 30)
    np.testing.assert_allclose(got.entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(got.perplexity, np.exp(entropy), rtol=1e-5)
    np.testing.assert_allclose(got.dead_fraction, 24 / 30, rtol=1e-6)
    np.testing.assert_allclose(got.commonest, p.max(), rtol=1e-6)


def test_even_and_collapsed_codebooks():
    even = codebook_usage(jnp.arange(64).reshape(4, 16), 64)
    np.testing.assert_allclose([even.perplexity, even.dead_fraction], [64, 0], rtol=1e-5)
    one = codebook_usage(jnp.full((4, 16), 3), 64)
    np.testing.assert_allclose([one.perplexity, one.dead_fraction], [1, 63 / 64], rtol=1e-6)


def test_counts_of_parts_add_up():
    ids = jnp.asarray(rng.integers(0, 12, size=(10, 4)))
    parts = code_counts(ids[:3], 12) + code_counts(ids[3:], 12)
    assert float(usage_of_counts(parts).entropy) == float(codebook_usage(ids, 12).entropy)


def blocks(s=12, grid=3):
    return np.kron(rng.uniform(size=(2, grid, grid, 3)), np.ones((1, s // grid, s // grid, 1)))


def test_pictures_of_flat_cells_survive_the_bar():
    (images,) = narrow(blocks())
    np.testing.assert_allclose(shrink_and_enlarge(images, 3), images, atol=1e-6)


def test_the_bar_is_the_best_enlargement_for_each_picture():
    ramp = np.broadcast_to(np.linspace(0, 1, 12)[None, :, None, None], (1, 12, 12, 3))
    (images,) = narrow(np.concatenate([blocks(), ramp]))
    errors = np.asarray(squared_error(images, shrink_and_enlarge(images, 3)))
    coarse = np.asarray(images).reshape(3, 3, 4, 3, 4, 3).mean(axis=(2, 4))
    nearest = np.kron(coarse, np.ones((1, 4, 4, 1)))
    of_nearest = np.square(nearest - np.asarray(images)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(errors[:2], 0, atol=1e-9)
    assert errors[2] < 0.5 * of_nearest[2]


def test_the_bar_needs_a_grid_that_divides():
    with pytest.raises(UserError, match="12 pixels a side do not divide into a grid of 5"):
        shrink_and_enlarge(jnp.zeros((1, 12, 12, 3)), 5)


def test_a_good_tokenizer_passes_on_the_bounds_themselves():
    check_tokenizer(perplexity=51.2, dead=0.5, error=0.02, baseline_error=0.021, v=256)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((51.1, 0.1, 0.01, 0.02), r"perplexity 51\.1 is below 20% of the 256 codes \(51\.2\)"),
        ((90.0, 0.6, 0.01, 0.02), "60% of the 256 codes never occur"),
        ((90.0, 0.1, 0.02, 0.02), r"error 0\.02000 is not below 0\.02000"),
        ((float("nan"), 0.1, 0.01, 0.02), "perplexity nan"),
        ((90.0, 0.1, float("nan"), 0.02), "error nan"),
    ],
)
def test_each_bound_is_named_when_it_fails(figures, words):
    with pytest.raises(UserError, match=words):
        check_tokenizer(*figures, v=256)


def test_all_failures_are_told_at_once():
    with pytest.raises(UserError, match=r"perplexity.*never occur.*error"):
        check_tokenizer(1.0, 0.99, 0.3, 0.1, 64)
