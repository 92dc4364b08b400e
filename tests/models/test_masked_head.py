# SPDX-License-Identifier: Apache-2.0
"""The head of masked modelling against NumPy: what it sees, how it merges, the tied output."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from cots_jax.models.masked_head import MaskedHead, MaskedHeadConfig
from cots_jax.models.transformer import TransformerConfig
from cots_jax.switches import Merge, Precision

b, m, d, p, v = 2, 3, 6, 4, 9
EPSILON = 1e-12


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def head(merge, precision=Precision.FLOAT32):
    stack = TransformerConfig(1, d, 1, d, epsilon=EPSILON, precision=precision)
    return MaskedHead(MaskedHeadConfig(stack, v, merge))


def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in ((b, m, d), (b, p), (v, d))]


@functools.cache
def params(merge, tied):
    hidden, partner, words = (jnp.asarray(x) for x in inputs())
    given = (hidden, partner, words) if tied else (hidden, partner)
    shapes = jax.eval_shape(head(merge).init, jax.random.key(0), *given)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape), shapes)


@functools.cache
def compiled(merge, precision=Precision.FLOAT32):
    return quick.jit(lambda params, *args: head(merge, precision).apply({"params": params}, *args))


def oracle(hidden, partner, words, w, merge):
    logits = np.zeros((b, m, v))
    for i in range(b):
        for j in range(m):
            if merge is Merge.ADD:
                x = hidden[i, j] + partner[i] @ w["partner"]["kernel"] + w["partner"]["bias"]
            else:
                x = np.concatenate([hidden[i, j], partner[i]])
            x = x @ w["transform"]["kernel"] + w["transform"]["bias"]
            x = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
            x = (x - x.mean()) / math.sqrt(x.var() + EPSILON)
            x = x * w["norm"]["scale"] + w["norm"]["bias"]
            output = w["output"]["kernel"] if words is None else words.T
            logits[i, j] = x @ output + w["bias"]
    return logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("merge", Merge)
def test_agrees_with_the_oracle(merge, tied):
    hidden, partner, words = inputs()
    given = (hidden, partner, words) if tied else (hidden, partner)
    weights = params(merge, tied)
    assert ("output" in weights) != tied
    found = compiled(merge)(weights, *given)
    assert found.dtype == jnp.float64
    wanted = oracle(hidden, partner, words if tied else None, weights, merge)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize("merge", Merge)
def test_a_position_sees_its_own_output_and_its_own_partner_alone(merge):
    hidden, partner, words = inputs()
    before = compiled(merge)(params(merge, True), hidden, partner, words)
    other = hidden.copy()
    other[0, 1, 0] += 1
    after = compiled(merge)(params(merge, True), other, partner, words)
    moved = np.abs(after - before).max(axis=-1) > 1e-9
    np.testing.assert_array_equal(moved, [[False, True, False], [False] * 3])
    other = partner.copy()
    other[1, 0] += 1
    after = compiled(merge)(params(merge, True), hidden, other, words)
    moved = np.abs(after - before).max(axis=-1) > 1e-9
    np.testing.assert_array_equal(moved, [[False] * 3, [True] * 3])


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.BFLOAT16_OPERANDS])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_float32_at_any_precision(precision, tied):
    hidden, partner, words = (np.float32(x) for x in inputs())
    weights = jax.tree.map(np.float32, params(Merge.ADD, tied))
    weights["bias"] = 0 * weights["bias"]
    given = (hidden, partner, words) if tied else (hidden, partner)
    with jax.enable_x64(False):
        found = np.asarray(compiled(Merge.ADD, precision)(weights, *given))
    assert found.dtype == np.float32
    assert np.mean(found == np.float32(jnp.bfloat16(found))) < 0.5  # not rounded before
    wanted = oracle(hidden, partner, words if tied else None, weights, Merge.ADD)
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
