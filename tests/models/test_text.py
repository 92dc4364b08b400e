# SPDX-License-Identifier: Apache-2.0
"""The text tower: padding, pooling, token types."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from cots_jax.models.text import Pooling, TextConfig, TextTower
from cots_jax.models.transformer import Norm, Span, TransformerConfig

STACK = TransformerConfig(layers=2, width=8, heads=2, mlp=16, norm=Norm.POST, epsilon=1e-12)
BERT = TextConfig(STACK, positions=10, vocabulary=30, embed_dim=6)
CLIP = dataclasses.replace(
    BERT,
    transformer=dataclasses.replace(STACK, norm=Norm.PRE, span=Span.CAUSAL),
    token_types=0,
    pooling=Pooling.LAST,
)
MEAN = dataclasses.replace(BERT, pooling=Pooling.MEAN)
EACH = pytest.mark.parametrize("config", [BERT, CLIP, MEAN], ids=["bert", "clip", "mean"])
LENGTH = np.array([5, 3, 1, 0])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def params(config):
    args = jnp.zeros((1, 4), jnp.int32), jnp.array([4])
    shapes = jax.eval_shape(TextTower(config).init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape), shapes)


@functools.cache
def compiled(config):
    def call(params, text, length):
        tokens = jnp.tile(jnp.arange(text.shape[1]), (len(text), 1))
        return TextTower(config).apply({"params": params}, text, length, tokens)

    return quick.jit(call)


def encode(config, text, length=LENGTH):
    return compiled(config)(params(config), text, length)


def texts(l=6):
    return np.random.default_rng(1).integers(5, 30, (4, l))


@EACH
def test_padding_never_influences(config):
    text = texts()
    real = np.arange(6)[None] < LENGTH[:, None]
    one = encode(config, np.where(real, text, 0))
    other = encode(config, np.where(real, text, 29))
    longer = encode(config, np.concatenate([np.where(real, text, 3), np.full((4, 3), 7)], axis=1))
    for found in (other, longer):
        has_text = LENGTH > 0
        np.testing.assert_allclose(found.joint[has_text], one.joint[has_text], rtol=1e-11)
        np.testing.assert_allclose(
            found.tokens[:, :6][real], one.tokens[real], rtol=1e-11, atol=1e-13
        )


def test_real_tokens_do_influence():
    text, other = texts(), texts()
    other[:, 1] = (other[:, 1] - 5 + 1) % 25 + 5
    moved = np.abs(encode(BERT, text).joint - encode(BERT, other).joint).max(axis=1)
    assert (moved[:2] > 1e-6).all()
    np.testing.assert_array_equal(moved[2], 0)  # its second token is padding


def test_a_row_without_any_token_is_finite():
    for config in (BERT, MEAN):
        found = encode(config, texts())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_pooling():
    bert, clip, mean = (encode(config, texts()) for config in (BERT, CLIP, MEAN))
    np.testing.assert_allclose(bert.cls, bert.tokens[:, 0], rtol=1e-12)
    for row in range(3):
        last = clip.tokens[row, LENGTH[row] - 1]
        np.testing.assert_allclose(clip.cls[row], last, rtol=1e-12)
        over = bert.tokens[row, : LENGTH[row]].mean(axis=0)
        np.testing.assert_allclose(mean.cls[row], over, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(bert.joint, axis=1), 1, rtol=1e-10)


@pytest.mark.parametrize("positions", [np.array([[4, 0]] * 4), None], ids=["some", "none"])
@EACH
def test_outputs_at_tokens_are_those_that_were_asked_for(config, positions):
    def call(params, text):
        asked = None if positions is None else jnp.asarray(positions)
        return TextTower(config).apply({"params": params}, text, jnp.asarray(LENGTH), asked)

    found, whole = quick.jit(call)(params(config), texts()), encode(config, texts())
    wanted = np.zeros((4, 0), int) if positions is None else positions
    chosen = np.take_along_axis(np.asarray(whole.tokens), wanted[:, :, None], axis=1)
    for one, other in ((found.tokens, chosen), (found.cls, whole.cls), (found.joint, whole.joint)):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_a_causal_text_does_not_see_ahead():
    text, other = texts(), texts()
    other[0, 3] = (other[0, 3] - 5 + 1) % 25 + 5
    one, two = encode(CLIP, text).tokens[0], encode(CLIP, other).tokens[0]
    np.testing.assert_allclose(one[:3], two[:3], rtol=1e-12)
    assert np.abs(one[3:5] - two[3:5]).max() > 1e-6


def test_captions_are_of_token_type_0():
    names = {"token_embedding", "position_embedding", "transformer", "projection"}
    assert set(params(BERT)) == names | {"type_embedding", "embedding_norm"}
    assert set(params(CLIP)) == names | {"final_norm"}
    before = encode(BERT, texts())
    given = dict(params(BERT))
    for row, moves in ((1, False), (0, True)):
        table = given["type_embedding"].copy()
        table[row, 0] += 1
        after = compiled(BERT)({**given, "type_embedding": table}, texts(), LENGTH)
        assert (np.abs(after.joint - before.joint).max() > 1e-6) == moves
