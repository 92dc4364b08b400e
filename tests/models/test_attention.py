# SPDX-License-Identifier: Apache-2.0
"""Fused attention against attention that is written out, values and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractMesh

from cots_jax.axes import AUTO, AXES, ONE_DEVICE
from cots_jax.models.attention import Rule, for_tpu, fused, written_out
from cots_jax.models.transformer import Transformer, TransformerConfig
from cots_jax.models.two_stream import TwoStream, model_size
from cots_jax.retrieval.embed import Preprocessing, encode_images, encode_texts
from cots_jax.schema import HardwareConfig, MaskedConfig
from cots_jax.switches import AttentionForm, Precision, Switch
from cots_jax.train.flops import count_flops

B, H, C = 2, 2, 64
LENGTHS = {"a block less": 17, "a block": 128, "blocks": 300}


def inputs(n: int, *, dtype: type = np.float32, rows: int = B) -> list[jax.Array]:
    rng = np.random.default_rng(n)
    return [jnp.asarray(rng.normal(size=(rows, n, H, C)), dtype) for _ in range(3)]


def hidden(n: int, seen: tuple[int, ...]) -> jax.Array:
    """The bias of texts of these lengths."""
    return jnp.where(np.arange(n)[None] < np.array(seen)[:, None], 0.0, -1e9)[:, None, None]


def with_gradients(attend, q, k, v, weight):
    """Values, and gradients of a weighted sum of them."""
    values, back = jax.vjp(attend, q, k, v)
    return values, *back(weight)


@pytest.mark.parametrize("n", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_for_tpus_is_attention_written_out(n: int, *, causal: bool, masked: bool):
    """Interpreted on the CPU in float32, so that only the order of sums differs."""
    q, k, v = inputs(n)
    bias = hidden(n, (n, 1 + n // 3)) if masked else None
    weight = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)
    rule = Rule(jax.lax.Precision.HIGHEST, causal)
    wanted = with_gradients(lambda *of: written_out(*of, bias, None, rule), q, k, v, weight)
    with pltpu.force_tpu_interpret_mode():
        found = with_gradients(lambda *of: for_tpu(*of, bias, causal=causal), q, k, v, weight)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_a_text_without_any_token_gives_numbers():
    q, k, v = inputs(17)
    with pltpu.force_tpu_interpret_mode():
        found = with_gradients(
            lambda *of: for_tpu(*of, hidden(17, (0, 5)), causal=False), q, k, v, jnp.ones_like(q)
        )
    assert all(np.isfinite(one).all() for one in found)


@pytest.mark.parametrize(
    ("shape", "rows", "is_mapped"),
    [((1, 1, 1), 2, True), ((2, 2, 2), 4, True), ((2, 2, 1), 6, False), ((1, 1, 4), 2, False)],
)
def test_what_the_mesh_does_not_divide_is_written_out(shape, rows: int, *, is_mapped: bool):
    q, k, v = inputs(17, rows=rows)
    with jax.sharding.use_abstract_mesh(AbstractMesh(shape, AXES, AUTO)):
        program = jax.make_jaxpr(lambda *of: fused(*of, None, Rule(None)))(q, k, v)
    assert ("shard_map" in str(program)) is is_mapped


def test_operations_are_those_of_all_devices():
    q, k, v = inputs(17, rows=4)
    bias, rule = hidden(17, (3, 4, 5, 17)), Rule(None)
    wanted = count_flops(lambda *of: written_out(*of, bias, None, rule), q, k, v)
    assert wanted == 2 * 2 * 4 * H * 17 * 17 * C
    with jax.sharding.use_abstract_mesh(AbstractMesh((2, 2, 2), AXES, AUTO)):
        assert count_flops(lambda *of: fused(*of, bias, rule), q, k, v) == wanted


def test_without_a_mesh_nothing_is_mapped():
    program = jax.make_jaxpr(lambda *of: fused(*of, None, Rule(None)))(*inputs(17))
    assert "shard_map" not in str(program)


@pytest.mark.parametrize("causal", [False, True])
def test_on_a_gpu_pictures_are_cudnns(monkeypatch: pytest.MonkeyPatch, *, causal: bool):
    """With JAX's own attention in the place of cuDNN's, which is called in the same way."""
    asked = []
    by_jax = jax.nn.dot_product_attention

    def in_its_place(*of, implementation: str, **keys):
        asked.append(implementation)
        return by_jax(*of, implementation="xla", **keys)

    monkeypatch.setattr(jax.nn, "dot_product_attention", in_its_place)
    q, k, v = inputs(17)
    rule = Rule(jax.lax.Precision.HIGHEST, causal)
    with jax.sharding.use_abstract_mesh(ONE_DEVICE):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        found = jax.jit(lambda *of: fused(*of, None, rule))(q, k, v)
        assert asked == ["cudnn"]
        jax.make_jaxpr(lambda *of: fused(*of, hidden(17, (3, 4)), rule))(q, k, v)
    assert asked == ["cudnn"]  # of texts none
    np.testing.assert_allclose(found, written_out(q, k, v, None, None, rule), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", list(Precision))
def test_only_bfloat16_is_fused(precision: Precision):
    config = TransformerConfig(
        layers=1, width=32, heads=2, mlp=64, precision=precision, attention=AttentionForm.FUSED
    )
    stack, x = Transformer(config), jnp.zeros((2, 5, 32))
    params = stack.init(jax.random.key(0), x)
    with jax.sharding.use_abstract_mesh(ONE_DEVICE):
        program = str(jax.make_jaxpr(stack.apply)(params, x))
    assert ("shard_map" in program) is (precision is Precision.BFLOAT16)


@pytest.mark.parametrize(("m", "is_fused"), [(1, False), (3, True)])
def test_outputs_at_some_tokens_are_taken_from_the_kernel_where_there_are_many(m, *, is_fused):
    """Of one token a row the scores are small; a kernel would work out those of all."""
    stack = TransformerConfig(layers=1, width=32, heads=2, mlp=64, precision=Precision.BFLOAT16)
    fast = dataclasses.replace(stack, attention=AttentionForm.FUSED)
    x, bias = jnp.ones((2, 5, 32)), hidden(5, (5, 3))
    params, wanted = (
        Transformer(stack).init(jax.random.key(0), x),
        jnp.array([[4, 0, 0], [1, 2, 0]]),
    )
    with jax.sharding.use_abstract_mesh(ONE_DEVICE):
        call = functools.partial(Transformer(fast).apply, params)
        program = str(jax.make_jaxpr(call)(x, bias, wanted[:, :m]))
        found = jax.jit(call)(x, bias, wanted[:, :m])
    assert ("shard_map" in program) is is_fused
    plain = jax.jit(Transformer(stack).apply)(params, x, bias, wanted[:, :m])
    np.testing.assert_array_equal(found, plain)


def test_a_beits_relative_bias_is_written_out():
    config = TransformerConfig(
        layers=1,
        width=32,
        heads=2,
        mlp=64,
        relative_bias_side=2,
        precision=Precision.BFLOAT16,
        attention=AttentionForm.FUSED,
    )
    stack, x = Transformer(config), jnp.ones((2, 5, 32))
    params = stack.init(jax.random.key(0), x)
    plain = Transformer(dataclasses.replace(config, attention=AttentionForm.WRITTEN_OUT))
    with jax.sharding.use_abstract_mesh(ONE_DEVICE):
        found = stack.apply(params, x)
    np.testing.assert_array_equal(found, plain.apply(params, x))


@pytest.mark.parametrize("scan", list(Switch))
def test_the_vectors_of_a_fused_model_are_those_of_one_that_is_not(scan: Switch):
    """On a CPU, where both are written out: the same bits, through the encoders' own door."""

    def vectors(form: AttentionForm):
        hardware = HardwareConfig(precision=Precision.BFLOAT16, scan=scan, attention=form)
        model = TwoStream(model_size("tiny-16", hardware, 24), MaskedConfig())
        towers, rng = model.init_towers(jax.random.key(0)), np.random.default_rng(0)
        pictures = jnp.asarray(rng.integers(0, 256, (3, 1, 16, 16, 3)), jnp.uint8)
        texts, lengths = jnp.asarray(rng.integers(5, 24, (3, 8))), jnp.array([8, 3, 5])
        preprocessing = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
        return (
            encode_images(towers, pictures, model, preprocessing),
            encode_texts(towers, texts, lengths, model),
        )

    for one, other in zip(vectors(AttentionForm.FUSED), vectors(AttentionForm.WRITTEN_OUT)):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
